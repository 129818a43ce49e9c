"""A Redis of one's own, asked without a library."""
import re
import shutil
import socket
import subprocess
import tempfile
import time


class Server:
    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.directory = tempfile.mkdtemp()
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self.directory, "--maxclients", "15000"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.pid, self.url = self.process.pid, f"redis://127.0.0.1:{self.port}/0"
        for _ in range(100):
            try:
                self.socket = socket.create_connection(("127.0.0.1", self.port))
                break
            except OSError:
                time.sleep(0.05)
        self.file = self.socket.makefile("rb")

    def text(self, *words):
        """The answer, where it is a text."""
        parts = [f"*{len(words)}\r\n"] + [f"${len(word)}\r\n{word}\r\n" for word in words]
        self.socket.sendall("".join(parts).encode())
        line = self.file.readline().decode()
        length = int(line[1:]) if line.startswith("$") else -1
        return self.file.read(length + 2)[:-2].decode() if length >= 0 else ""

    def calls(self):
        """How often each command was called, those inside of scripts included; not counting what is asked here."""
        lines = re.findall(r"cmdstat_([^:]+):calls=(\d+)", self.text("INFO", "commandstats"))
        return {name: int(calls) for name, calls in lines if name not in ("info", "hello")}

    def end(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.directory)
