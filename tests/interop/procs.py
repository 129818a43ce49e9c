"""Programs that the tests start: each in a process group of its own, which ends with its fixture, with pytest, and also when pytest is killed."""

import atexit
import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
_LIVING = set()


def die_with_parent(parent=None):
    """Asks the kernel to kill this process when its parent ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def eventually(what, seconds=10.0, step=0.02):
    """Waits until `what()` is true, and gives what it answered; None if it never was."""
    until = time.monotonic() + seconds
    while True:
        answer = what()
        if answer:
            return answer
        if time.monotonic() > until:
            return None
        time.sleep(step)


class Process:
    """A running program, its output in a file."""

    def __init__(self, argv, log, env=None, cwd=None, name=None):
        self.argv, self.name, self.log = [str(word) for word in argv], name or os.path.basename(str(argv[0])), Path(log)
        me = os.getpid()
        with open(self.log, "ab") as out:
            self.popen = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(me),
            )
        _LIVING.add(self)

    @property
    def pid(self):
        return self.popen.pid

    def alive(self):
        return self.popen.poll() is None

    def text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_for(self, pattern, seconds=30.0):
        """Waits for a line of its output."""
        found = eventually(lambda: re.search(pattern, self.text()) or not self.alive(), seconds)
        if not re.search(pattern, self.text()):
            why = f"ended with {self.popen.returncode}" if not self.alive() else f"did not say /{pattern}/ within {seconds} s"
            raise AssertionError(f"{self.name} {why}:\n{self.text()[-4000:]}")
        return found

    def signal(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def signal_group(self, number):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def wait(self, seconds=20.0):
        """Its exit code; None if it has not ended by then."""
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self):
        """kill -9, for it and what it started."""
        self.signal_group(signal.SIGKILL)
        self.popen.wait()
        _LIVING.discard(self)

    def stop(self, seconds=10.0):
        """Asks it to end, and sees to it that it does. Its exit code; None if it had to be killed."""
        if self.alive():
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
        code = self.wait(seconds)
        self.kill()
        return code


@atexit.register
def _end_everything():
    for process in list(_LIVING):
        process.kill()
