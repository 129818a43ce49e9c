"""The pages of queues, dead letters, limits and schedules in a real browser, on each broker: what a click does is read there, byte for byte."""

import json

import pytest

from dashboard import Dashboard, RabbitPlace, RedisPlace, SqlitePlace
from lab import HERE, LABAPP, Lab, RabbitLab
from procs import Process, eventually

pytestmark = [pytest.mark.ours, pytest.mark.limit(60)]

BROKERS = {"redis": RedisPlace, "sqlite": SqlitePlace, "rabbit": RabbitPlace}
# RabbitMQ lets nobody look into a queue, nor pause it.
INSIDE = pytest.mark.parametrize("stage", ["redis", "sqlite"], indirect=True, scope="module")
RABBIT = pytest.mark.parametrize("stage", ["rabbit"], indirect=True, scope="module")


@pytest.fixture(scope="module", params=BROKERS)
def stage(request, server, tmp_path_factory, database):
    """A dashboard over a broker of this kind, with one worker of ours on it."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "rabbit":
        lab = RabbitLab(request.getfixturevalue("rabbit"), server, database(), folder, "longshore")
    else:
        lab = Lab(server, database(), folder, "longshore")
    lab.place = BROKERS[request.param](lab)
    lab.broker_url = lab.place.url
    if request.param == "sqlite":
        lab.results_url = lab.broker_url
    lab.serving = lab.worker("longshore", name="ours", queues="ours")
    # A queue of each kind of worker. Celery's does not speak SQLite as ours does; on Redis it is before test_browser.py.
    lab.crews = {"ours": lab.serving}
    if request.param == "rabbit":
        lab.crews["theirs"] = lab.worker("python", name="theirs", queues="theirs", conf={"result_extended": True})
    # Celery's remote control speaks no SQLite of ours.
    lab.has_app = request.param != "sqlite"
    lab.dashboard = Dashboard(lab)
    for queue in lab.crews:
        lab.dashboard.hears(queue)
    yield lab
    lab.place.close()
    lab.dashboard.stop()
    lab.close()


@pytest.fixture
def page(stage, browser):
    browser.site = stage.dashboard.address
    browser.complaints()
    yield browser
    complaints = browser.complaints()
    browser.forget()
    assert complaints == []


def attempts(stage, id, count):
    """Waits until a task has failed so often."""
    assert eventually(lambda: (told := stage.dashboard.ask(f"/api/v1/tasks/{id}/timeline")[1]).get("state") == "failure" and told["attempts"] == count, 20, 0.05), (
        stage.dashboard.ask(f"/api/v1/tasks/{id}/timeline"))  # fmt: skip


def in_row(text, label):
    return f"//tr[contains(., {json.dumps(text)})]//button[normalize-space()='{label}']"


def without_mark(message):
    """A message as it was sent: what comes again is marked so, as Celery marks it."""
    return message.replace(b', "redelivered": true', b"")


@INSIDE
def test_a_dead_letter_is_put_back_byte_for_byte_and_a_paused_queue_is_left_alone(stage, page):
    place, dashboard = stage.place, stage.dashboard
    page.open("/queues").press(in_row("ours", "Pause"))
    page.said("ours is paused")
    first, second = (dashboard.send("rejected", False, queue="ours") for _ in range(2))
    sent = {id: next(raw for raw in place.waiting("ours") if id.encode() in raw) for id in (first, second)}
    page.open(f"/tasks/{first}").sees("waiting", "queue is paused by")
    page.open("/queues/ours").button("Resume")
    page.said("ours goes on")
    assert eventually(lambda: len(place.dead("ours")) == 2 and place.waiting("ours") == [], 20)

    page.open("/queues/ours").button("Pause")
    page.said("ours is paused")
    # One by its own page, then the group that it was of.
    page.open(f"/tasks/{second}").button("Retry")
    page.said("1 sent again")
    assert [without_mark(raw) for raw in place.waiting("ours")] == [sent[second]]
    page.open("/dead").press(in_row("lab.rejected", "Retry"))
    page.said("1 put back into their queues")
    assert {without_mark(raw) for raw in place.waiting("ours")} == set(sent.values()) and place.dead("ours") == []

    page.open("/queues/ours").button("Resume")
    page.said("ours goes on")
    assert eventually(lambda: len(place.dead("ours")) == 2 and place.waiting("ours") == [], 20)
    page.open("/dead").press(in_row("lab.rejected", "Purge"), confirm=False)
    assert len(place.dead("ours")) == 2
    # One of the group, then the rest of it.
    page.press("//summary[normalize-space()='show them']")
    page.press(in_row("lab.rejected", f"Purge {first[:8]}"), confirm=True)
    page.said("1 thrown away")
    assert len(place.dead("ours")) == 1
    page.press(in_row("lab.rejected", "Purge"), confirm=True)
    page.said("1 thrown away")
    assert place.dead("ours") == [] and place.waiting("ours") == []
    page.sees("There are none.")


@RABBIT
def test_a_dead_letter_of_rabbitmq_runs_again_as_it_came(stage, page):
    place = stage.place
    id = stage.dashboard.send("rejected", False, queue="ours")
    [before] = eventually(lambda: place.dead("ours"), 20)
    page.open("/dead").press(in_row("lab.rejected", "Retry"))
    page.said("1 put back into their queues")
    assert eventually(lambda: stage.serving.text().count(f"[{id}] received") == 2, 20), stage.serving.text()
    [after] = eventually(lambda: place.dead("ours"), 20)
    sent = [name for name in before[1] if not name.startswith("x-") and name != "redelivered"]
    assert after[0] == before[0] and {name: after[1][name] for name in sent} == {name: before[1][name] for name in sent} and "argsrepr" in sent
    page.open("/dead").press(in_row("lab.rejected", "Purge"), confirm=True)
    page.said("1 thrown away")
    assert place.dead("ours") == []


@RABBIT
def test_what_a_broker_cannot_do_is_said(stage, page):
    page.open("/queues").press(in_row("ours", "Pause"))
    page.said("this broker cannot look into its queues")
    page.open("/queues/ours").sees("this broker cannot look into its queues", within="//main")


def test_what_waits_is_moved_and_thrown_away_once_it_is_confirmed(stage, page):
    place, dashboard = stage.place, stage.dashboard
    for n in range(3):
        dashboard.send("add", n, n, queue="from")
    sent = place.waiting("from")
    queue = "from"
    page.open("/queues/from").sees("3 waiting", "No worker that answers serves it")
    if stage.place.looks_inside:
        page.type("to", "other")
        page.button("Move", confirm=False)
        assert place.waiting("from") == sent
        page.button("Move", confirm=True)
        page.said("3 messages went from from to other")
        assert place.waiting("from") == []
        queue, moved = "other", place.waiting("other")
        assert [ids(each) for each in moved] == [ids(each) for each in sent]
    page.open(f"/queues/{queue}").button("Purge", confirm=False)
    assert len(place.waiting(queue)) == 3
    page.button("Purge", confirm=True)
    page.said(f"3 messages of {queue} were thrown away")
    assert place.waiting(queue) == []


def ids(raw):
    return json.loads(raw)["headers"]["id"]


def test_a_task_is_called_off_before_it_runs_and_while_it_does(stage, page):
    runs = stage.dashboard.send("tracked", 50, queue="ours")
    stage.dashboard.stands(runs, "started")
    page.open(f"/tasks/{runs}").button("Cancel and end", confirm=True)
    page.said("1 called off")
    assert eventually(lambda: stage.dashboard.ask(f"/api/v1/tasks/{runs}")[1]["status"] == "REVOKED", 20, 0.1)
    if not stage.place.looks_inside:
        return
    path = stage.path()
    page.open("/queues/ours").button("Pause")
    page.said("ours is paused")
    off, on = (stage.dashboard.send("marked", path, tag, queue="ours") for tag in ("off", "on"))
    page.open(f"/tasks/{off}").button("Cancel")
    page.said("1 called off")
    page.open("/queues/ours").button("Resume")
    page.said("ours goes on")
    assert stage.dashboard.ask(f"/api/v1/tasks/{on}?wait=20s")[1]["status"] == "SUCCESS", stage.serving.text()
    assert stage.starts(path) == {"on": 1} and stage.place.waiting("ours") == []
    assert stage.dashboard.ask(f"/api/v1/tasks/{off}")[1]["status"] == "REVOKED"


def test_what_failed_is_sent_again_one_by_one_with_other_arguments_and_all_that_match(stage, page):
    """By each kind of worker that serves this broker."""
    for queue, worker in stage.crews.items():
        mark = f"bulk <i>{queue}</i>"
        failed = [stage.dashboard.send("fail", mark, queue=queue) for _ in range(3)]
        for id in failed:
            attempts(stage, id, 1)
        page.open(f"/tasks/{failed[0]}").sees("failure", "ValueError")
        page.button("Retry")
        page.said("1 sent again")
        attempts(stage, failed[0], 2)
        # Another one with changed arguments.
        page.open(f"/tasks/{failed[1]}").press("//summary[contains(., 'changed arguments')]")
        page.type("args", '["<b>edited</b>", 7]')
        page.button("Send under a new id")
        page.said("sent as ")
        new = page.text("//p[contains(@class, 'said')]").rsplit(" ", 1)[-1]
        attempts(stage, new, 1)
        assert "<b>edited</b>" in stage.dashboard.ask(f"/api/v1/tasks/{new}/timeline")[1]["error_text"]
        # Those that are ticked, and then all that the search has found.
        page.open("/tasks?state=failure").type("error", mark)
        page.button("Find")
        page.sees("3 remembered", mark)
        page.press(f"//input[@value='{failed[2]}']")
        page.button("Retry ticked")
        page.said("1 sent again")
        attempts(stage, failed[2], 2)
        page.press("//summary[contains(., 'All 3 that match')]")
        page.button("Retry all 3")
        page.said("3 sent again")
        for id, count in zip(failed, (3, 2, 3)):
            attempts(stage, id, count)
        assert worker.text().count(f"[{failed[0]}] received") == 3, worker.text()


def test_a_worker_grows_shrinks_serves_leaves_and_gets_rates(stage, page):
    for queue, worker in stage.crews.items():
        asked = stage.app.control.inspect([worker.node], timeout=5)

        def slots():
            """Celery's worker says how many processes it has, ours how many slots its lane has."""
            stats = asked.stats()[worker.node]
            return stats["lanes"]["blocking"] if queue == "ours" else len(stats["pool"]["processes"])

        def queues():
            return sorted(each["name"] for each in asked.active_queues()[worker.node])

        def does(field, text, label, *said):
            page.type(field, text)
            page.button(label)
            page.said(worker.node, *said)

        before, served = (slots(), queues()) if stage.has_app else (None, None)
        page.open(f"/workers/{worker.node}").sees("lab.add")
        does("slots", "2", "Grow", "will grow")
        does("slots", "1", "Shrink", "will shrink")
        does("queue", f"extra-{queue}", "Serve", f"extra-{queue}")
        assert stage.dashboard.ask(f"/api/v1/tasks/{stage.dashboard.send('add', 2, 3, queue=f'extra-{queue}')}?wait=20s")[1]["result"] == 5
        if stage.has_app:
            assert eventually(lambda: slots() == before + 1, 10, 0.1), slots()
            assert queues() == sorted([*served, f"extra-{queue}"])
        does("queue", f"extra-{queue}", "Leave", f"extra-{queue}")
        page.type("task", "lab.limited", "//form[.//button[normalize-space()='Set rate']]")
        does("rate", "7/m", "Set rate", "new rate limit")
        if stage.has_app:
            assert eventually(lambda: queues() == served, 10, 0.1), queues()
            known = asked.registered("rate_limit")[worker.node]
            assert "lab.limited [rate_limit=7/m]" in known, known


def test_a_limit_is_set_and_reset(stage, page):
    """Its rate is kept where all who share it look: in the store of the results."""
    config = stage.folder / "limits.toml"
    config.write_text('[limits."api.example"]\nrate = "20/min"\n')
    argv = [LABAPP, "run", "--limit", "api.example", "--broker", stage.broker_url, "--results", stage.results_url, "--emit", "none", "--progress", "none", "--noop"]
    run = Process([*argv, ":::", *map(str, range(100))], stage.folder / "limit.log", env={"LONGSHORE_CONFIG": str(config)}, cwd=stage.folder, name="run")
    page.open("/limits").sees("api.example")
    page.type("rate", "7/m", "//tr[contains(., 'api.example')]")
    page.press(in_row("api.example", "Set"))
    page.said("api.example is 7/min for all who share it")

    def known():
        return next((limit for limit in stage.dashboard.ask("/api/v1/limits")[1] if limit["limit"] == "api.example"), None)

    assert known()["rate"] == "7/min", known()
    # What shares it keeps to it: at twenty a minute it would take five minutes.
    page.type("rate", "100/s", "//tr[contains(., 'api.example')]")
    page.press(in_row("api.example", "Set"))
    page.said("api.example is 100/s for all who share it")
    assert run.wait(40) == 0, run.text()
    page.press(in_row("api.example", "Reset"))
    page.said("the rate of whoever asks holds again")
    # Nothing is set any more, and nobody uses it.
    assert known() is None


def test_a_schedule_is_run_paused_resumed_and_removed(stage, page):
    done = Process([LABAPP, "schedule", "add", "hourly <b>", "lab.add", "--every", "1h", "-a", "[20, 22]", "--queue", "ours", "--broker", stage.broker_url,
                    "--results", stage.results_url], stage.folder / "schedule.log", cwd=HERE)  # fmt: skip
    assert done.wait(20) == 0, done.text()
    page.open("/schedules").sees("hourly <b>", "No scheduler runs")
    page.press(in_row("hourly <b>", "Run now"))
    page.said("hourly <b>")
    id = page.text("//p[contains(@class, 'said')]").rsplit(" ", 1)[-1]
    assert stage.dashboard.ask(f"/api/v1/tasks/{id}?wait=10s")[1]["result"] == 42

    def kept():
        schedules = stage.dashboard.ask("/api/v1/schedules")[1]["schedules"]
        return {schedule["name"]: bool(schedule.get("paused_by")) for schedule in schedules}

    page.press(in_row("hourly <b>", "Pause"))
    page.sees("paused", within="//tr[contains(., 'hourly')]")
    assert kept() == {"hourly <b>": True}
    page.press(in_row("hourly <b>", "Resume"))
    page.find(in_row("hourly <b>", "Pause"))
    assert kept() == {"hourly <b>": False}
    page.press(in_row("hourly <b>", "Remove"), confirm=False)
    assert kept() == {"hourly <b>": False}
    page.press(in_row("hourly <b>", "Remove"), confirm=True)
    page.sees("There are none.")
    assert kept() == {}
