"""Where tasks and results lie, for tests that run on more than one broker: how to send there, and what to read there when nobody answers."""

import json
import sqlite3
import uuid

from ourclient import Client


class Store:
    # A delay for which a worker holds what is not due, in seconds.
    held = 1800

    def __init__(self, lab, broker, results=None):
        self.lab, self.broker, self.results = lab, broker, results or broker
        self.client = Client(broker)

    def send(self, task, calls, **options):
        """Sends the calls, and gives their ids."""
        ids = [str(uuid.uuid4()) for _ in calls]
        said = []
        for id, args in zip(ids, calls):
            options = {**options, "task_id": id}
            signature = {"task": f"lab.{task}", "args": list(args), "kwargs": {}, "options": options, "subtask_type": None, "immutable": False}
            said.append(self.client.tell(send=signature))
        for n in said:
            answer = self.client.told(n)
            assert "trouble" not in answer, answer
        return ids

    def close(self):
        self.client.close()


class RedisStore(Store):
    """A database of a redis-server."""

    def __init__(self, lab):
        super().__init__(lab, lab.broker_url)

    def states(self, ids):
        """The state of each of these tasks; None of those that have no result."""
        documents = self.lab.redis.mget([f"celery-task-meta-{id}" for id in ids]) if ids else []
        return [json.loads(document)["status"] if document else None for document in documents]

    def left(self):
        return self.lab.left()

    def dead(self):
        return [json.loads(letter) for queue in self.lab.dead().values() for letter in queue]


class SqliteStore(Store):
    """A file; SQLite itself reads from it."""

    def __init__(self, lab):
        file = lab.folder / "queue.db"
        super().__init__(lab, f"sqlite:{file}")
        # What makes the file.
        self.send("nothing", [()])
        self.reader = sqlite3.connect(f"file:{file}?mode=ro", uri=True, isolation_level=None, timeout=20)

    def states(self, ids):
        states = {}
        for some in (ids[n : n + 500] for n in range(0, len(ids), 500)):
            keys = [f"celery-task-meta-{id}" for id in some]
            rows = self.reader.execute(f"SELECT key, doc FROM results WHERE key IN ({','.join('?' * len(keys))})", keys)
            states.update((key, json.loads(doc)["status"]) for key, doc in rows)
        return [states.get(f"celery-task-meta-{id}") for id in ids]

    def left(self):
        rows = self.reader.execute("SELECT queue, owner IS NOT NULL, count(*) FROM messages GROUP BY 1, 2").fetchall()
        return {f"{queue}, {'held' if held else 'waiting'}": count for queue, held, count in rows}

    def dead(self):
        return [{"reason": reason, "crashes": crashes} for reason, crashes in self.reader.execute("SELECT reason, crashes FROM dead")]

    def close(self):
        super().close()
        self.reader.close()


class RabbitStore(RedisStore):
    """A virtual host of a RabbitMQ, with the results in a database of a redis-server."""

    # What is due later waits in the server, whose clock runs on.
    held = 20

    def __init__(self, lab, rabbit):
        self.rabbit, self.vhost = rabbit, rabbit.vhost()
        Store.__init__(self, lab, rabbit.url(self.vhost), lab.results_url)

    def _counts(self, is_meant):
        return {name: row[:2] for name, row in self.rabbit.queues(self.vhost).items() if is_meant(name) and sum(row[:2])}

    def left(self):
        return {**self.lab.left(), **self._counts(lambda name: name == "celery" or name.startswith("celery_delayed_"))}

    def dead(self):
        return list(self._counts(lambda name: name.startswith(("longshore.dead.", "longshore.junk."))).items())


STORES = {"redis": RedisStore, "sqlite": SqliteStore}
