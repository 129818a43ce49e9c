"""A clock of the day that can be set, for programs that are started with it."""

import struct
import subprocess

from lab import HERE


class Clock:
    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        shim, self.file = folder / "clock.so", folder / "clock"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", shim, HERE / "clock.c", "-ldl"], check=True)
        self.set(0)
        self.env = {"LD_PRELOAD": str(shim), "LAB_CLOCK": str(self.file)}

    def set(self, seconds):
        """So many seconds ahead of what it is."""
        with open(self.file, "r+b" if self.file.exists() else "wb") as file:
            file.write(struct.pack("q", int(seconds * 1_000_000)))
