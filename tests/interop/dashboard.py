"""`longshore dashboard` over a lab's broker, and what the tests read at each kind of broker when they look whether a page has done what it says."""

import json
import re
import sqlite3
import urllib.error
import urllib.request
import uuid

import kombu

from lab import HERE, LABAPP
from procs import Process, eventually


class Dashboard:
    """A dashboard on a free port of the loopback."""

    def __init__(self, lab, *flags, broker=None, results=None):
        folder = lab.folder / f"dashboard-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        argv = [LABAPP, "dashboard", "--listen", "127.0.0.1:0", "--broker", broker or lab.broker_url, "--results", results or lab.results_url]
        self.state = folder
        self.process = Process([*argv, "--state-dir", folder, *flags], folder / "log", cwd=HERE, name="dashboard")
        self.process.wait_for(r"http://127\.0\.0\.1:\d+", 30)
        self.address = re.search(r"http://127\.0\.0\.1:\d+", self.process.text())[0]

    def ask(self, path, body=None):
        """Status and JSON of an answer; with a body it is posted."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {} if data is None else {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def send(self, task, *args, queue, id=None):
        """Sends a task through its door for programs, and gives its id."""
        status, sent = self.ask(f"/api/v1/tasks/lab.{task}", {"args": args, "queue": queue, **({"id": id} if id else {})})
        assert status == 202, sent
        return sent["id"]

    def stands(self, id, *states, seconds=30):
        """Waits until the history has heard that a task stands so."""
        assert eventually(lambda: self.ask(f"/api/v1/tasks/{id}/timeline")[1].get("state") in states, seconds, 0.05), (
            self.ask(f"/api/v1/tasks/{id}/timeline"), self.process.text())  # fmt: skip

    def hears(self, queue):
        """Waits until the workers of a queue have heard that they are to tell of their tasks."""

        def told():
            id = self.send("add", 1, 1, queue=queue)
            return eventually(lambda: self.ask(f"/api/v1/tasks/{id}/timeline")[1].get("state") == "success", 3, 0.05)

        assert eventually(told, 30, 0.05), self.process.text()

    def stop(self):
        self.process.stop()


class RedisPlace:
    """Messages as they lie in Redis."""

    looks_inside = True

    def __init__(self, lab):
        self.lab, self.url = lab, lab.broker_url

    def waiting(self, queue):
        return [bytes(raw) for raw in self.lab.redis.lrange(queue, 0, -1)]

    def dead(self, queue):
        return [letter for of, letters in self.lab.dead().items() if of.startswith(queue) for letter in letters]

    def close(self):
        pass


class SqlitePlace:
    """The same in a file; SQLite itself reads from it."""

    looks_inside = True

    def __init__(self, lab):
        self.file = lab.folder / "queue.db"
        self.url, self.reader = f"sqlite:{self.file}", None

    def rows(self, query, *values):
        if self.reader is None:
            self.reader = sqlite3.connect(f"file:{self.file}?mode=ro", uri=True, isolation_level=None, timeout=20)
        return [row[0] for row in self.reader.execute(query, values)]

    def waiting(self, queue):
        return self.rows("SELECT raw FROM messages WHERE queue = ? ORDER BY id", queue)

    def dead(self, queue):
        return self.rows("SELECT raw FROM dead WHERE queue = ?", queue)

    def close(self):
        if self.reader is not None:
            self.reader.close()


class RabbitPlace:
    """The same in RabbitMQ: a message is its body with its headers and properties."""

    looks_inside = False

    def __init__(self, lab):
        self.lab, self.url = lab, lab.broker_url
        self.link = kombu.Connection(self.url)

    def waiting(self, queue):
        """What waits there: it is taken and handed back."""
        channel, found = self.link.channel(), []
        try:
            while message := channel.basic_get(queue):
                found.append((bytes(message.body, "utf-8") if isinstance(message.body, str) else bytes(message.body), message.headers, message.properties))
        except self.link.channel_errors:
            pass
        finally:
            channel.close()
        return [(body, headers, {name: value for name, value in properties.items() if name != "delivery_info"}) for body, headers, properties in found]

    def dead(self, queue):
        return self.waiting(f"longshore.dead.{queue}")

    def close(self):
        self.link.release()
