"""Runs a script in which the code of packages may run: as a user whom nothing else on this machine runs as, who gets
no rights, and whose processes are counted. When it ends, they end.

    confined.py PROCESSES SCRIPT

The limit on a step's processes comes a moment after its start. This one is there before the first of them: the kernel's
for a user (RLIMIT_NPROC), which counts all that he runs on the machine, and root's not at all. Hence a user of its own
for each step.
"""
import ctypes
import os
import resource
import signal
import subprocess
import sys

PR_SET_NO_NEW_PRIVS = 38
FIRST, COUNT = 20000, 40000  # Within what an engine with a user namespace maps.
OWNER = 1000  # Of the environment in the base image.
HOME = "/tmp/mecapy-home"


def give(owner, *folders):
    subprocess.run(["/bin/chown", "-hR", f"{owner}:{owner}", *folders], check=True)


def confine():
    resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
    if ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError("no_new_privs can't be set")


processes, script = int(sys.argv[1]), sys.argv[2]
user = FIRST + int.from_bytes(os.urandom(4), "big") % COUNT
os.mkdir(HOME, 0o700)
give(user, HOME, "/mecapy-build", "/opt/venv")
environment = dict(os.environ, HOME=HOME, TMPDIR=HOME)
ended = subprocess.run(
    ["/bin/sh", script], user=user, group=user, extra_groups=[], preexec_fn=confine, env=environment
)
try:
    os.kill(-1, signal.SIGKILL)  # All but this process, which is the container's first.
except ProcessLookupError:
    pass  # There is none.
give(OWNER, "/opt/venv")
sys.exit(ended.returncode if ended.returncode >= 0 else 128 - ended.returncode)
