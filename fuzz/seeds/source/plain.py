import json
from math import sqrt


def solve(a, b=1, *args, c: int = 2, **kwargs) -> float:
    """A string."""
    with open("/inputs.json") as file:
        values = [sqrt(x) for x in json.load(file) if x > 0]
    match values:
        case [first, *rest] if first:
            return f"{first!r:>{b}}"
        case {"a": x, **other}:
            return lambda y, /, z=1: (yield)
    try:
        del values[0]
    except* (OSError, ValueError) as error:
        raise error from None
    finally:
        async def f():
            async for i in g(): await i
    return 0x_ff + 1_0.5e-3j


type X[T: int] = list[T]
