"""Monitors are told when a task is sent, in Celery's words: its receiver, its state (which Flower has) and our timeline read it."""

import json
import threading

import pytest

from lab import LABAPP
from procs import Process, eventually
from test_history import Dashboard, told

pytestmark = [pytest.mark.ours, pytest.mark.limit(120)]


class Heard(threading.Thread):
    """Celery's own receiver of events, with its state."""

    def __init__(self, lab):
        super().__init__(daemon=True)
        self.lab, self.sent, self.state, self.ready, self.told = lab, {}, lab.app.events.State(), threading.Event(), False

    def run(self):
        def heard(event):
            self.ready.set()
            self.state.event(dict(event))
            if event["type"] == "task-sent":
                self.sent[event["uuid"]] = event

        with self.lab.app.connection() as connection:
            receiver = self.lab.app.events.Receiver(connection, handlers={"*": heard})
            while not self.told:
                try:
                    receiver.capture(limit=None, timeout=1, wakeup=False)
                except TimeoutError:
                    pass


def call(lab, task, args, *flags):
    log = lab.folder / f"call-{len(list(lab.folder.glob('call-*')))}.log"
    words = [LABAPP, "call", task, "-a", json.dumps(args), "--broker", lab.broker_url, "--results", lab.results_url, *flags]
    process = Process(words, log)
    assert process.wait(30) == 0, process.text()
    return process.text().split()[-1]


def test_a_sent_task_is_told_as_celerys_clients_tell_it_and_stands_on_the_timeline(own_lab):
    lab = own_lab
    lab.app.conf.task_send_sent_event = True
    heard = Heard(lab)
    heard.start()
    dashboard = Dashboard(lab)
    worker = lab.worker("longshore", flags=["-E"])
    try:
        # Its heartbeats are heard: from here on nothing is missed.
        assert heard.ready.wait(30)
        told(lab, dashboard, worker)
        theirs = lab.add.apply_async((2, 3), countdown=1)
        ours = call(lab, "lab.add", [2, 3], "--task-send-sent-event", "--countdown", "1")
        silent = call(lab, "lab.add", [2, 3])
        assert eventually(lambda: theirs.id in heard.sent and ours in heard.sent, 20), heard.sent.keys()
        one, other = heard.sent[theirs.id], heard.sent[ours]
        assert set(one) == set(other), set(one) ^ set(other)
        same = ["name", "args", "kwargs", "retries", "expires", "parent_id", "queue", "exchange", "routing_key", "type"]
        assert {name: one[name] for name in same} == {name: other[name] for name in same}
        assert other["root_id"] == ours and other["hostname"].startswith("gen") and abs(other["timestamp"] - one["timestamp"]) < 60
        assert len(other["eta"]) >= 19 and other["eta"][:10] == one["eta"][:10]
        # What Flower shows of a task is this state.
        assert eventually(lambda: getattr(heard.state.tasks.get(ours), "succeeded", None), 20)
        task = heard.state.tasks[ours]
        assert task.sent <= task.received <= task.succeeded and task.name == "lab.add"
        steps = [step["word"] for step in dashboard.stands(ours, "success")["steps"]]
        assert steps == ["sent", "received", "started", "succeeded"], steps
        steps = [step["word"] for step in dashboard.stands(silent, "success")["steps"]]
        assert steps == ["received", "started", "succeeded"] and silent not in heard.sent, steps
    finally:
        heard.told = True
        heard.join(10)
        dashboard.close()
