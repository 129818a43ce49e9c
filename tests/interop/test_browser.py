"""The dashboard in a real browser, before real workers: each action is clicked as a person clicks it, and what came of it is read at the broker, or from the
workers by Celery's own remote control."""

import contextlib
import http.server
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from dashboard import Dashboard, RedisPlace
from lab import HERE, LABAPP, Lab
from procs import Process, eventually

pytestmark = [pytest.mark.ours, pytest.mark.limit(60)]


@pytest.fixture(scope="module")
def stage(server, tmp_path_factory, database):
    """Three workers: Celery's with `result_extended` and without, and ours; a dashboard, and its browser's site."""
    lab = Lab(server, database(), tmp_path_factory.mktemp("stage"), "longshore").use()
    lab.python = lab.worker("python", name="python", queues="celery", concurrency=2, conf={"result_extended": True}, wait=False)
    lab.plain = lab.worker("python", name="plain", queues="plain", concurrency=1, wait=False)
    lab.ours = lab.worker("longshore", name="ours", queues="ours", wait=False)
    for worker in lab.workers:
        worker.wait_ready()
    lab.dashboard, lab.place = Dashboard(lab), RedisPlace(lab)
    yield lab
    lab.dashboard.stop()
    lab.close()


@pytest.fixture
def page(stage, browser):
    stage.use()
    browser.site = stage.dashboard.address
    yield browser
    complaints = browser.complaints()
    browser.forget()
    assert complaints == []


def row(text):
    return f"//tr[contains(., {json.dumps(text)})]"


def inspect(lab, worker):
    return lab.app.control.inspect([worker.node], timeout=5)


def failed(lab, queue, message="oh"):
    """A task that has failed, with the time of its end."""
    result = lab.fail.apply_async((message,), queue=queue)
    assert result.get(timeout=20, propagate=False)
    return result


def ends_again(lab, result):
    before, again = result.date_done, lab.app.AsyncResult(result.id)
    assert eventually(lambda: again.state == "FAILURE" and again.date_done not in (None, before), 20, 0.05), again.info


@pytest.mark.parametrize("queue", ["ours", "celery"])
def test_a_failed_task_is_sent_again_and_the_worker_of_its_queue_runs_it(stage, page, queue):
    """Ours by its stored message, Celery's by its result document, which holds the arguments with `result_extended`."""
    result = failed(stage, queue)
    page.open(f"/tasks/{result.id}").sees("failure", "ValueError")
    page.button("Retry")
    page.said("1 sent again")
    ends_again(stage, result)
    worker = stage.ours if queue == "ours" else stage.python
    # Once as it came, once as it came again.
    assert eventually(lambda: worker.text().count(f"[{result.id}] received") == 2, 10), worker.text()


def test_a_task_of_pythons_that_runs_is_asked_to_end_and_one_that_waits_is_not(stage, page):
    result = stage.abortable.apply_async(queue="celery")
    page.open(f"/tasks/{result.id}").sees("started")
    page.button("Abort")
    page.said("1 asked to end")
    assert result.get(timeout=20) == "aborted"
    waits = stage.add.apply_async((1, 2), queue="nobodys")
    for id, why in ((result.id, "has ended already"), (waits.id, "does not run yet")):
        status, answer = stage.dashboard.ask(f"/api/v1/tasks/{id}/abort", {})
        assert (status, why in json.dumps(answer)) == (422, True), answer


def test_a_task_whose_arguments_nobody_kept_says_what_to_switch_on(stage, page):
    result = failed(stage, "plain")
    page.open(f"/tasks/{result.id}").button("Retry")
    page.said("result_extended = True")
    assert stage.place.waiting("plain") == []


@pytest.mark.parametrize("queue", ["ours", "celery", "idle"])
def test_another_one_is_sent_with_changed_arguments(stage, page, queue):
    """Of one that has failed, wherever its arguments are known from, and of one that waits."""
    id = failed(stage, queue).id if queue != "idle" else stage.add.apply_async((1, 2), queue="idle").id
    page.open(f"/tasks/{id}").press("//summary[contains(., 'changed arguments')]")
    page.type("args", '["<b>edited</b>", 7]')
    page.button("Send under a new id")
    page.said("sent as ")
    new = page.text("//p[contains(@class, 'said')]").rsplit(" ", 1)[-1]
    if queue == "idle":
        body = next(json.loads(raw) for raw in stage.place.waiting("idle") if new.encode() in raw)
        assert body["headers"]["task"] == "lab.add" and "<b>edited</b>" in body["headers"]["argsrepr"]
        stage.redis.delete("idle")
    else:
        again = stage.app.AsyncResult(new)
        assert eventually(again.ready, 20, 0.05) and again.info.args == ("<b>edited</b>", 42), again.info


def test_a_task_that_waits_is_called_off_and_the_worker_that_comes_to_it_does_not_run_it(stage, page):
    path = stage.path()
    waits, stays = (stage.marked.apply_async((path, tag), queue="later") for tag in ("off", "on"))
    page.open(f"/tasks/{waits.id}").sees("waiting", "No worker that answers serves its queue.")
    page.button("Cancel")
    page.said("1 called off")
    assert (stage.app.AsyncResult(waits.id).state, stays.state) == ("REVOKED", "PENDING")
    worker = stage.worker("longshore", name="late", queues="later")
    assert stays.get(timeout=20) == "on"
    assert eventually(lambda: stage.place.waiting("later") == [], 10) and stage.starts(path) == {"on": 1}
    worker.stop()
    stage.workers.remove(worker)


@pytest.mark.parametrize("queue", ["ours", "celery"])
def test_a_task_that_runs_is_revoked_and_ended_once_it_is_confirmed(stage, page, queue):
    runs = (stage.tracked if queue == "ours" else stage.slow).apply_async((50,), queue=queue)
    worker = stage.ours if queue == "ours" else stage.python
    assert eventually(lambda: any(task["id"] == runs.id for task in (inspect(stage, worker).active() or {}).get(worker.node, [])), 20, 0.1)
    page.open(f"/tasks/{runs.id}").button("Cancel and end", confirm=False)
    assert runs.state in ("PENDING", "STARTED") and "said" not in page.path()
    page.button("Cancel and end", confirm=True)
    page.said("1 called off")
    assert eventually(lambda: stage.app.AsyncResult(runs.id).state == "REVOKED", 20, 0.1)
    assert runs.id in inspect(stage, worker).revoked()[worker.node]


def test_all_that_a_search_found_are_sent_again(stage, page):
    """First those that are ticked, then all that match, of which the page shows more than it sends."""
    mark = "bulk <i>retry</i>"
    results = [failed(stage, "ours", mark) for _ in range(5)]
    for result in results:
        stage.dashboard.stands(result.id, "failure")
    page.open("/tasks?state=failure")
    page.type("error", mark)
    page.button("Find")
    page.sees("5 remembered", mark)
    for result in results[:2]:
        page.press(f"//input[@value='{result.id}']")
    page.button("Retry ticked")
    page.said("2 sent again")
    # It still is the search: what is done next is not done to all.
    page.sees("5 remembered", "All 5 that match")
    for result in results[:2]:
        ends_again(stage, result)
    ended = {result.id: stage.app.AsyncResult(result.id).date_done for result in results}
    assert [result.date_done == ended[result.id] for result in results] == [False, False, True, True, True]
    page.press("//summary[contains(., 'All 5 that match')]")
    page.sees("5 tasks", f"error {mark}")
    page.button("Retry all 5")
    page.said("5 sent again")
    assert eventually(lambda: all(stage.app.AsyncResult(id).date_done not in (None, before) for id, before in ended.items()), 20, 0.1)


def test_a_search_line_finds_and_all_that_it_found_are_sent_again(stage, page):
    """The same line stands for the list and for what is done to all of it; a wrong one is answered in words."""
    mark = "line <i>search</i>"
    results = [failed(stage, "ours", mark) for _ in range(3)]
    for result in results:
        stage.dashboard.stands(result.id, "failure")
    page.open("/tasks").type("q", "colour:red")
    page.button("Find")
    page.sees("colour: is no field of a task", "runtime:>2s since:1h")
    page.type("q", f'"{mark}" state:failed task:lab.*')
    page.button("Find")
    page.sees("3 remembered", mark)
    # Suggestions are for the last term.
    page.type("q", "error:x sta")
    assert page.script("return document.querySelector('#known option').value") == "error:x state:waiting"
    ended = {result.id: stage.app.AsyncResult(result.id).date_done for result in results}
    page.press("//summary[contains(., 'All 3 that match')]")
    page.button("Retry all 3")
    page.said("3 sent again")
    assert eventually(lambda: all(stage.app.AsyncResult(id).date_done not in (None, before) for id, before in ended.items()), 20, 0.1)


def test_failures_need_attention_and_lead_to_their_tasks(stage, page):
    results = [failed(stage, "ours", f"no such <i>shelf</i> {n}") for n in range(3)]
    for result in results:
        stage.dashboard.stands(result.id, "failure")
    said = "3 × no such <i>shelf</i> … of lab.fail in 5 min"
    page.open("/").sees(said)
    page.press(f'//a[contains(., "{said}")]')
    page.sees("3 remembered", *(result.id[:8] for result in results))


def test_keys_lead_to_pages_and_act_where_buttons_do_and_never_while_somebody_types(stage, page):
    result = failed(stage, "ours", "keys")
    page.open("/").keys("gw")
    assert eventually(lambda: page.path() == "/workers")
    page.keys("/")
    assert eventually(lambda: page.path().startswith("/tasks"))
    assert eventually(lambda: page.script("return document.activeElement.name") == "q")
    page.keys("gq?")
    assert page.path().startswith("/tasks") and page.script("return document.activeElement.value") == "gq?"
    page.open("/queues").keys("?")
    page.sees("Dead letters", "asks first", within="//dialog")
    # Behind the list nothing is pressed.
    page.keys("gt\ue00c")
    assert page.path() == "/queues" and not page.script("return document.getElementById('keys').open")
    page.button("Keys ?")
    assert page.script("return document.getElementById('keys').open")
    page.open(f"/tasks/{result.id}").sees("failure").keys("r")
    page.do("alert/dismiss")
    page.keys("r")
    page.do("alert/accept")
    page.said("1 sent again")
    ends_again(stage, result)


def test_all_that_wait_and_match_are_called_off(stage, page):
    waits = [stage.add.apply_async((n, n), queue="idle") for n in range(4)] + [stage.mul.apply_async((1, 1), queue="idle")]
    page.open("/tasks?state=waiting&from=broker&queue=idle&task=lab.add").sees("4 match")
    # The box in the head ticks all that are shown.
    page.press("//input[@data-all]")
    assert page.script("return document.querySelectorAll('input[name=id]:checked').length") == 4
    page.button("Cancel ticked")
    page.said("4 called off")
    assert [stage.app.AsyncResult(each.id).state for each in waits] == ["REVOKED"] * 4 + ["PENDING"]
    page.type("task", "lab.mul")
    page.button("Find")
    page.sees("1 match")
    page.press("//summary[contains(., 'All 1 that match')]")
    page.button("Cancel all 1")
    page.said("1 called off")
    assert waits[-1].state == "REVOKED"
    stage.redis.delete("idle")


@pytest.mark.parametrize("whose", ["ours", "python"])
def test_a_worker_grows_shrinks_serves_and_leaves_and_gets_rates(stage, page, whose):
    worker = getattr(stage, whose)

    def slots():
        """Celery's worker says how many processes it has, ours how many slots its lane has."""
        stats = inspect(stage, worker).stats()[worker.node]
        return len(stats["pool"]["processes"]) if whose == "python" else stats["lanes"]["blocking"]

    def queues():
        return sorted(queue["name"] for queue in inspect(stage, worker).active_queues()[worker.node])

    def does(field, text, label, *said):
        page.type(field, text)
        page.button(label)
        page.said(worker.node, *said)

    before, served = slots(), queues()
    page.open("/workers").press(f"//main//a[normalize-space()='{worker.node}']")
    page.sees("lab.add")
    shown = int(page.text("//td[@data-label='Running']").split("of")[1])
    does("slots", "2", "Grow", "will grow")
    assert eventually(lambda: slots() == before + 2, 10, 0.1), slots()
    # It is seen, too. Ours grows on its blocking and process lanes.
    page.sees(f"of {shown + (2 if whose == 'python' else 4)}", within="//td[@data-label='Running']", seconds=20)
    does("slots", "1", "Shrink", "will shrink")
    assert eventually(lambda: slots() == before + 1, 10, 0.1), slots()
    does("queue", "extra <q>", "Serve", "extra <q>")
    assert eventually(lambda: queues() == sorted([*served, "extra <q>"]), 10, 0.1), queues()
    assert stage.add.apply_async((2, 3), queue="extra <q>").get(timeout=20) == 5
    does("queue", "extra <q>", "Leave", "extra <q>")
    assert eventually(lambda: queues() == served, 10, 0.1), queues()
    page.type("task", "lab.limited")
    does("rate", "7/m", "Set rate", "new rate limit")
    known = inspect(stage, worker).registered("rate_limit")[worker.node]
    assert "lab.limited [rate_limit=7/m]" in known, [task for task in known if task.startswith("lab.limited")]
    # From now on its calls are ended after a second.
    limits = "//form[.//input[@name='hard']]"
    page.type("task", "lab.slow", limits)
    page.type("hard", "1", limits)
    page.button("Set limits", limits)
    page.said(worker.node, "time limits set")
    if whose == "ours":
        # Celery's prefork pool keeps those that a task had at the worker's start, whatever it replies.
        slow = stage.slow.apply_async((30,), queue=served[0])
        assert "TimeLimitExceeded" in repr(slow.get(timeout=25, propagate=False))
    page.type("task", "lab.slow", limits)
    page.button("Set limits", limits)
    page.said(worker.node, "time limits set")
    # What is said of it is what was said before: the worker may hear of it a moment later.
    in_time = lambda: stage.slow.apply_async((1.5, "in time"), queue=served[0]).get(timeout=20, propagate=False) == "in time"
    assert eventually(in_time, 20, 0.2)


def test_autoscale_has_other_bounds_where_a_worker_has_it(stage, page):
    worker = stage.worker("longshore", name="scales", queues="scaling", flags=["--autoscale", "4,1"])
    page.open(f"/workers/{worker.node}")
    page.type("max", "6")
    page.button("Set bounds")
    page.said(worker.node, "autoscale now max=6 min=1")
    scale = inspect(stage, worker).stats()[worker.node]["autoscaler"]
    assert (scale["max"], scale["min"]) == (6, 1), scale
    page.open(f"/workers/{stage.ours.node}").lacks("Set bounds")
    worker.stop()
    stage.workers.remove(worker)


def test_settings_name_what_was_done_here(stage, page):
    page.open("/queues/ours").button("Pause")
    page.said("ours is paused")
    page.button("Resume")
    page.said("ours goes on")
    page.open("/settings").sees("whoever is on this machine", "pause", "resume", stage.dashboard.address.removeprefix("http://"))


def test_a_worker_stops_warmly_once_it_is_confirmed(stage, page):
    worker = stage.worker("longshore", name="leaves", queues="leaving")
    runs = stage.tracked.apply_async((1.5,), queue="leaving")
    assert eventually(lambda: runs.state == "STARTED", 20, 0.02)
    page.open(f"/workers/{worker.node}").button("Stop warmly", confirm=False)
    assert worker.alive()
    page.button("Stop warmly", confirm=True)
    page.said(worker.node, "was told to stop")
    assert worker.process.wait(20) == 0, worker.text()
    assert runs.get(timeout=10) == "done"
    stage.workers.remove(worker)


def test_the_page_of_a_worker_pauses_it_gives_it_slots_and_stops_it(stage, page):
    """The page that a worker of ours has of its own; its buttons are those of how it stands now."""
    worker = stage.worker("longshore", name="listens", queues="listening", flags=["--listen", "127.0.0.1:0"])
    page.site = worker.process.wait_for(r"http://127\.0\.0\.1:\d+", 30)[0]

    def is_there():
        with contextlib.suppress(urllib.error.HTTPError):
            return urllib.request.urlopen(page.site + "/api/v1/view", timeout=10).status == 200

    assert eventually(is_there, 20, 0.1), worker.text()
    page.open("/").sees(worker.node, "running", "live").script("window.kept = true")
    # Somebody else pauses it: the page is not loaded anew.
    request = urllib.request.Request(page.site + "/api/v1/pause", b"{}", {"Content-Type": "application/json"})
    assert urllib.request.urlopen(request, timeout=10).status == 200
    page.sees("Consume again")
    held = stage.add.apply_async((1, 2), queue="listening")
    assert page.script("return window.kept") and not eventually(lambda: held.ready(), 1.5, 0.1)
    page.button("Consume again")
    page.said("it consumes again")
    assert held.get(timeout=20) == 3
    page.button("Pause")
    page.said("paused: it consumes nothing more")
    page.button("Consume again")
    page.type("lane", "blocking")
    page.type("most", "5")
    page.button("Set")
    page.said("the blocking lane has 5 slots now")
    assert inspect(stage, worker).stats()[worker.node]["lanes"]["blocking"] == 5
    page.button("Stop warmly", confirm=False)
    assert worker.alive()
    page.button("Stop warmly", confirm=True)
    assert worker.process.wait(20) == 0, worker.text()
    stage.workers.remove(worker)
    # Its page went with it.
    page.complaints()


def test_a_list_and_a_task_renew_themselves_and_what_is_ticked_stays(stage, page):
    ended = stage.dashboard.send("add", 1, 1, queue="ours")
    stage.dashboard.stands(ended, "success")
    page.open("/tasks?task=lab.tracked").script("window.kept = true")
    runs = stage.dashboard.send("tracked", 8, queue="ours")
    page.sees(runs[:8], "started", within="//table", seconds=25)
    page.press(f"//input[@value='{runs}']")
    later = stage.dashboard.send("tracked", 0, queue="ours")
    page.sees(later[:8], "success", within="//table", seconds=25)
    ticked = "return [...document.querySelectorAll('input[name=id]:checked')].map((box) => box.value)"
    assert page.script(ticked) == [runs] and page.script("return window.kept")
    runs = stage.dashboard.send("tracked", 6, queue="ours")
    stage.dashboard.stands(runs, "started")
    page.open(f"/tasks/{runs}").sees("started", "A worker has it: it runs.", "Cancel and end").script("window.kept = true")
    page.sees("succeeded", "It has ended.", "Retry", seconds=25)
    assert page.script("return window.kept")


class Refusing(http.server.BaseHTTPRequestHandler):
    """Passes requests on to a server, but for streams while it refuses them."""

    def do_GET(self):
        if self.server.refuses and "event-stream" in self.headers["Accept"]:
            return self.send_error(503)
        request = urllib.request.Request(self.server.to + self.path, headers={"Accept": self.headers["Accept"]})
        with urllib.request.urlopen(request, timeout=30) as answer:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.end_headers()
            while some := answer.read1(65536):
                self.wfile.write(some)

    def log_message(self, *_):
        pass


def test_a_page_whose_stream_was_refused_asks_for_it_again(stage, page):
    """A browser gives such a stream up for good."""
    between = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    between.daemon_threads, between.block_on_close, between.to, between.refuses = True, False, stage.dashboard.address, True
    threading.Thread(target=between.serve_forever, daemon=True).start()
    try:
        page.site = f"http://127.0.0.1:{between.server_port}"
        page.open("/").sees("tries again in 10 s", within="//*[@id='link']")
        between.refuses = False
        page.sees("live", within="//*[@id='link']", seconds=20)
        page.complaints()
        page.do("url", {"url": "about:blank"})
    finally:
        between.shutdown()


def test_events_come_by_themselves_are_filtered_and_paused(stage, page):
    page.open("/events?kind=task-failed&worker=" + stage.ours.node)
    first = failed(stage, "ours", "first of the events")
    page.sees("first of the events", "live")
    page.type("task", "lab.add")
    page.button("Show")
    page.lacks("first of the events")
    page.open("/events").button("Pause")
    page.sees("Paused")
    second = failed(stage, "ours", "second of the events")
    stage.dashboard.stands(second.id, "failure")
    # A page that is renewed has been so after this time.
    time.sleep(1.5)
    assert "second of the events" not in page.text()
    page.button("Go on")
    page.sees("second of the events")
    page.press(f"//a[contains(@href, '{first.id}')]")
    page.sees("failure", "first of the events")


def test_the_theme_is_switched_and_kept(stage, page):
    page.open("/").colours("light")
    background = "return getComputedStyle(document.body).backgroundColor"
    light = page.script(background)
    page.press("//button[@id='theme']")
    dark = page.script(background)
    assert dark != light and page.open("/queues").script(background) == dark
    page.press("//button[@id='theme']")
    assert page.script(background) == light
    page.colours("dark")
    assert page.open("/").script(background) == light


def test_who_has_the_token_comes_in_by_the_form_and_nobody_else(stage, page):
    token = "a token of more than sixteen"
    shut = Dashboard(stage, "--web-token", token, "--no-history")
    try:
        page.site = shut.address
        page.open("/queues/ours?x=1")
        assert urllib.parse.urlsplit(page.path()).path == "/login"
        page.type("token", "not the token")
        page.button("Log in")
        page.sees("this is not the token")
        assert any("401" in complaint for complaint in page.complaints())
        page.open("/queues/ours?x=1").type("token", token)
        page.button("Log in")
        page.sees("Queue ours")
        assert page.path() == "/queues/ours?x=1"
        page.button("Pause")
        page.said("ours is paused")
        page.button("Resume")
        page.said("ours goes on")
        # No script can read what proves it.
        assert "longshore_session" not in page.script("return document.cookie")
        page.tell("DELETE", f"/session/{page.session}/cookie")
        assert page.open("/queues").path().startswith("/login")
    finally:
        shut.stop()


def test_a_job_is_paused_changed_and_cancelled_on_its_page_and_on_that_of_the_run(stage, page):
    folder = stage.folder / "job"
    folder.mkdir()
    argv = [LABAPP, "run", "--name", "pages", "-j", "2", "--state-dir", stage.dashboard.state, "--progress", "plain", "--listen", "127.0.0.1:0", "--shell"]
    run = Process([*argv, *"--emit none".split(), "--", "sleep", "0.2; echo", "{}", ":::", *map(str, range(3000))], folder / "log", cwd=folder, name="run")
    try:
        run.wait_for(r"http://127\.0\.0\.1:\d+", 30)
        address = next(word for word in run.text().split() if word.startswith("http://127"))
        print(address)
        for site, path in ((stage.dashboard.address, "/jobs"), (address.rstrip("/.,;"), "/")):
            page.site = site
            page.open(path)
            if path == "/jobs":
                page.press("//a[normalize-space()='pages']")
            page.sees("running")
            page.button("Pause")
            page.said("paused")
            page.sees("paused", within="//h1")
            page.button("Go on")
            page.said("go")
            page.type("concurrency", "5")
            page.press("//form[.//input[@name='concurrency']]//button")
            page.said("5")
            page.sees("of 5 running")
            page.type("rate", "9/s")
            page.press("//form[.//input[@name='rate']]//button")
            page.sees("of 9/s")
            page.type("rate", "none")
            page.press("//form[.//input[@name='rate']]//button")
            page.type("concurrency", "2")
            page.press("//form[.//input[@name='concurrency']]//button")
            page.sees("of 2 running")
        page.button("Cancel", confirm=False)
        assert run.alive()
        page.button("Cancel", confirm=True)
        assert run.wait(20) not in (None, 0)
        page.site = stage.dashboard.address
        page.open("/jobs").press("//a[normalize-space()='pages']")
        page.sees("stopped", "longshore run --resume")
        # The stream of the run's own page was cut off with it.
        page.complaints()
    finally:
        run.kill()
