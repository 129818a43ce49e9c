"""The dashboard's history before real workers, Celery's and ours: events are asked for, and what a killed worker held is not shown as running."""

import json
import urllib.error
import urllib.request

import pytest

from lab import LABAPP
from procs import Process, eventually, free_port

pytestmark = [pytest.mark.ours, pytest.mark.limit(120)]


class Dashboard:
    def __init__(self, lab, *flags):
        self.port = free_port()
        argv = [LABAPP, "dashboard", "--broker", lab.broker_url, "--results", lab.results_url, "--listen", f"127.0.0.1:{self.port}"]
        argv += ["--history", lab.folder / "history.db", *flags]
        self.process = Process(argv, lab.folder / "dashboard.log", name="dashboard")
        assert eventually(lambda: self.get("/api/v1/history"), 30, 0.1), self.process.text()

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.read().decode()
        except (urllib.error.HTTPError, OSError):
            return None

    def timeline(self, id):
        found = self.get(f"/api/v1/tasks/{id}/timeline")
        return json.loads(found) if found else {}

    def stands(self, id, state, seconds=20):
        assert eventually(lambda: self.timeline(id).get("state") == state, seconds, 0.1), (self.timeline(id), self.process.text())
        return self.timeline(id)

    def close(self):
        self.process.kill()


def told(lab, dashboard, worker):
    """Waits until a worker's events of tasks are heard."""
    def is_told():
        result = lab.add.delay(1, 1)
        result.get(timeout=20)
        return eventually(lambda: dashboard.timeline(result.id).get("worker") == worker.node, 1)

    assert eventually(is_told, 30), dashboard.process.text()


@pytest.mark.parametrize("served", ["python", "longshore"])
def test_a_worker_without_events_is_asked_for_them_and_its_tasks_are_remembered(own_lab, served):
    lab = own_lab
    worker = lab.worker(served)
    dashboard = Dashboard(lab)
    try:
        told(lab, dashboard, worker)
        bad, again = lab.fail.delay("<script>alert(1)</script>"), lab.flaky.delay(1, 0.05)
        again.get(timeout=20), bad.get(timeout=20, propagate=False)
        failed = dashboard.stands(bad.id, "failure")
        assert failed["error"].startswith("ValueError('<script>alert(1)</script>'")
        steps = [step["word"] for step in dashboard.stands(again.id, "success")["steps"]]
        # Celery's worker has the task again before it tells that it is tried again.
        assert sorted(steps) == sorted(["received", "started", "retried", "received", "started (2)", "succeeded"]), steps
        assert "<script>alert(1)" not in dashboard.get(f"/tasks/{bad.id}") and "&lt;script&gt;alert(1)" in dashboard.get(f"/tasks/{bad.id}")
        # Only our workers tell the queue.
        assert dashboard.timeline(bad.id)["queue"] == ("celery" if served == "longshore" else None)
    finally:
        dashboard.close()


def test_what_a_killed_celery_worker_held_is_lost_and_nobody_says_that_it_runs(own_lab):
    lab = own_lab
    lab.app.conf.task_send_sent_event = True
    dashboard = Dashboard(lab)
    try:
        worker = lab.worker("python", concurrency=1)
        told(lab, dashboard, worker)
        running = lab.slow.delay(60)
        runs = dashboard.stands(running.id, "started")
        assert runs["steps"][0]["word"] in ("sent", "received") and runs["queue"] == "celery"
        worker.kill()
        lost = dashboard.stands(running.id, "lost", 60)
        assert [step["word"] for step in lost["steps"]][-1] == "lost"
        assert f"/tasks/{running.id}" in dashboard.get("/tasks?state=lost")
    finally:
        dashboard.close()
