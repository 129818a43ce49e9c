"""A lab: a database of a redis-server, an application that sends to it, and the workers that serve it."""

import datetime
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import labapp
from procs import Process, eventually

HERE = Path(__file__).parent
LABAPP = os.environ.get("LONGSHORE_LABAPP", "")
# The same program of an earlier commit, for a rolling upgrade.
OLD_LABAPP = os.environ.get("LONGSHORE_OLD_LABAPP", "")
LONG = os.environ.get("LONGSHORE_INTEROP_LONG", "") not in ("", "0")


def pick(short, long):
    """A number for each test run, and another one for the thorough ones."""
    return long if LONG else short


def inline(to):
    """A route as it stands in our configuration."""
    return "{ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in to.items()) + " }" if isinstance(to, dict) else json.dumps(to)


class Worker:
    """A worker process; `kind` says whose."""

    def __init__(self, lab, kind, name=None, queues="celery", concurrency=2, pool="prefork", conf=None, flags=(), python=None, wait=True,
                 visibility_timeout=None, lease=None, broker=None, results=None, env=None, routes=None, config="", program=None):
        self.lab, self.kind = lab, kind
        self.node = f"{name or f'{kind}{len(lab.workers) + 1}'}@lab"
        log = lab.folder / f"{self.node}-{len(lab.workers)}.log"
        broker, results = broker or lab.broker_url, results or lab.results_url
        if kind == "python":
            conf = {**lab.conf, **(conf or {}), **({"task_routes": routes} if routes else {})}
            if visibility_timeout is not None:
                conf["broker_transport_options"] = {**conf.get("broker_transport_options", {}), "visibility_timeout": visibility_timeout}
            env = {"LAB_BROKER": broker, "LAB_RESULTS": results, "LAB_CONF": json.dumps(conf), **(env or {})}
            argv = [python or sys.executable, "-m", "celery", "-A", "labapp", "worker", "-l", "info", "-n", self.node, "-Q", queues, "-c", concurrency]
            argv += ["-P", pool, "--without-mingle", *flags]
            self.ready = r"\bready\."
        else:
            argv, env = [program or LABAPP, "worker", "-l", "info", "-n", self.node, "-Q", queues, "-c", concurrency], env
            # As many on each lane, so that no task finds room where a Python worker had none.
            argv += ["--lane", f"async={concurrency}"]
            argv += ["--broker", broker, "--results", results]
            if visibility_timeout is not None:
                argv += ["--visibility-timeout", f"{visibility_timeout}s"]
            if lease is not None:
                argv += ["--lease", f"{lease}s"]
            argv += flags
            if routes or config:
                file = lab.folder / f"{self.node}-{len(lab.workers)}.toml"
                file.write_text(config + "[routes]\n" + "".join(f"{json.dumps(task)} = {inline(to)}\n" for task, to in (routes or {}).items()))
                env = {"LONGSHORE_CONFIG": str(file), **(env or {})}
            self.ready = r"\bready\b"
        self.process = Process(argv, log, env=env, cwd=HERE, name=self.node)
        if wait:
            self.wait_ready()

    def wait_ready(self, seconds=30.0):
        self.process.wait_for(self.ready, seconds)
        return self

    @property
    def pid(self):
        return self.process.pid

    def text(self):
        return self.process.text()

    def alive(self):
        return self.process.alive()

    def stop(self, seconds=15.0):
        return self.process.stop(seconds)

    def kill(self):
        self.process.kill()

    def terminate(self):
        self.process.signal(signal.SIGTERM)

    def freeze(self):
        self.process.signal_group(signal.SIGSTOP)

    def thaw(self):
        self.process.signal_group(signal.SIGCONT)


class Lab:
    # An ETA so far ahead is held by the worker.
    held = datetime.timedelta(hours=1)
    # How a task is sent that its worker finds expired, at once or when it is due.
    expired, overdue = {"expires": -1}, {"countdown": 0.5, "expires": 0.2}

    def __init__(self, server, db, folder, kind=None, conf=None, broker=None, results=None):
        self.server, self.db, self.folder, self.kind, self.conf = server, db, folder, kind, conf or {}
        folder.mkdir(parents=True, exist_ok=True)
        self.broker_url, self.results_url = broker or server.url(db), results or server.url(db)
        self.workers = []
        self.app = labapp.make_app(self.broker_url, self.results_url, self.conf)
        self.redis = server.client(db)
        self.made = 0

    def __getattr__(self, name):
        """The tasks of the application: `lab.add`."""
        if name in ("app", "workers"):
            raise AttributeError(name)
        return self.app.lab[name]

    def use(self):
        """Makes its application the one that signatures find."""
        self.app.set_current()
        self.app.set_default()
        return self

    def worker(self, kind=None, **options):
        worker = Worker(self, kind or self.kind, **options)
        self.workers.append(worker)
        return worker

    def staff(self, **options):
        """The workers that a kind stands for."""
        kinds = ["python", "longshore"] if self.kind == "mixed" else [self.kind]
        workers = [self.worker(kind, wait=False, **options) for kind in kinds]
        for worker in workers:
            worker.wait_ready()
        return workers

    def env(self):
        """What the module `labapp` is told, for a program of Celery's."""
        return {"LAB_BROKER": self.broker_url, "LAB_RESULTS": self.results_url, "LAB_CONF": json.dumps(self.conf)}

    def listeners(self):
        """How many listen to events."""
        return self.redis.pubsub_numpat()

    def broker(self):
        """Scheme, host and port of the broker."""
        return "redis", "127.0.0.1", self.server.port

    def path(self, stem="marks"):
        """A new file for tasks to write to."""
        self.made += 1
        return str(self.folder / f"{stem}-{self.made}")

    @staticmethod
    def marks(path):
        """The lines that tasks wrote."""
        return [line.split(" ") for line in Path(path).read_text().splitlines()] if Path(path).exists() else []

    def starts(self, path):
        """How often each tag was started."""
        return Counter(words[1] for words in self.marks(path) if words[0] == "start")

    def left(self, chords=True):
        """What lies in the broker: queues, messages that nobody acknowledged, and (with `chords`) keys of chords that are not over."""
        left = {}
        for key in self.redis.keys("*"):
            name = key.decode(errors="replace")
            if name.startswith(("celery-task-meta-", "_kombu.", "longshore:", "unacked_mutex")):
                continue
            if name.endswith(".reply.celery.pidbox"):
                continue
            if name.startswith("celery-taskset-meta-") and not chords:
                continue
            # Also what came of it late: a part of a chord that is over is kept, because the chord may be on its way again.
            if name.startswith("celery-taskset-meta-") and self.redis.get(key[:-2] + b".c") == b"done":
                continue
            kind = self.redis.type(key).decode()
            size = {"list": self.redis.llen, "hash": self.redis.hlen, "zset": self.redis.zcard, "set": self.redis.scard}.get(kind, lambda _: 1)(key)
            left[name] = size
        return left

    def wait_empty(self, seconds=10.0, chords=True):
        """Waits until nothing lies in the broker any more; what does, if it never is so."""

        def empty():
            # Twice: between its BRPOP and what it does next, a message is in nobody's hands with Celery's own worker.
            return not self.left(chords) and not time.sleep(0.03) and not self.left(chords)

        return {} if eventually(empty, seconds, 0.02) else self.left(chords)

    def forget_chords(self):
        """Removes the keys of chords. Celery leaves those of chords that failed, until they expire."""
        for key in self.redis.keys("celery-taskset-meta-*"):
            self.redis.delete(key)

    def dead(self):
        """longshore's dead letters, by queue, the junk among them."""
        letters = {}
        for begin in ("longshore:dead:", "longshore:junk:"):
            for key in self.redis.keys(begin + "*"):
                letters.setdefault(key.decode().removeprefix(begin), []).extend(self.redis.lrange(key, 0, -1))
        return letters

    def close(self):
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            worker.stop(5)
        self.workers.clear()
        self.app.close()

    def discard(self):
        for worker in self.workers:
            worker.kill()
        self.workers.clear()
        self.app.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class RabbitLab(Lab):
    """A virtual host of a RabbitMQ, with the results in a database of a redis-server, or (`rpc`) in the queue of whoever asked."""

    # What is due later than in half a minute waits in the server, where nobody sees it.
    held = datetime.timedelta(seconds=20)
    # What has expired before a worker can take it is dropped by the server, and nobody is told.
    expired = overdue = {"countdown": 3, "expires": 2}

    def __init__(self, rabbit, server, db, folder, kind=None, conf=None, rpc=False):
        self.rabbit, self.vhost, self.rpc = rabbit, rabbit.vhost(), rpc
        super().__init__(server, db, folder, kind, conf, broker=rabbit.url(self.vhost), results="rpc://" if rpc else None)

    def left(self, chords=True):
        """Queues in which tasks wait or are not acknowledged, and (with `chords`) keys of chords that are not over."""
        left = super().left(chords)
        for name, (ready, unacknowledged, _) in self.rabbit.queues(self.vhost).items():
            # Results of whom nobody asked stay in the queue of a client; what a worker is told or tells is gone by itself.
            if not name.endswith(".pidbox") and not name.startswith("longshore.") and not name.startswith("celeryev.") and name not in self.answers() and ready + unacknowledged:
                left[name] = (ready, unacknowledged)
        return left

    def listeners(self):
        return sum(consumers for name, (_, _, consumers) in self.rabbit.queues(self.vhost).items() if name.startswith("celeryev."))

    def broker(self):
        return "amqp", "127.0.0.1", self.rabbit.port

    def answers(self):
        """Queues of results."""
        return {self.app.thread_oid, self.app.oid}
