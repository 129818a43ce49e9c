"""redis-server, with fresh data on a free port of the loopback."""

import signal
import time

import redis

from procs import Process, free_port


class RedisServer:
    def __init__(self, folder, appendonly=False, extra=(), env=None):
        self.folder, self.appendonly, self.extra, self.env = folder, appendonly, extra, env
        folder.mkdir(parents=True, exist_ok=True)
        self.process = None
        self.start()

    def start(self):
        """Starts it, or starts it again with the data that it had, on the same port."""
        again = self.process is not None
        for _ in range(5):
            if not again:
                self.port = free_port()
            argv = ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--dir", self.folder, "--save", "", "--databases", "256"]
            argv += ["--appendonly", "yes" if self.appendonly else "no", "--appendfsync", "everysec", *self.extra]
            self.process = Process(argv, self.folder / "redis.log", env=self.env)
            if self._answers():
                return self
            self.process.kill()
        raise AssertionError(f"redis-server does not start:\n{self.process.text()[-2000:]}")

    def _answers(self):
        client = self.client()
        until = time.monotonic() + 15
        while time.monotonic() < until and self.process.alive():
            try:
                # Another server may have taken the port since it was free.
                return client.info("server")["process_id"] == self.process.pid
            except (redis.ConnectionError, redis.BusyLoadingError, redis.TimeoutError):
                time.sleep(0.02)
        return False

    def client(self, db=0):
        return redis.Redis(host="127.0.0.1", port=self.port, db=db, socket_timeout=5)

    def url(self, db=0):
        return f"redis://127.0.0.1:{self.port}/{db}"

    def kill(self):
        self.process.kill()

    def freeze(self):
        self.process.signal(signal.SIGSTOP)

    def thaw(self):
        self.process.signal(signal.SIGCONT)

    def stop(self):
        self.process.kill()


class Sentinel:
    """A sentinel that watches a server under the name `lab`, and makes its replica the master when it is gone."""

    def __init__(self, folder, master):
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        settings = [f"monitor lab 127.0.0.1 {master.port} 1", "down-after-milliseconds lab 500", "failover-timeout lab 3000"]
        (folder / "sentinel.conf").write_text("".join(f"sentinel {line}\n" for line in settings))
        argv = ["redis-server", folder / "sentinel.conf", "--sentinel", "--port", self.port, "--bind", "127.0.0.1", "--dir", folder]
        self.process = Process(argv, folder / "sentinel.log")
        self.client = redis.Redis(host="127.0.0.1", port=self.port, socket_timeout=5)

    def url(self, db=0):
        return f"sentinel://127.0.0.1:{self.port}/{db}?master_name=lab"

    def knows(self):
        """The port of the master, and how many replicas it is known to have; None as long as nobody answers."""
        try:
            return self.client.sentinel_master("lab")["port"], len(self.client.sentinel_slaves("lab"))
        except redis.RedisError:
            return None

    def stop(self):
        self.process.kill()
