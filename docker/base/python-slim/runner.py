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
nothing is run. After a success this waits until it is removed, or stdin ends: a container's end
costs the machine time, which is better spent on keeping the result.

Standard library only, Python 3.9 and later. The function's user is this process's own,
so nothing here is a boundary: the container is.
"""

import argparse
import errno
import hashlib
import os
import selectors
import shutil
import signal
import stat
import struct
import subprocess
import sys
import threading
import time

INPUTS = "/tmp/inputs.json"
OUTPUT = "/tmp/output.json"
COMMAND = ["python", "user_function.py"]
DIRECTORY = "/app"
CODE = "/app/user_function.py"
# As in park.py.
GATE = "/tmp/.mecapy-gate"
IMPORTS = "/tmp/.mecapy-imports"
NOTICEABLE = 75
# Of a child that has not come to the gate yet.
LOOK_EVERY_SECONDS = 0.002
PIECE_BYTES = 64 * 1024
LENGTH_BYTES = 8
# More than a pipe can hold: what the function itself wrote before its end is within it.
REMAINDER_BYTES = 1024 * 1024


def main(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--output-limit", type=int, default=10 * 1024 * 1024, metavar="BYTES")
    parser.add_argument("--parked", action="store_true")
    parser.add_argument("--import", dest="imports", default="", metavar="NAMES")
    options = parser.parse_args(argv)

    if options.parked:
        function, gate = park(options.imports.split(","))
        frame(b"w", describe_code())
        if not take_measured_inputs():
            # Who parked it has gone away.
            os.killpg(function.pid, signal.SIGKILL)
            return
        frame(b"s", code_sha256())
        # It fails when the child has ended meanwhile: then nothing was run, and this ends without a word.
        os.write(gate, b"g")
        os.close(gate)
    else:
        take_inputs()
        function = start()
    exit_code = run(function)
    frame(b"x", str(exit_code).encode())
    kind, payload = read_output(options.output_limit)
    frame(kind, payload)
    if options.parked and exit_code == 0:
        while os.read(0, PIECE_BYTES):
            pass


def take_inputs():
    with open_inputs() as inputs:
        shutil.copyfileobj(sys.stdin.buffer, inputs, PIECE_BYTES)


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
    lets it go on when `g` is written to it."""
    imports = "\n".join(imports).strip()
    while True:
        os.mkfifo(GATE, 0o600)
        if imports:
            with open(IMPORTS, "w", encoding="utf-8") as file:
                file.write(imports)
        function = start()
        gate = open_gate(function)
        os.unlink(GATE)
        if imports:
            os.unlink(IMPORTS)
        if gate is not None:
            if not imports or not has_spoken(function):
                return function, gate
            # An import wrote something, which the function perhaps never imports.
            os.close(gate)
            function.kill()
            function.wait()
        elif not imports or function.returncode != NOTICEABLE:
            sys.exit("the interpreter can't be parked: it ended with %s" % function.returncode)
        imports = ""


def open_gate(function):
    """Waits until the interpreter is at the gate. None: it has ended."""
    while True:
        try:
            return os.open(GATE, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        if function.poll() is not None:
            return None
        time.sleep(LOOK_EVERY_SECONDS)


def has_spoken(function):
    with selectors.DefaultSelector() as selector:
        for stream in (function.stdout, function.stderr):
            selector.register(stream, selectors.EVENT_READ)
        return bool(selector.select(0))


def describe_code():
    found = os.lstat(CODE)
    with open(CODE, "rb") as code:
        content = code.read(1024)
    words = "%d:%d %o " % (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))
    return words.encode() + content


def code_sha256():
    with open(CODE, "rb") as code:
        return hashlib.sha256(code.read()).hexdigest().encode()


def start():
    function = subprocess.Popen(
        COMMAND,
        cwd=DIRECTORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    prefer_for_oom(function.pid)
    return function


def run(function):
    """Sees the function to its end, relays its streams, and returns its exit code."""
    # The streams may stay open after the function's end, held by a process that it left. So
    # its end is waited for beside them, and wakes the loop up through a pipe of its own.
    ended, end = os.pipe()

    def wait():
        function.wait()
        os.close(end)

    threading.Thread(target=wait, daemon=True).start()

    with selectors.DefaultSelector() as selector:
        for stream, kind in ((function.stdout, b"o"), (function.stderr, b"e")):
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, selectors.EVENT_READ, kind)
        selector.register(ended, selectors.EVENT_READ, None)
        running = True
        while running:
            for key, _ in selector.select():
                if key.data is None:
                    running = False
                elif not relay(key.fileobj, key.data):
                    selector.unregister(key.fileobj)

    try:
        # Its process group, by the number that was its own: all that it started and left there.
        os.killpg(function.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    # What was written before the end is in the pipes now; one who escaped the kill could go
    # on for ever, and is not waited for.
    for stream, kind in ((function.stdout, b"o"), (function.stderr, b"e")):
        for _ in range(REMAINDER_BYTES // PIECE_BYTES):
            if not relay(stream, kind):
                break
    return function.returncode


def relay(stream, kind):
    """Passes on what is there. False: nothing more is there now, or ever."""
    try:
        piece = os.read(stream.fileno(), PIECE_BYTES)
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
    write(kind + struct.pack(">I", len(payload)))
    write(payload)


def write(data):
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


if __name__ == "__main__":
    main()
