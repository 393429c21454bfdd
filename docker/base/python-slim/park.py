"""Holds an interpreter that was started ahead, until there is a function for it to run.

A line of a .pth file calls wait() at each start of the environment's Python. It does nothing, unless
the runner has laid out a gate: a FIFO, which it takes away before any function runs. So the parked
interpreter is `python user_function.py` itself, stopped at the last moment before it opens its script;
whatever the function then sees of argv, __main__, flags and paths is Python's own doing.
"""

import atexit
import gc
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
    ahead = {}
    # Registered before anything is imported, so that it is called after all that the imports register.
    atexit.register(leave_standing, ahead)
    known = set(sys.modules)
    import_ahead()
    ahead.update((name, sys.modules[name]) for name in set(sys.modules) - known)
    if ahead:
        freeze(ahead)
    gate = os.open(GATE, os.O_RDONLY | os.O_CLOEXEC)
    if os.read(gate, 1) != b"g":
        # The runner is gone.
        os._exit(1)
    os.close(gate)


def freeze(ahead):
    """Puts all that is there out of the garbage collector's reach, and with it these modules for good."""
    ahead[""] = ahead
    gc.collect()
    gc.freeze()
    # Cycles through what is frozen are never collected. The function's globals must be, so it gets new ones.
    was = sys.modules["__main__"]
    main = sys.modules["__main__"] = type(sys)("__main__")
    vars(main).update(vars(was))


def leave_standing(ahead):
    """Keeps the modules that were imported ahead out of the interpreter's end.

    Taking numpy and scipy apart, object by object, takes longer than most functions, and what it frees
    the kernel takes back at once. Exit handlers have been called by then. What only the end itself would still do
    for the function is to write what stands in the buffer of a file that it left open: with one, all ends as ever.
    """
    if not ahead:
        return
    try:
        ends_as_ever = has_open_files()
    except OSError:
        # Out of descriptors, for one.
        ends_as_ever = True
    if ends_as_ever:
        gc.unfreeze()
        return
    for name, module in ahead.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]


def has_open_files():
    """Whether anything but the standard streams is open for writing."""
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            with open("/proc/self/fdinfo/" + descriptor) as info:
                flags = next(int(line[6:], 8) for line in info if line.startswith("flags:"))
        except FileNotFoundError:
            # The one by which the folder was read.
            continue
        if int(descriptor) > 2 and flags & os.O_ACCMODE != os.O_RDONLY:
            return True
    return False


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
