"""Holds an interpreter that was started ahead, until there is a function for it to run.

A line of a .pth file calls wait() at each start of the environment's Python. It does nothing, unless
the runner has laid out a gate: a FIFO, which it takes away before any function runs. So the parked
interpreter is `python user_function.py` itself, stopped at the last moment before it opens its script;
whatever the function then sees of argv, __main__, flags and paths is Python's own doing.
"""

import os
import stat
import sys

GATE = "/tmp/.mecapy-gate"
# Names of modules that are imported while there is time, one a line.
IMPORTS = "/tmp/.mecapy-imports"
# An import did what the function could notice. The runner starts again without imports.
NOTICEABLE = 75


def wait():
    try:
        if not stat.S_ISFIFO(os.lstat(GATE).st_mode):
            return
    except OSError:
        return
    import_ahead()
    gate = os.open(GATE, os.O_RDONLY | os.O_CLOEXEC)
    if os.read(gate, 1) != b"g":
        # The runner is gone.
        os._exit(1)
    os.close(gate)


def import_ahead():
    try:
        with open(IMPORTS, encoding="utf-8") as file:
            names = file.read().split()
    except OSError:
        return
    before = surroundings()
    for name in names:
        try:
            __import__(name)
        except BaseException:
            # It is the function's to see, when it imports it.
            pass
    if surroundings() != before:
        os._exit(NOTICEABLE)


def surroundings():
    """What an import may change and a function can notice."""
    import _locale
    import _signal
    import _thread

    mask = os.umask(0o22)
    os.umask(mask)
    return (
        [_signal.getsignal(number) for number in sorted(_signal.valid_signals())],
        _locale.setlocale(_locale.LC_ALL),
        _thread._count(),
        os.getcwd(),
        dict(os.environ),
        mask,
        list(sys.path),
        list(sys.argv) if hasattr(sys, "argv") else None,
        (sys.stdin, sys.stdout, sys.stderr, sys.excepthook, sys.displayhook),
        sys.gettrace(),
        sys.getrecursionlimit(),
        sorted(os.listdir("/tmp")),
    )
