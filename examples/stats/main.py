"""Describes a series of numbers.

Inputs:  {"values": [1, 2, 3.5], "percentiles": [50, 95]}
Output:  {"count": 3, "mean": 2.1667, "deviation": 1.0274, "percentiles": {"50": 2.0, "95": 3.35}}
"""

import json

import numpy


def describe(values, percentiles):
    series = numpy.asarray(values, dtype=float)
    if series.size == 0:
        raise ValueError("values is empty")
    return {
        "count": int(series.size),
        "mean": round(float(series.mean()), 4),
        "deviation": round(float(series.std()), 4),
        "percentiles": {
            str(p): round(float(numpy.percentile(series, p)), 4) for p in percentiles
        },
    }


def main():
    with open("/inputs.json") as file:
        inputs = json.load(file)
    result = describe(inputs["values"], inputs.get("percentiles", [50, 95, 99]))
    with open("/output.json", "w") as file:
        json.dump(result, file)
    print(f"described {result['count']} values with numpy {numpy.__version__}")


if __name__ == "__main__":
    main()
