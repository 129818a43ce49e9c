"""Remote control: what `celery status`, `celery inspect` and `celery control` ask, answered as Celery answers it."""

import datetime
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from celery.exceptions import TaskRevokedError

from lab import HERE
from procs import eventually

pytestmark = [pytest.mark.alone, pytest.mark.needs("control")]

# Every field of a queue, as `inspect active_queues` has them.
QUEUE = {
    "name", "exchange", "routing_key", "queue_arguments", "binding_arguments", "consumer_arguments", "durable", "exclusive", "auto_delete", "no_ack", "alias",
    "bindings", "no_declare", "expires", "message_ttl", "max_length", "max_length_bytes", "max_priority",
}  # fmt: skip
EXCHANGE = {"name", "type", "arguments", "durable", "passive", "auto_delete", "delivery_mode", "no_declare"}


def ask(lab, command, to=None, **arguments):
    """What the worker (the only one) answers to this command."""
    replies = lab.app.control.broadcast(command, arguments=arguments, destination=to, reply=True, timeout=5, limit=1)
    assert len(replies) == 1 and len(replies[0]) == 1, replies
    ((node, answer),) = replies[0].items()
    assert node == lab.workers[0].node
    return answer


def celery(lab, *words, code=0):
    """Celery's own command line."""
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "labapp", *words],
        cwd=HERE, env={**os.environ, **lab.env()}, capture_output=True, text=True, timeout=25,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def served(own_lab):
    """A worker for this test alone, because the test changes it."""
    own_lab.worker(concurrency=2)
    return own_lab


def test_celery_status_says_that_it_is_online(lab):
    out = celery(lab, "status")
    assert f"{lab.workers[0].node}: OK" in out and "1 node online." in out


def test_celery_inspect_and_report_on_the_command_line(lab):
    node = lab.workers[0].node
    assert json.loads(celery(lab, "inspect", "ping", "--json"))[node] == {"ok": "pong"}
    assert "software -> celery:" in celery(lab, "inspect", "report")


def test_ping_and_clock_and_hello(lab):
    assert ask(lab, "ping") == {"ok": "pong"}
    before = ask(lab, "clock")["clock"]
    assert ask(lab, "clock")["clock"] > before
    hello = ask(lab, "hello", from_node="somebody@lab", revoked=[])
    assert isinstance(hello["clock"], int) and hello["revoked"] in ([], {})
    # Nobody greets himself.
    assert ask(lab, "hello", from_node=lab.workers[0].node, revoked=[]) is None


def test_a_destination_a_glob_and_a_regular_expression_choose_workers(lab):
    node = lab.workers[0].node
    assert ask(lab, "ping", to=[node]) == {"ok": "pong"}
    nobody = dict(reply=True, timeout=0.4)
    assert not lab.app.control.broadcast("ping", destination=["nobody@lab"], **nobody)
    assert not lab.app.control.broadcast("ping", pattern="no*", matcher="glob", **nobody)
    # Ours says of regular expressions (which only Python programs can ask for) that it has none.
    for pattern, matcher in (("*@lab", "glob"), *([(".+@l[a-c]b", "pcre")] if lab.kind == "python" else [])):
        assert lab.app.control.broadcast("ping", pattern=pattern, matcher=matcher, reply=True, timeout=3, limit=1) == [{node: {"ok": "pong"}}]


def test_what_runs_is_active_and_what_waits_is_reserved(served):
    lab = served
    sent = [lab.slow.apply_async((1.2, n), kwargs={}) for n in range(6)]
    assert eventually(lambda: len(ask(lab, "active")) == 2, 5)
    active = ask(lab, "active")
    assert {task["id"] for task in active} == {sent[0].id, sent[1].id}
    task = next(task for task in active if task["id"] == sent[0].id)
    assert task["name"] == task["type"] == "lab.slow" and task["hostname"] == lab.workers[0].node
    assert task["args"] == [1.2, 0] and task["kwargs"] == {} and abs(task["time_start"] - time.time()) < 60
    assert task["delivery_info"] == {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": None} or (
        task["delivery_info"]["routing_key"] == "celery" and not task["delivery_info"]["redelivered"])
    assert isinstance(task["worker_pid"], int) and isinstance(task["acknowledged"], bool)
    reserved = ask(lab, "reserved")
    assert {task["id"] for task in reserved} <= {each.id for each in sent[2:]}
    assert all(task["worker_pid"] is None and task["time_start"] is None for task in reserved)
    answer = ask(lab, "query_task", ids=[sent[0].id, "unknown"])
    assert list(answer) == [sent[0].id] and answer[sent[0].id][0] == "active" and answer[sent[0].id][1]["id"] == sent[0].id
    if reserved:
        assert ask(lab, "query_task", ids=[reserved[0]["id"]])[reserved[0]["id"]][0] == "reserved"
    assert [each.get(timeout=15) for each in sent] == list(range(6))
    assert eventually(lambda: ask(lab, "active") == [], 5)


def test_what_has_an_eta_is_scheduled(served):
    lab = served
    eta = datetime.datetime.now(datetime.timezone.utc) + lab.held
    sent = lab.add.apply_async((1, 1), eta=eta)
    assert eventually(lambda: ask(lab, "scheduled"), 5)
    (task,) = ask(lab, "scheduled")
    assert task["request"]["id"] == sent.id and task["request"]["name"] == "lab.add" and task["priority"] == 6
    assert abs(datetime.datetime.fromisoformat(task["eta"]) - eta) < datetime.timedelta(seconds=1)
    sent.revoke()
    assert eventually(lambda: sent.state == "REVOKED", 5)


def test_the_registered_tasks_are_named_with_what_was_asked_of_them(lab):
    names = ask(lab, "registered")
    assert names == sorted(names) and "lab.add" in names and not any(name.startswith("celery.") for name in names)
    assert "lab.limited [rate_limit=4/s]" in names
    assert "lab.limited" in {name.split(" ")[0] for name in ask(lab, "registered", taskinfoitems=["max_retries"])}


def test_the_attributes_of_tasks_are_told(lab):
    def told(*items):
        return next(entry for entry in ask(lab, "registered", taskinfoitems=list(items)) if entry.split(" ")[0] == "lab.silent")

    assert told("name") == "lab.silent [name=lab.silent]"
    assert told("ignore_result", "name", "name", "nosuch") == "lab.silent [ignore_result=True name=lab.silent]"
    assert told("max_retries", "serializer") == "lab.silent [max_retries=3 serializer=json]"
    assert told("time_limit", "rate_limit", "expires") == "lab.silent"
    node = lab.workers[0].node
    assert "lab.add [name=lab.add]" in json.loads(celery(lab, "inspect", "registered", "name", "--json"))[node]


def test_stats_have_what_celery_and_flower_read(lab):
    lab.add.delay(1, 1).get(timeout=10)
    stats = ask(lab, "stats")
    assert stats["total"]["lab.add"] >= 1 and isinstance(stats["pid"], int) and stats["clock"].isdigit() and stats["uptime"] >= 0
    # Ours has as many slots on each of its four lanes.
    assert stats["pool"]["max-concurrency"] == (4 if lab.kind == "python" else 16) and "processes" in stats["pool"]
    assert tuple(stats["broker"][part] for part in ("transport", "hostname", "port")) == lab.broker()
    assert stats["prefetch_count"] >= 4 and stats["rusage"]["utime"] >= 0


def test_the_queues_have_every_field(lab):
    (queue,) = ask(lab, "active_queues")
    assert set(queue) >= QUEUE and set(queue["exchange"]) >= EXCHANGE
    assert (queue["name"], queue["routing_key"], queue["exchange"]["name"], queue["exchange"]["type"]) == ("celery", "celery", "celery", "direct")
    assert queue["durable"] and not queue["exclusive"]


def test_settings_and_report_hide_passwords(served):
    conf = ask(served, "conf", with_defaults=True)
    assert "broker_url" in conf and "S3CRET" not in json.dumps(conf)
    assert "software -> celery:" in ask(served, "report")["ok"]


def test_the_settings_are_those_that_celery_tells(served):
    told = ask(served, "conf")
    assert set(told) >= {"broker_url", "result_backend", "deprecated_settings", "include", "worker_disable_prefetch"}
    # What Celery's client has with defaults is what its worker tells.
    own = set(served.app.conf.table(with_defaults=True))
    everything = ask(served, "conf", with_defaults=True)
    assert own - set(everything) == set()
    assert everything["broker_heartbeat"] == 120 and everything["worker_hijack_root_logger"] is True and everything["worker_log_color"] is None
    assert "S3CRET" not in json.dumps(everything)


def test_the_rest_answers_as_celery_does(lab):
    assert ask(lab, "memsample") is None or isinstance(ask(lab, "memsample"), str)
    assert ask(lab, "revoked") in ([], None) or isinstance(ask(lab, "revoked"), list)
    assert ask(lab, "heartbeat") is None
    assert ask(lab, "nosuch") == {"error": "KeyError('nosuch')"}
    assert ask(lab, "rate_limit", nonsense=1)["error"].startswith("TypeError(")
    assert "Autoscale not enabled" in ask(lab, "autoscale", max=5, min=1)["error"]


@pytest.mark.needs("autoscale")
def test_autoscale_has_bounds_that_can_be_changed(own_lab):
    own_lab.worker(flags=["--autoscale", "5,2"])
    assert ask(own_lab, "stats")["autoscaler"]["max"] == 5
    assert ask(own_lab, "autoscale", max=4, min=3) == {"ok": "autoscale now max=4 min=3"}
    told = ask(own_lab, "stats")["autoscaler"]
    assert (told["max"], told["min"], told["current"]) == (4, 3, 3)


def test_events_are_switched_on_and_off(served):
    assert ask(served, "enable_events") == {"ok": "task events enabled"}
    assert ask(served, "enable_events") == {"ok": "task events already enabled"}
    assert ask(served, "disable_events") == {"ok": "task events disabled"}
    assert ask(served, "disable_events") == {"ok": "task events already disabled"}


def test_a_rate_limit_is_set_and_kept(served):
    lab, path = served, served.path()
    assert ask(lab, "rate_limit", task_name="lab.marked", rate_limit="5/s") == {"ok": "new rate limit set successfully"}
    assert ask(lab, "rate_limit", task_name="no.such", rate_limit="5/s") == {"error": "unknown task"}
    assert ask(lab, "rate_limit", task_name="lab.marked", rate_limit="fast")["error"].startswith("Invalid rate limit string")
    begun = time.time()
    sent = [lab.marked.delay(path, n) for n in range(6)]
    # What is limited holds up nothing else.
    assert lab.add.delay(1, 1).get(timeout=10) == 2
    for each in sent:
        each.get(timeout=10)
    starts = sorted(float(words[4]) for words in lab.marks(path) if words[0] == "start")
    assert starts[-1] - starts[0] > 0.75 and time.time() - begun < 6
    assert ask(lab, "rate_limit", task_name="lab.marked", rate_limit=0) == {"ok": "rate limit disabled successfully"}


def test_time_limits_are_set(served):
    lab = served
    assert ask(lab, "time_limit", task_name="lab.slow", hard=1.0, soft=None) == {"ok": "time limits set successfully"}
    assert ask(lab, "time_limit", task_name="no.such", hard=1)["error"].startswith("unknown task")
    if lab.kind == "python":
        # Measured: Celery's prefork pool has looked the limits up when it started, and this one never strikes.
        return
    sent = lab.slow.delay(20)
    with pytest.raises(Exception) as caught:
        sent.get(timeout=15)
    assert type(caught.value).__name__ == "TimeLimitExceeded"


def test_the_pool_grows_and_shrinks(served):
    lab = served

    def size():
        # Celery's own keeps saying what it began with, and lists its processes.
        pool = ask(lab, "stats")["pool"]
        return len(pool["processes"]) if lab.kind == "python" else pool["max-concurrency"]

    before = size()
    assert ask(lab, "pool_grow", n=2) == {"ok": "pool will grow"}
    assert eventually(lambda: size() > before, 5)
    grown = size()
    assert ask(lab, "pool_shrink", n=1) == {"ok": "pool will shrink"}
    assert eventually(lambda: before < size() < grown, 5)


def test_queues_are_taken_into_service_and_out_of_it(served):
    lab = served
    waiting = lab.add.apply_async((1, 1), queue="images")
    time.sleep(0.5)
    assert waiting.state == "PENDING"
    assert ask(lab, "add_consumer", queue="images") == {"ok": "add consumer images"}
    assert waiting.get(timeout=10) == 2
    assert {queue["name"] for queue in ask(lab, "active_queues")} == {"celery", "images"}
    assert ask(lab, "cancel_consumer", queue="images") == {"ok": "no longer consuming from images"}
    time.sleep(1.2)
    stays = lab.add.apply_async((2, 2), queue="images")
    time.sleep(1.0)
    assert stays.state == "PENDING" and [queue["name"] for queue in ask(lab, "active_queues")] == ["celery"]
    lab.app.control.purge()
    lab.redis.delete("images")


def test_a_task_that_waits_is_revoked(served):
    lab, path = served, served.path()
    # Longer than a busy server takes to pass a question on.
    busy = [lab.slow.delay(3) for _ in range(2)]
    assert eventually(lambda: len(ask(lab, "active")) == 2, 5)
    waiting, other = lab.marked.delay(path, "revoked"), lab.marked.delay(path, "other")
    answer = ask(lab, "revoke", task_id=waiting.id)
    assert waiting.id in answer["ok"] and "flagged as revoked" in answer["ok"]
    with pytest.raises(TaskRevokedError):
        waiting.get(timeout=10)
    assert other.get(timeout=10) == "other"
    for each in busy:
        each.get(timeout=10)
    assert lab.starts(path) == {"other": 1} and waiting.id in ask(lab, "revoked")
    assert lab.wait_empty() == {}


def test_a_task_that_runs_is_terminated(served):
    lab, path = served, served.path()
    runs = lab.marked.delay(path, "runs", 20)
    assert eventually(lambda: lab.starts(path)["runs"], 5)
    answer = ask(lab, "revoke", task_id=runs.id, terminate=True, signal="SIGTERM")
    assert runs.id in answer["ok"] and "terminate" in answer["ok"]
    with pytest.raises(TaskRevokedError) as caught:
        runs.get(timeout=10)
    assert caught.value.args == ("terminated",)
    assert "tasks unknown" in ask(lab, "revoke", task_id="unknown", terminate=True)["ok"]
    # A Python pool may take seconds to have its processes again.
    assert lab.add.delay(1, 1).get(timeout=15) == 2


def test_tasks_are_revoked_by_their_stamps(served):
    lab, path = served, served.path()
    busy = [lab.slow.delay(0.8) for _ in range(2)]
    assert eventually(lambda: len(ask(lab, "active")) == 2, 5)
    stamped = lab.marked.apply_async((path, "stamped"), stamped_headers=["batch"], batch="b7")
    other = lab.marked.apply_async((path, "other"), stamped_headers=["batch"], batch="b8")
    assert "flagged as revoked" in ask(lab, "revoke_by_stamped_headers", headers={"batch": ["b7"]})["ok"]
    with pytest.raises(TaskRevokedError):
        stamped.get(timeout=10)
    assert other.get(timeout=10) == "other" and lab.starts(path) == {"other": 1}
    for each in busy:
        each.get(timeout=10)


@pytest.mark.parametrize("called_off, stamp, is_revoked", [
    ([1234], 1234, True), ([1234], "1234", False), (["1234"], 1234, False), (True, True, True), (True, 1, True), (1.0, 1, True), ([0], False, True),
    ([1, 2], [2, 9], True), ([[1, 2]], [[1, 2]], True), ([[1, 2]], [1, 2], False), ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True), ("ab", "a", False),
])  # fmt: skip
def test_tasks_are_revoked_by_stamps_that_are_not_text(lab, called_off, stamp, is_revoked, request):
    name = f"stamp-{abs(hash(request.node.name))}"
    assert "flagged as revoked" in ask(lab, "revoke_by_stamped_headers", headers={name: called_off})["ok"]
    sent = lab.add.apply_async((1, 1), stamped_headers=[name], **{name: stamp})
    if is_revoked:
        with pytest.raises(TaskRevokedError):
            sent.get(timeout=10)
    else:
        assert sent.get(timeout=10) == 2


def test_a_stamp_of_nothing_is_refused(lab):
    assert "object is not iterable" in ask(lab, "revoke_by_stamped_headers", headers={"nothing": None})["error"]


def test_a_soft_limit_is_told_and_a_hard_one_ends_the_task(served):
    lab = served
    assert lab.soft.apply_async((10,), soft_time_limit=0.5).get(timeout=10) == "soft"
    sent = lab.tracked.apply_async((10,), soft_time_limit=0.5)
    with pytest.raises(Exception) as caught:
        sent.get(timeout=10)
    assert type(caught.value).__name__ == "SoftTimeLimitExceeded"
    sent = lab.slow.apply_async((20,), time_limit=1)
    with pytest.raises(Exception) as caught:
        sent.get(timeout=10)
    assert type(caught.value).__name__ == "TimeLimitExceeded" and caught.value.args == (1,)


def test_a_task_whose_process_dies_fails_or_is_buried_and_the_worker_goes_on(served):
    lab = served
    sent = lab.dies.delay()
    with pytest.raises(Exception) as caught:
        sent.get(timeout=20)
    assert type(caught.value).__name__ == "WorkerLostError"
    assert lab.add.delay(1, 1).get(timeout=15) == 2


def test_shutdown_lets_what_runs_end_and_the_worker_with_it(served):
    lab = served
    runs = lab.slow.delay(1.0, "ended")
    assert eventually(lambda: len(ask(lab, "active")) == 1, 5)
    lab.app.control.shutdown(destination=[lab.workers[0].node])
    assert runs.get(timeout=10) == "ended"
    assert lab.workers[0].process.wait(10) == 0
    assert lab.wait_empty() == {}


class Events:
    """Celery's own receiver of events, on a thread."""

    def __init__(self, lab):
        self.seen, self.connection = [], lab.app.connection()
        self.receiver = lab.app.events.Receiver(self.connection, handlers={"*": self.seen.append})
        threading.Thread(target=self._take, daemon=True).start()
        # Its own subscription, which the broker has once it is told of it.
        assert eventually(lambda: lab.listeners() >= 1, 5)

    def _take(self):
        try:
            self.receiver.capture(limit=None, timeout=None, wakeup=False)
        except Exception:  # noqa: BLE001
            pass

    def kinds(self):
        return {event["type"] for event in list(self.seen)}

    def of(self, result):
        return [event for event in list(self.seen) if event.get("uuid") == result.id]

    def close(self):
        self.receiver.should_stop = True


@pytest.fixture
def events(own_lab):
    events = Events(own_lab)
    yield events
    events.close()


def test_a_worker_that_leaves_says_so_and_one_that_comes_too(own_lab, events):
    own_lab.worker()
    assert eventually(lambda: events.kinds() >= {"worker-online", "worker-heartbeat"}, 10)
    own_lab.workers[0].terminate()
    assert eventually(lambda: "worker-offline" in events.kinds(), 10)
    beat = next(event for event in events.seen if event["type"] == "worker-heartbeat")
    assert beat["hostname"] == own_lab.workers[0].node and beat["freq"] == 2.0 and len(beat["loadavg"]) == 3
    assert set(beat) >= {"active", "processed", "sw_ident", "sw_ver", "sw_sys", "pid", "clock", "timestamp", "utcoffset"}


def test_the_events_of_a_task_tell_its_story(own_lab, events):
    lab = own_lab
    lab.worker(concurrency=2)
    assert ask(lab, "enable_events") == {"ok": "task events enabled"}
    good, bad, again = lab.add.delay(1, 2), lab.fail.delay("oh"), lab.flaky.delay(1, 0.05)
    gone = lab.add.apply_async((1, 1), **lab.expired)
    story = events.of
    over = {"task-succeeded", "task-failed", "task-revoked"}
    assert eventually(lambda: all(story(each) and story(each)[-1]["type"] in over for each in (good, bad, again, gone)), 10), events.seen
    kinds = lambda result: [event["type"] for event in story(result)]  # noqa: E731
    assert kinds(good) == ["task-received", "task-started", "task-succeeded"]
    assert kinds(bad) == ["task-received", "task-started", "task-failed"]
    # Celery's own says at times that the second attempt has come before it says that the first one asks for it.
    assert sorted(kinds(again)) == sorted(["task-received", "task-started"] * 2 + ["task-retried", "task-succeeded"]) and kinds(again)[-1] == "task-succeeded"
    # Celery's own has not received what had expired when it came.
    assert kinds(gone) in (["task-received", "task-revoked"], ["task-revoked"])
    received, _, succeeded = story(good)
    assert received["name"] == "lab.add" and received["args"] in ("[1, 2]", "(1, 2)") and received["kwargs"] == "{}" and received["root_id"] == good.id
    assert succeeded["result"] == "3" and succeeded["runtime"] >= 0 and succeeded["hostname"] == lab.workers[0].node
    assert story(bad)[-1]["exception"] == "ValueError('oh', 42)" and story(bad)[-1]["traceback"]
    assert next(event for event in story(again) if event["type"] == "task-retried")["exception"].find("again") >= 0
    assert story(gone)[-1]["expired"] is True and story(gone)[-1]["terminated"] is False
    clocks = [event["clock"] for event in events.seen if event["hostname"] == lab.workers[0].node]
    assert clocks == sorted(clocks)


@pytest.mark.compared
def test_a_programs_own_command_is_answered_as_celerys_are(lab):
    node = lab.workers[0].node
    ask = lambda **arguments: lab.app.control.broadcast("lab_paint", arguments=arguments, destination=[node], reply=True, timeout=5, limit=1)
    assert ask(colour="red") == [{node: {"ok": "painted red"}}] and ask() == [{node: {"ok": "painted white"}}]
    assert "lab_paint() got an unexpected keyword argument" in ask(size=1)[0][node]["error"]
