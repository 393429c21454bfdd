"""Reads an HTTP response, with a release of h11 that has a CRITICAL advisory.

h11 before 0.16 accepts malformed chunk ends, which lets requests be smuggled
(CVE-2025-43859). So this function is built, scanned and rejected: it never runs.
"""

import json

import h11


def main():
    with open("/inputs.json") as file:
        raw = json.load(file)["response"].encode()
    connection = h11.Connection(our_role=h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "example.org")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    with open("/output.json", "w") as file:
        json.dump({"status": connection.next_event().status_code}, file)


if __name__ == "__main__":
    main()
