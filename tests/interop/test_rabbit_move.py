"""A deployment of Celery on RabbitMQ is moved over while it works: two classic queues with priorities, a quorum queue, routes, and `celery beat`."""

import itertools
import json
import os
import re
import subprocess
import sys
import threading
import uuid
from collections import Counter

import pytest

from lab import HERE, LABAPP, RabbitLab
from ourclient import Client
from procs import Process, eventually

pytestmark = [pytest.mark.amqp, pytest.mark.ours]

ARGUMENTS = {"orders": {"x-max-priority": 10}, "mails": {"x-max-priority": 5}, "safe": {"x-queue-type": "quorum"}}
ROUTES = {"lab.marked": {"queue": "orders"}, "lab.heard": {"queue": "mails"}, "lab.told": {"queue": "safe"}}
TICK = 0.5
# What is sent, by the route of its task; each writes down the id that it was given.
SENDS = {
    "orders": lambda path, id: ("lab.marked", [path, id, 0.01], {}),
    "mails": lambda path, id: ("lab.heard", [id], {"path": path, "tag": "start"}),
    "safe": lambda path, id: ("lab.told", [id], {"path": path, "tag": "start"}),
}

def arguments(lab):
    """The queues of the virtual host, with what they were made with."""
    rows = lab.rabbit.eval(f"""[{{element(4, amqqueue:get_name(Q)), amqqueue:get_arguments(Q)}} || Q <- rabbit_amqqueue:list(<<"{lab.vhost}">>)].""")
    found = re.findall(r'\{<<"([^"]+)">>,\s*\[((?:\{[^}]*\},?\s*)*)\]\}', rows)
    value = lambda text: text.strip('<">') if "<<" in text else int(text)  # noqa: E731
    return {name: {key: value(text) for key, text in re.findall(r'\{<<"([^"]+)">>,\w+,([^}]+)\}', list)} for name, list in found}


@pytest.fixture
def deployment(rabbit, server, tmp_path):
    queues = {name: {"exchange": name, "routing_key": name, "queue_arguments": asked} for name, asked in ARGUMENTS.items()}
    conf = {"task_queues": queues, "task_routes": ROUTES, "broker_transport_options": {"confirm_publish": True}}
    conf["worker_detect_quorum_queues"] = True
    lab = RabbitLab(rabbit, server, 250, tmp_path / "lab", "python", conf=conf).use()
    yield lab
    lab.close()


class Producer(threading.Thread):
    """Sends to all queues in turn until it is stopped, with priorities of all kinds."""

    def __init__(self, lab, path, send):
        super().__init__(daemon=True)
        self.path, self.send, self.sent, self.over = path, send, [], threading.Event()
        self.start()

    def run(self):
        for n, queue in enumerate(itertools.cycle(SENDS)):
            id = str(uuid.uuid4())
            task, args, kwargs = SENDS[queue](self.path, id)
            self.send(task, args, kwargs, {"task_id": id, **({"priority": n % 11} if queue != "safe" else {})})
            self.sent.append(id)
            if self.over.wait(0.01):
                return

    def stop(self):
        self.over.set()
        self.join(20)
        assert not self.is_alive()


@pytest.mark.limit(120)
def test_a_deployment_that_works_is_moved_over_worker_by_worker_and_each_task_runs_once(deployment):
    lab, path, ticks = deployment, deployment.path(), deployment.path("ticks")
    options = {"queue": "mails", "priority": 4}
    lab.conf["beat_schedule"] = {"tick": {"task": "lab.marked", "schedule": TICK, "args": [ticks, "tick"], "options": options}}
    celerys = [lab.worker("python", queues="orders,mails,safe", flags=["--without-gossip"], wait=False) for _ in range(2)]
    argv = [sys.executable, "-m", "celery", "-A", "labapp", "beat", "-l", "info", "-s", lab.folder / "schedule", "--max-interval", "1"]
    for worker in celerys:
        worker.wait_ready()
    as_it_was = {name: asked for name, asked in arguments(lab).items() if name in ARGUMENTS}
    assert as_it_was == ARGUMENTS
    beat = Process(argv, lab.folder / "beat.log", env=lab.env(), cwd=HERE, name="beat")

    def by_celery(task, args, kwargs, options):
        lab.app.send_task(task, args, kwargs, **options)

    client = Client(lab.broker_url)

    def by_ours(task, args, kwargs, options):
        queue = ROUTES[task]["queue"]
        signature = {"task": task, "args": args, "kwargs": kwargs, "options": {**options, "queue": queue}, "subtask_type": None, "immutable": False}
        assert "trouble" not in client.told(client.tell(send=signature))

    def ran(*whose):
        """How many tasks these have begun, by their kind."""
        return sum(words[2] in whose for words in lab.marks(path) if len(words) > 3)

    def comes(what):
        assert eventually(what, 30, 0.05), (lab.left(), [worker.text()[-1500:] for worker in lab.workers])

    producers = [Producer(lab, path, by_celery)]
    comes(lambda: ran("python") > 20 and len(lab.starts(ticks)) and lab.starts(ticks)["tick"] > 1)

    # Ours beside Celery's.
    ours = [lab.worker("longshore", queues="orders,mails,safe")]
    comes(lambda: ran("longshore") > 20)
    before = ran("python")
    comes(lambda: ran("python") > before)
    producers.append(Producer(lab, path, by_ours))

    # One of Celery's goes, one of ours comes, the other one goes.
    celerys[0].terminate()
    ours.append(lab.worker("longshore", queues="orders,mails,safe"))
    assert celerys[0].process.wait(30) == 0
    celerys[1].terminate()
    assert celerys[1].process.wait(30) == 0
    before = ran("longshore")
    comes(lambda: ran("longshore") > before + 20)

    # Celery's beat goes, ours comes.
    assert beat.stop() is not None
    imported = subprocess.run(
        [LABAPP, "schedule", "import", "-A", "labapp", "--python", sys.executable, "--broker", lab.broker_url, "--results", lab.results_url],
        env={**os.environ, **lab.env()}, cwd=HERE, capture_output=True, text=True, timeout=40,
    )  # fmt: skip
    assert imported.returncode == 0 and imported.stdout == "tick: kept (every 0.5s; lab.marked)\n", imported.stderr
    argv = [LABAPP, "beat", "-l", "info", "--broker", lab.broker_url, "--results", lab.results_url]
    our_beats = [Process([*argv, "-n", name], lab.folder / f"{name}.log", cwd=HERE, name=name) for name in ("one", "other")]
    begun = lab.starts(ticks)["tick"]
    comes(lambda: lab.starts(ticks)["tick"] > begun + 3)
    for each in our_beats:
        assert each.stop() == 0, each.text()

    for producer in producers:
        producer.stop()
    sent = [id for producer in producers for id in producer.sent]
    comes(lambda: len(lab.starts(path)) == len(sent))
    assert lab.wait_empty() == {}
    client.close()

    # Each task once, whoever sent it; each tick once.
    assert {id.strip('"'): times for id, times in lab.starts(path).items()} == dict.fromkeys(sent, 1)
    ticked = Counter(words[5] for words in lab.marks(ticks) if words[0] == "start")
    assert set(ticked.values()) == {1}
    said_so = [len(re.findall("Sending due task tick", log)) for log in (beat.text(), our_beats[0].text() + our_beats[1].text())]
    assert len(ticked) == sum(said_so), said_so
    assert min(len(producer.sent) for producer in producers) > 50
    # The queues are what they were, and nobody quarrels about it.
    assert {name: asked for name, asked in arguments(lab).items() if name in ARGUMENTS} == as_it_was
    assert lab.dead() == {}
    for worker in lab.workers:
        assert "PRECONDITION_FAILED" not in worker.text() and "Traceback" not in worker.text(), worker.text()


@pytest.mark.limit(120)
def test_what_matters_most_goes_first_whoever_has_sent_it_and_also_before_a_backlog(deployment):
    lab, path = deployment, deployment.path()
    client = Client(lab.broker_url)

    def by_celery(tag, priority):
        lab.marked.apply_async((path, tag, 0.02), priority=priority)

    def by_client(tag, priority):
        signature = lab.marked.s(path, tag, 0.02).set(priority=priority, queue="orders")
        assert "trouble" not in client.told(client.tell(send=signature))

    def by_command(tag, priority):
        argv = [LABAPP, "call", "lab.marked", "--broker", lab.broker_url, "--queue", "orders", "--priority", priority, "-a", json.dumps([path, tag, 0.02])]
        subprocess.run(list(map(str, argv)), check=True, timeout=20, capture_output=True)

    def started():
        return [words[1] for words in lab.marks(path) if words[0] == "start"]

    sent = [(priority, f"{who.__name__}-{priority}-{n}") for priority in (0, 10, 4, 9, 1) for who in (by_celery, by_client, by_command) for n in range(2)]
    for priority, tag in sent:
        {"by_celery": by_celery, "by_client": by_client, "by_command": by_command}[tag.split("-")[0]](tag, priority)
    lab.worker("longshore", queues="orders", concurrency=1)
    assert eventually(lambda: len(started()) == len(sent), 40)
    assert started() == [tag for _, tag in sorted(sent, key=lambda each: -each[0])]

    # A task that is sent again has the priority that it had.
    again = lab.flaky_request.apply_async((1,), queue="orders", priority=10).get(timeout=10)
    assert (again["priority"], again["retries"]) == (10, 1)

    # A backlog is under way.
    for n in range(200):
        by_celery(f"low-{n}", 2)
    assert eventually(lambda: any(tag.startswith("low") for tag in started()), 20)
    by_client("urgent", 7)
    before = len(started())
    assert eventually(lambda: "urgent" in started(), 20)
    assert started().index("urgent") - before < 30, (before, started().index("urgent"))
    client.close()
