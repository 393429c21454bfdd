"""Runs one function in its container and reports on stdout, in frames.

Inputs come on stdin until its end and become /tmp/inputs.json; with --parked after 8 bytes of
big-endian length, so that nothing has to be closed for them to be whole. The function runs as
`python user_function.py` in /app, as with a plain `docker run` of the image. What it
writes, how it ended and its /tmp/output.json go out as frames:

    1 byte kind, 4 bytes big-endian length, payload

    w      parked: who owns the code's file, its mode and its content, in words
    s      parked: the function starts; the SHA-256 of its code
    o, e   bytes of the function's stdout, stderr
    x      its exit code in decimal; negative: the signal that ended it
    r      the result, the bytes of /tmp/output.json
    p      why there is none: output-missing, output-too-large, output-not-a-file

With --parked the function's interpreter is started first and waits (see park.py) until inputs
have come, which says that the code is in its place too. Without inputs, or with a part of them,
nothing is run. After a success this waits until stdin ends: a container's end costs the machine
time, which is better spent on keeping the result. Or, where the function wants that, `a` comes on
stdin for another turn: then what the last one left is cleared away, and all begins again from `w`.

Standard library only, Python 3.9 and later. The function's user is this process's own,
so nothing here is a boundary: the container is.

It starts with each container, so it imports little: argparse, subprocess, threading, selectors, shutil, hashlib
and signal would take more of a core than all else that a short function needs.
"""

import _signal
import errno
import os
import select
import stat
import sys
import time

try:
    from _sha2 import sha256
except ImportError:
    # Before Python 3.12.
    from _sha256 import sha256

INPUTS = "/tmp/inputs.json"
OUTPUT = "/tmp/output.json"
COMMAND = ["python", "user_function.py"]
DIRECTORY = "/app"
CODE = "/app/user_function.py"
# As in park.py.
GATE = "/tmp/.mecapy-gate"
IMPORTS = "/tmp/.mecapy-imports"
NOTICEABLE = 75
ANOTHER_TURN = b"a"
# All that a function can write to.
WRITABLE = ("/tmp", "/dev/shm", "/dev/mqueue")
# What outlives its processes without a name in any folder: the kernel lists it here, below a line of titles.
SYSV = ("/proc/sysvipc/shm", "/proc/sysvipc/msg", "/proc/sysvipc/sem")
# Of a child that has not come to the gate yet, or to its end.
LOOK_EVERY_SECONDS = 0.002
GONE_WITHIN_SECONDS = 5
PIECE_BYTES = 64 * 1024
LENGTH_BYTES = 8
# More than a pipe can hold: what the function itself wrote before its end is within it.
REMAINDER_BYTES = 1024 * 1024


class Function:
    """The process of the function, and its streams."""

    def __init__(self, pid, stdout, stderr):
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        # Negative: the signal that ended it. None: it runs.
        self.returncode = None

    def has_ended(self, options=os.WNOHANG):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode is not None

    def kill(self):
        os.kill(self.pid, _signal.SIGKILL)
        self.has_ended(0)
        os.close(self.stdout)
        os.close(self.stderr)


def main(arguments):
    parked, imports, output_limit = False, "", 10 * 1024 * 1024
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name == "--parked":
            parked = True
        elif name == "--import":
            imports = value
        elif name == "--output-limit":
            output_limit = int(value)
        else:
            sys.exit("usage: runner.py [--output-limit=BYTES] [--parked] [--import=NAMES]")

    if not parked:
        take_inputs()
        run_and_tell(start(), output_limit)
        return
    imports = imports.split(",")
    while take_turn(imports, output_limit) and os.read(0, 1) == ANOTHER_TURN:
        clear()


def take_turn(imports, output_limit):
    """Whether there was one, and it ended well."""
    function, gate = park(imports)
    frame(b"w", describe_code())
    if not take_measured_inputs():
        # Who parked it has gone away.
        os.killpg(function.pid, _signal.SIGKILL)
        return False
    frame(b"s", code_sha256())
    # It fails when the child has ended meanwhile: then nothing was run, and this ends without a word.
    os.write(gate, b"g")
    os.close(gate)
    return run_and_tell(function, output_limit) == 0


def run_and_tell(function, output_limit):
    """Returns its exit code."""
    exit_code = run(function)
    frame(b"x", str(exit_code).encode())
    kind, payload = read_output(output_limit)
    frame(kind, payload)
    return exit_code


def clear():
    """Ends and removes what the function left. What can't be removed ends this, and the container with it."""
    end_all()
    for folder in filter(os.path.isdir, WRITABLE):
        empty(folder)
    for path in filter(os.path.exists, SYSV):
        with open(path, "rb") as listed:
            if len(listed.readlines()) > 1:
                sys.exit("the function left something in %s" % path)


def end_all():
    """Everything in this container but its first process and the caller, which Linux spares. Until it has come to its end,
    what is killed is seen, keeps its memory, and may still be given the file that it asked for."""
    until = time.monotonic() + GONE_WITHIN_SECONDS
    while time.monotonic() < until:
        try:
            os.kill(-1, _signal.SIGKILL)
        except ProcessLookupError:
            return
        time.sleep(LOOK_EVERY_SECONDS)
    sys.exit("what the function left does not end")


def empty(folder):
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                os.chmod(entry.path, 0o700)
                empty(entry.path)
                os.rmdir(entry.path)
            else:
                os.unlink(entry.path)


def take_inputs():
    with open_inputs() as inputs:
        while piece := os.read(0, PIECE_BYTES):
            inputs.write(piece)


def take_measured_inputs():
    """False: there are none, or not all came."""
    header = b""
    while len(header) < LENGTH_BYTES:
        piece = os.read(0, LENGTH_BYTES - len(header))
        if not piece:
            return False
        header += piece
    left = whole = int.from_bytes(header, "big")
    with open_inputs() as inputs:
        while left:
            piece = os.read(0, min(left, PIECE_BYTES))
            if not piece:
                return False
            inputs.write(piece)
            left -= len(piece)
    return whole > 0


def open_inputs():
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(INPUTS, flags, 0o644), "wb")


def park(imports):
    """Starts the function's interpreter up to where it would open its script. Returns it, and what
    lets it go on when `g` is written to it. `imports` are empty afterwards where they can't be done ahead: they are
    not tried again at the next turn."""
    while True:
        names = "\n".join(imports).strip()
        os.mkfifo(GATE, 0o600)
        if names:
            with open(IMPORTS, "w", encoding="utf-8") as file:
                file.write(names)
        function = start()
        gate = open_gate(function)
        os.unlink(GATE)
        if names:
            os.unlink(IMPORTS)
        if gate is not None:
            if not names or not has_spoken(function):
                return function, gate
            # An import wrote something, which the function perhaps never imports.
            os.close(gate)
            function.kill()
        elif not names or function.returncode != NOTICEABLE:
            sys.exit("the interpreter can't be parked: it ended with %s" % function.returncode)
        else:
            os.close(function.stdout)
            os.close(function.stderr)
        imports.clear()


def open_gate(function):
    """Waits until the interpreter is at the gate. None: it has ended."""
    while True:
        try:
            return os.open(GATE, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        if function.has_ended():
            return None
        time.sleep(LOOK_EVERY_SECONDS)


def has_spoken(function):
    poll = select.poll()
    poll.register(function.stdout, select.POLLIN)
    poll.register(function.stderr, select.POLLIN)
    return bool(poll.poll(0))


def describe_code():
    found = os.lstat(CODE)
    with open(CODE, "rb") as code:
        content = code.read(1024)
    words = "%d:%d %o " % (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))
    return words.encode() + content


def code_sha256():
    with open(CODE, "rb") as code:
        return sha256(code.read()).hexdigest().encode()


def start():
    os.chdir(DIRECTORY)
    stdout, its_stdout = os.pipe()
    stderr, its_stderr = os.pipe()
    pid = os.posix_spawnp(
        COMMAND[0],
        COMMAND,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, its_stdout, 1),
            (os.POSIX_SPAWN_DUP2, its_stderr, 2),
        ],
        setsid=True,
        # This interpreter ignores them, and the function's would inherit it.
        setsigdef=[_signal.SIGPIPE, _signal.SIGXFSZ],
    )
    os.close(its_stdout)
    os.close(its_stderr)
    prefer_for_oom(pid)
    return Function(pid, stdout, stderr)


def run(function):
    """Sees the function to its end, relays its streams, and returns its exit code."""
    # The streams may stay open after the function's end, held by a process that it left. So
    # its end is waited for beside them, and wakes the loop up through a pipe of its own.
    ended, end = os.pipe()
    os.set_blocking(end, False)
    _signal.signal(_signal.SIGCHLD, lambda number, frame: None)
    _signal.set_wakeup_fd(end, warn_on_full_buffer=False)

    streams = {function.stdout: b"o", function.stderr: b"e"}
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    for stream in streams:
        os.set_blocking(stream, False)
        poll.register(stream, select.POLLIN)
    while not function.has_ended():
        for ready, _ in poll.poll():
            if ready == ended:
                os.read(ended, PIECE_BYTES)
            elif not relay(ready, streams[ready]):
                poll.unregister(ready)

    try:
        # Its process group, by the number that was its own: all that it started and left there.
        os.killpg(function.pid, _signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    # What was written before the end is in the pipes now; one who escaped the kill could go
    # on for ever, and is not waited for.
    for stream, kind in streams.items():
        for _ in range(REMAINDER_BYTES // PIECE_BYTES):
            if not relay(stream, kind):
                break
    _signal.set_wakeup_fd(-1)
    for descriptor in (ended, end, *streams):
        os.close(descriptor)
    return function.returncode


def relay(stream, kind):
    """Passes on what is there. False: nothing more is there now, or ever."""
    try:
        piece = os.read(stream, PIECE_BYTES)
    except BlockingIOError:
        return False
    if piece:
        frame(kind, piece)
    return bool(piece)


def prefer_for_oom(pid):
    """When memory runs out, the kernel takes the function and not this process, which tells."""
    try:
        with open("/proc/%d/oom_score_adj" % pid, "w") as score:
            score.write("1000")
    except OSError:
        pass


def read_output(limit):
    """The result's frame. The path is the function's to choose: a link leads nowhere, a FIFO or
    device is not waited for, and nothing over the limit is read."""
    try:
        output = os.open(OUTPUT, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return b"p", b"output-missing"
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EACCES, errno.ENXIO, errno.EPERM):
            return b"p", b"output-not-a-file"
        raise
    if not stat.S_ISREG(os.fstat(output).st_mode):
        return b"p", b"output-not-a-file"
    with os.fdopen(output, "rb") as file:
        # By reading, not by its size: whoever still runs could let it grow.
        result = file.read(limit + 1)
    if len(result) > limit:
        return b"p", b"output-too-large"
    return b"r", result


def frame(kind, payload):
    write(kind + len(payload).to_bytes(4, "big"))
    write(payload)


def write(data):
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


if __name__ == "__main__":
    main(sys.argv[1:])
