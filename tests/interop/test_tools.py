"""Celery's other programs before our workers: Flower, and beat."""

import base64
import json
import os
import sys
import time
import urllib.error
import urllib.request

import pytest

from lab import HERE, LABAPP, LONG, pick
from procs import Process, eventually, free_port

pytestmark = pytest.mark.alone


class Flower:
    def __init__(self, lab):
        self.port = free_port()
        env = {**lab.env(), "FLOWER_UNAUTHENTICATED_API": "true"}
        argv = [sys.executable, "-m", "celery", "-A", "labapp", "flower", f"--port={self.port}", "--address=127.0.0.1", "--inspect_timeout=2000"]
        self.process = Process(argv, lab.folder / "flower.log", env=env, cwd=HERE, name="flower")
        assert eventually(lambda: self.status("/healthcheck") == 200, 20, 0.1), self.process.text()

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()

    def json(self, path):
        return json.loads(self.get(path)[1])

    def status(self, path):
        try:
            return self.get(path)[0]
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def close(self):
        self.process.kill()


@pytest.mark.needs("control")
@pytest.mark.limit(pick(60, 240))
def test_flower_shows_the_worker_its_tasks_and_its_numbers(own_lab):
    lab = own_lab
    flower = Flower(lab)
    try:
        node = lab.worker(concurrency=2).node
        assert eventually(lambda: node in flower.json("/api/workers?refresh=1"), 10, 0.2)
        # Flower switches events on by itself; until then nothing is told of tasks.
        lab.app.control.enable_events()
        time.sleep(0.3)
        good, bad, again = lab.add.delay(20, 22), lab.fail.delay("oh"), lab.flaky.delay(1, 0.05)
        good.get(timeout=10), again.get(timeout=10), bad.get(timeout=10, propagate=False)
        assert eventually(lambda: flower.json("/api/tasks").get(again.id, {}).get("state") == "SUCCESS", 10, 0.2)
        worker = flower.json("/api/workers?refresh=1")[node]
        assert worker["stats"]["pool"]["max-concurrency"] == (2 if lab.kind == "python" else 8) and worker["active_queues"][0]["name"] == "celery"
        assert "lab.add" in worker["registered"] and isinstance(worker["conf"], dict)
        tasks = flower.json("/api/tasks")
        assert tasks[good.id]["state"] == "SUCCESS" and tasks[good.id]["result"] == "42" and tasks[good.id]["name"] == "lab.add"
        assert tasks[good.id]["runtime"] >= 0 and tasks[good.id]["worker"] == node
        assert tasks[bad.id]["state"] == "FAILURE" and tasks[bad.id]["exception"] == "ValueError('oh', 42)"
        assert flower.json(f"/api/task/info/{good.id}")["uuid"] == good.id
        assert flower.json(f"/api/task/result/{good.id}")["result"] == 42
        assert flower.json("/api/workers?status=1") == {node: True}
        for page in ("/", "/workers", "/tasks", "/broker", f"/worker/{node}", f"/task/{good.id}", f"/task/{bad.id}"):
            status, text = flower.get(page)
            assert status == 200, page
            if page in ("/workers", f"/worker/{node}"):
                assert node in text
        metrics = flower.get("/metrics")[1]
        assert f'flower_worker_online{{worker="{node}"}} 1.0' in metrics
        assert f'flower_events_total{{task="lab.add",type="task-succeeded",worker="{node}"}} 1.0' in metrics
        assert f'flower_events_total{{task="lab.fail",type="task-failed",worker="{node}"}} 1.0' in metrics
        # Its buttons.
        request = urllib.request.Request(f"http://127.0.0.1:{flower.port}/api/worker/pool/grow/{node}?n=1", method="POST", data=b"")
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200
        if LONG and os.environ.get("LONGSHORE_INTEROP_CHROMIUM"):
            screenshots(flower, node, good.id)
        assert eventually(lambda: f'flower_worker_number_of_currently_executing_tasks{{worker="{node}"}} 0.0' in flower.get("/metrics")[1], 10, 0.2)
        lab.workers[0].stop()
        assert eventually(lambda: flower.json("/api/workers?status=1") == {node: False}, 10, 0.2)
    finally:
        flower.close()


def screenshots(flower, node, task):
    """The pages as a browser shows them, and the metrics, into the folder LONGSHORE_INTEROP_SCREENSHOTS; the browser is LONGSHORE_INTEROP_CHROMIUM."""
    folder = os.environ.get("LONGSHORE_INTEROP_SCREENSHOTS", ".")
    for name, page in {"workers": "/workers", "worker": f"/worker/{node}", "tasks": "/tasks", "task": f"/task/{task}", "broker": "/broker"}.items():
        argv = [os.environ["LONGSHORE_INTEROP_CHROMIUM"], "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1500,1000"]
        argv += ["--virtual-time-budget=8000", f"--user-data-dir={folder}/profile", f"--screenshot={folder}/flower-{name}.png"]
        assert Process([*argv, f"http://127.0.0.1:{flower.port}{page}"], f"{folder}/chromium.log").wait(60) == 0
    with open(f"{folder}/flower-metrics.txt", "w") as metrics:
        metrics.write(flower.get("/metrics")[1])


@pytest.mark.limit(40)
def test_beat_sends_what_is_due_and_the_worker_runs_it(own_lab):
    lab, path = own_lab, own_lab.path()
    lab.conf["beat_schedule"] = {"often": {"task": "lab.marked", "schedule": 0.3, "args": [path, "beat"], "options": {"expires": 10}}}
    lab.worker()
    env = lab.env()
    argv = [sys.executable, "-m", "celery", "-A", "labapp", "beat", "-s", lab.folder / "schedule", "--max-interval", "1"]
    beat = Process(argv, lab.folder / "beat.log", env=env, cwd=HERE, name="beat")
    try:
        assert eventually(lambda: lab.starts(path)["beat"] >= 3, 15), beat.text()
    finally:
        beat.kill()
    assert lab.wait_empty() == {}


BEATAPP = """
import datetime
from celery import Celery
from celery.schedules import crontab, schedule


def tokyo():
    return datetime.datetime.now(datetime.timezone(datetime.timedelta(hours=9)))


class Holidays(crontab):
    pass


app = Celery("beatapp", broker="memory://")
app.conf.timezone = "Europe/Berlin"
app.conf.beat_schedule = {
    "often": {"task": "lab.marked", "schedule": 0.3, "args": [%r, "beat"], "options": {"expires": 10, "priority": 3}},
    "nights": {"task": "lab.add", "schedule": crontab(minute="*/15", hour="22-2", day_of_week="mon-fri"), "args": (1, 2)},
    "thirteenth": {"task": "lab.add", "schedule": crontab(minute=0, hour=9, day_of_month=13, day_of_week=5)},
    "hourly": {"task": "lab.add", "schedule": crontab(minute="*/60"), "args": (1, 2)},
    "tokyo": {"task": "lab.add", "schedule": crontab(hour=9, minute=0, nowfun=tokyo)},
    "beats": {"task": "lab.add", "schedule": schedule(60, nowfun=tokyo)},
    "holidays": {"task": "lab.add", "schedule": Holidays(hour=9, minute=0)},
    "odd": {"task": "lab.add", "schedule": 60, "kwargs": {"x": object()}},
}


@app.on_after_finalize.connect
def add(sender, **_):
    sender.add_periodic_task(datetime.timedelta(hours=1), sender.signature("lab.add", (3, 4)), name="added")
"""


@pytest.mark.limit(60)
def test_our_scheduler_takes_over_a_beat_schedule_and_either_worker_runs_it(own_lab):
    import subprocess

    lab, path = own_lab, own_lab.path()
    (lab.folder / "beatapp.py").write_text(BEATAPP % path)

    def ours(*words):
        return subprocess.run([LABAPP, *words, "--broker", lab.broker_url], cwd=lab.folder, capture_output=True, text=True, timeout=40)

    imported = ours("schedule", "import", "-A", "beatapp", "--python", sys.executable)
    assert imported.stdout.splitlines() == [
        "often: kept (every 0.3s; lab.marked)",
        "nights: kept (*/15 0,1,2,22,23 * * 1,2,3,4,5 Europe/Berlin; lab.add)",
        "thirteenth: kept (0 9 13 * 5 Europe/Berlin, both days; lab.add)",
        "hourly: kept (0 * * * * Europe/Berlin; lab.add)",
        "added: kept (every 1h; lab.add)",
    ], imported.stderr
    assert imported.returncode == 1 and "odd: not taken over: its arguments or options cannot be sent as JSON" in imported.stderr
    for name, words in [("tokyo", "nowfun: tokyo"), ("beats", "nowfun: tokyo"), ("holidays", "a class of its own")]:
        assert any(f"{name}: not taken over" in line and words in line for line in imported.stderr.splitlines()), imported.stderr
    lab.worker()
    beats = [Process([LABAPP, "beat", "--broker", lab.broker_url, "-n", name], lab.folder / f"{name}.log", cwd=HERE, name=name) for name in ("one", "other")]
    try:
        assert eventually(lambda: lab.starts(path)["beat"] >= 3, 20), beats[0].text() + beats[1].text()
    finally:
        for beat in beats:
            beat.stop()
    assert lab.wait_empty() == {}


def test_celerys_command_line_sends_and_reads(lab):
    """`celery call` and `celery result`, and `celery inspect` with a task in flight."""
    import subprocess

    def celery(*words):
        env = {**os.environ, **lab.env()}
        argv = [sys.executable, "-m", "celery", "-A", "labapp", *words]
        return subprocess.run(argv, cwd=HERE, env=env, capture_output=True, text=True, timeout=20, check=True).stdout.strip()

    id = celery("call", "lab.add", "--args=[40, 2]")
    assert lab.app.AsyncResult(id).get(timeout=10) == 42
    assert celery("result", id) == "42"


def test_what_lies_in_the_queue_is_what_celery_wrote(own_lab):
    """Nobody serves: the harness itself sees the messages, so that a change of Celery's wire is seen too."""
    own_lab.add.delay(2, 3)
    message = json.loads(own_lab.redis.lindex("celery", 0))
    assert json.loads(base64.b64decode(message["body"])) == [[2, 3], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
