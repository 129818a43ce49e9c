"""Flower's read routes: the real Flower and our dashboard over the same broker, asked the same, compared member by member. What differs stands in a table
with the reason; a difference that is not in a table fails, and so does one that is there no more.
"""

import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from lab import LABAPP
from procs import Process, eventually, free_port
from test_tools import Flower

pytestmark = [pytest.mark.ours, pytest.mark.limit(120)]

# Members of a task that are not kept, and so are null.
NOT_KEPT = {
    "clock": "the logical clock of Celery's events says nothing to people",
    "exchange": "told by senders of Celery alone",
    "expires": "not remembered; what has expired is REVOKED",
}
# Members of a task that is tried again: it is received twice, Celery's parent process tells of the retry late, and Flower goes by the order of clocks.
AGAIN = {"timestamp", "retried", "received", "retries", "state", "eta", "runtime", "result", "succeeded"}
# Differences between the answers to /api/workers, which come at different moments.
MOVES = {"timestamp", "clock", "uptime", "rusage", "total", "writes"}


class Ours:
    """Our dashboard, with the class Flower's ways to ask."""

    def __init__(self, lab, *flags):
        self.port = free_port()
        argv = [LABAPP, "dashboard", "--broker", lab.broker_url, "--results", lab.results_url, "--listen", f"127.0.0.1:{self.port}", *flags]
        self.process = Process(argv, lab.folder / "dashboard.log", name="dashboard")
        assert eventually(lambda: ask(self, "/healthcheck")[0] == 200, 30, 0.1), self.process.text()

    def close(self):
        self.process.kill()


def ask(server, path):
    """Status, type, body and headers of an answer; status 0 where nobody listens yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=20) as answer:
            return answer.status, answer.headers.get_content_type(), answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get_content_type(), error.read().decode(), error.headers
    except OSError:
        return 0, "", "", {}


def get(server, path):
    status, kind, body, _ = ask(server, path)
    assert (status, kind) == (200, "application/json"), (path, status, kind, body)
    return json.loads(body)


@pytest.fixture(params=["redis", "rabbit"])
def beside(request, kind, server, tmp_path):
    """A lab, its workers (Celery's serves `celery`, ours `ours`), Flower, and the dashboard."""
    lab = request.getfixturevalue("own_rabbit_lab" if request.param == "rabbit" else "own_lab")
    lab.app.conf.task_send_sent_event = True
    flower, ours = Flower(lab), Ours(lab, "--history", str(tmp_path / "history.db"))
    python, rust = lab.worker("python", name="celerys"), lab.worker("longshore", name="ours", queues="ours")
    try:
        assert eventually(lambda: is_told(lab, flower, ours), 40), ours.process.text()
        yield lab, flower, ours, python, rust
    finally:
        flower.close(), ours.close()


def is_told(lab, *servers):
    """Whether both workers tell both servers of a task, from its sending to its end."""
    sent = [lab.add.apply_async((1, 1), queue=queue) for queue in ("celery", "ours")]
    [result.get(timeout=20) for result in sent]

    def told(server, id):
        status, _, body, _ = ask(server, f"/api/task/info/{id}")
        task = json.loads(body) if status == 200 else {}
        return task.get("state") == "SUCCESS" and task["received"] and task["started"] and task["sent"]

    return eventually(lambda: all(told(server, result.id) for server in servers for result in sent), 2, 0.1)


def busy(lab):
    """Sends one of each to both workers, and one that nobody serves."""
    ids = {}
    for queue in ("celery", "ours"):
        sent = {
            "good": lab.add.apply_async((20, 22), queue=queue),
            "bad": lab.fail.apply_async(("oh",), queue=queue),
            "again": lab.flaky.apply_async((1, 0.05), queue=queue),
            "kwargs": lab.echo.apply_async((), {"n": 1, "text": "some words"}, queue=queue),
            "expired": lab.add.apply_async((1, 2), queue=queue, countdown=0.4, expires=0.2),
        }
        for name, result in sent.items():
            if name != "expired":
                result.get(timeout=20, propagate=False)
            ids[queue, name] = result.id
    ids["nowhere", "waits"] = lab.slow.apply_async((30,), queue="nowhere").id
    return ids


def agree(task, other):
    """Members of one task that differ."""
    names = set(task) | set(other)
    # The time of the event that was heard last: what client and worker tell comes to each listener in an order of its own.
    apart = lambda name: 5 if name == "timestamp" else 1e-3  # noqa: E731
    close = lambda name: isinstance(task.get(name), float) and isinstance(other.get(name), float) and abs(task[name] - other[name]) < apart(name)  # noqa: E731
    return {name: (task.get(name), other.get(name)) for name in names if task.get(name) != other.get(name) and not close(name)}


ENDS = {"good": "SUCCESS", "bad": "FAILURE", "again": "SUCCESS", "kwargs": "SUCCESS", "expired": "REVOKED", "waits": "PENDING"}


def unsettled(server, ids):
    """Tasks that a server has not yet heard the end of."""
    tasks = get(server, "/api/tasks")
    # Where Celery's parent process tells of a retry after the end, Flower shows RETRY for ever; we do not.
    late = {"again": "RETRY"} if isinstance(server, Flower) else {}
    is_settled = lambda name, task: task.get("state") in (ENDS[name], late.get(name, ENDS[name]))  # noqa: E731
    return {key: tasks.get(id) for key, id in ids.items() if not is_settled(key[1], tasks.get(id, {}))}


def test_tasks_are_told_as_flower_tells_them(beside):
    lab, flower, ours, *_ = beside
    ids = busy(lab)
    for server in (flower, ours):
        assert eventually(lambda server=server: not unsettled(server, ids), 20, 0.1), (type(server).__name__, unsettled(server, ids))
    theirs, own = get(flower, "/api/tasks"), get(ours, "/api/tasks")
    # Ours has heard no less: Flower asks workers for events every five seconds, the dashboard when they come.
    assert set(theirs) <= set(own)
    differing = set()
    for (queue, name), id in ids.items():
        assert set(theirs[id]) == set(own[id]), (queue, name)
        members = set(agree(theirs[id], own[id])) - set(NOT_KEPT)
        assert {member for member in NOT_KEPT if own[id][member] is not None} == set()
        differing |= {member for member in NOT_KEPT if theirs[id][member] is not None}
        if name == "again":
            members -= AGAIN
        assert members == set(), (queue, name, agree(theirs[id], own[id]))
        info, told = get(flower, f"/api/task/info/{id}"), get(ours, f"/api/task/info/{id}")
        assert set(info) == set(told) and set(agree(info, told)) - set(NOT_KEPT) - (AGAIN if name == "again" else set()) == set()
        result, stored = get(flower, f"/api/task/result/{id}"), get(ours, f"/api/task/result/{id}")
        assert result == stored, (queue, name)
    assert differing >= {"clock"}, "what is named as not kept is told by Flower"
    assert set(get(flower, "/api/task/types")["task-types"]) == set(get(ours, "/api/task/types")["task-types"])
    good, bad = ids["celery", "good"], ids["ours", "bad"]
    queries = [
        "limit=2", "limit=0", "limit=-1", "offset=3&limit=2", "sort_by=name", "sort_by=-name&limit=3", "sort_by=received", "sort_by=-started", "sort_by=state",
        "workername=ours@lab", "workername=OURS@lab", "workername=All", "taskname=lab.fail", "state=FAILURE", "state=failure&taskname=lab.fail", "state=NONE",
        "received_start=2020-01-01 00:00", "received_end=2020-01-01 00:00", "received_start=2100-01-01 00:00", "search=lab.fail", "search=state:REVOKED",
        f"search={good}", f"search={good} OR {bad}", "search=name:add worker:celerys", "search=(name:add OR name:fail) AND state:SUCCESS", "search=kwargs:n=1",
        'search="some words"', "search=args:20,", 'search="20, 22"', "search=text:some", "search=result:'ok'", "search=nothing-like-it", "search=kwargs:\"text=some words\"", "search=args:'oh'",
    ]
    quoted = [urllib.parse.quote(query, safe="=&") for query in queries]
    for query in quoted:
        theirs, own = list(get(flower, f"/api/tasks?{query}")), list(get(ours, f"/api/tasks?{query}"))
        if "sort_by" not in query:
            # Without an order Flower goes by the clocks of those who tell, we by arrival.
            if "limit=" in query:
                assert len(theirs) == len(own), query
                continue
            theirs, own = sorted(theirs), sorted(own)
        if "limit=" not in query:
            theirs, own = [[id for id in found if id not in (ids["celery", "again"], ids["ours", "again"])] for found in (theirs, own)]
        assert theirs == own, (query, len(theirs), len(own))


def test_workers_and_queues_are_told_as_flower_tells_them(beside):
    lab, flower, ours, python, rust = beside
    for path in ("/api/workers?refresh=1", f"/api/workers?refresh=true&workername={python.node}", f"/api/workers?refresh=1&workername={rust.node}"):
        def both(path=path):
            theirs, own = get(flower, path), get(ours, path)
            members = lambda told: {node: set(worker) for node, worker in told.items()}  # noqa: E731
            return (theirs, own) if members(theirs) == members(own) else None

        theirs, own = eventually(both, 15, 0.2) or pytest.fail(f"{path}: {get(flower, path)}\n{get(ours, path)}")
        assert set(own) == ({python.node, rust.node} if "workername" not in path else {path.split("=")[-1]})
        for node in own:
            still = lambda worker: {name: worker[name] for name in worker if name not in MOVES | {"stats", "active", "reserved"}}  # noqa: E731
            assert still(theirs[node]) == still(own[node])
            assert {name for name, value in theirs[node]["stats"].items() if own[node]["stats"].get(name) != value} <= MOVES | {"pool", "prefetch_count", "queues"}
    assert eventually(lambda: get(flower, "/api/workers?status=1") == get(ours, "/api/workers?status=1") == {python.node: True, rust.node: True}, 10, 0.2)
    [lab.slow.apply_async((30,), queue="nowhere") for _ in range(3)]

    def lengths(server):
        return {queue["name"]: queue["messages"] for queue in get(server, "/api/queues/length")["active_queues"]}

    # Flower asks the management of a RabbitMQ on port 15672; there is none in this lab.
    if lab.broker_url.startswith("redis"):
        assert eventually(lambda: get(ours, "/api/queues/length")["active_queues"] != [] and lengths(ours).get("nowhere") == 3, 30, 0.2), lengths(ours)
        theirs, own = lengths(flower), lengths(ours)
        # Ours has those, too, that nobody serves.
        assert {name: own[name] for name in theirs} == theirs and set(own) - set(theirs) == {"nowhere"}
        assert own["nowhere"] == 3
    else:
        assert lengths(flower) == {} and eventually(lambda: set(lengths(ours)) >= {"celery", "ours"}, 30, 0.2)
    # Who goes is told as away by both; Flower keeps its answers, we do not.
    rust.terminate()
    assert rust.stop(15) is not None
    assert eventually(lambda: get(flower, "/api/workers?status=1") == get(ours, "/api/workers?status=1") == {python.node: True, rust.node: False}, 20, 0.2)
    assert rust.node in get(flower, "/api/workers?refresh=1")
    assert eventually(lambda: set(get(ours, "/api/workers?refresh=1")) == {python.node}, 10, 0.2)


def test_what_flower_refuses_is_refused_in_its_words(beside):
    _, flower, ours, *_ = beside
    for path in [
        "/api/task/info/none", "/api/workers?workername=none", "/api/workers?refresh=maybe", "/api/workers?status=", "/api/tasks?limit=x", "/api/tasks?offset=1.5",
        "/api/tasks?sort_by=age", "/api/tasks?search=x", "/api/tasks?search=%28one", "/api/tasks?received_start=yesterday", "/api/tasks?received_end=2026-13-01",
        "/api/task/result/none?timeout=soon",
    ]:
        theirs, own = ask(flower, path), ask(ours, path)
        said = [json.loads(body) if kind == "application/json" else body for _, kind, body, _ in (theirs, own)]
        assert theirs[:2] == own[:2] and said[0] == said[1] and theirs[0] in (400, 404), (path, said)
    # A path that is not there: Flower shows a page, we say it in JSON, as everywhere for programs.
    theirs, own = ask(flower, "/api/nonsense"), ask(ours, "/api/nonsense")
    assert (theirs[0], own[0], own[1]) == (404, 404, "application/json")
    for path in ("/api/task/result/none", "/api/task/result/none?timeout=0.05"):
        assert get(flower, path) == get(ours, path) == {"task-id": "none", "state": "PENDING"}
    # Flower says that it is HTML, and it is none.
    theirs, own = ask(flower, "/healthcheck"), ask(ours, "/healthcheck")
    assert (theirs[0], theirs[2]) == (own[0], own[2]) == (200, "OK") and own[1] == "text/plain"
    # What changes something is asked for elsewhere, and the refusal says where.
    request = urllib.request.Request(f"http://127.0.0.1:{ours.port}/api/task/send-task/lab.add", b"{}", {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code == 404 and "POST /api/v1" in refused.value.read().decode()


def report(url):
    """A script as people write it for Flower: queue lengths, workers that are away, failed tasks with their errors, and one of them in full."""
    def fetch(path, **parameters):
        with urllib.request.urlopen(f"{url}{path}?{urllib.parse.urlencode(parameters)}", timeout=20) as answer:
            return json.load(answer)

    lines = []
    for queue in fetch("/api/queues/length")["active_queues"]:
        if queue["name"] in ("celery", "ours"):
            lines.append(f"queue {queue['name']}: {queue['messages']}")
    for name, alive in sorted(fetch("/api/workers", status=1).items()):
        lines.append(f"worker {name}: {'up' if alive else 'DOWN'}")
    for name, worker in sorted(fetch("/api/workers", refresh=1).items()):
        lines.append(f"{name}: {worker['stats']['pool']['max-concurrency']} slots, {', '.join(queue['name'] for queue in worker['active_queues'])}")
    failed = fetch("/api/tasks", state="FAILURE", limit=50, sort_by="received")
    for id, task in failed.items():
        lines.append(f"{task['name']} at {task['worker']}: {task['exception']} after {task['failed'] - task['received']:.3f} s")
        shown = fetch(f"/api/task/info/{id}")
        lines.append(f"  {shown['args']} {shown['kwargs']} retries {shown['retries']}")
        lines.append(f"  {fetch(f'/api/task/result/{id}')['result']}")
    return lines


def test_a_script_that_was_written_for_flower_says_the_same_of_both(beside):
    lab, flower, ours, *_ = beside
    for queue in ("celery", "ours"):
        lab.fail.apply_async(("oh",), queue=queue).get(timeout=20, propagate=False)
        time.sleep(0.05)
    both = [f"http://127.0.0.1:{server.port}" for server in (flower, ours)]
    same = eventually(lambda: (lines := report(both[0])) == report(both[1]) and len(lines) >= 10 and lines, 30, 0.3)
    if lab.broker_url.startswith("redis"):
        assert same and any("ValueError('oh', 42) after" in line for line in same), [report(url) for url in both]
    else:
        # Queue lengths come from RabbitMQ's management, which Flower does not find here.
        theirs, own = report(both[0]), report(both[1])
        assert theirs == [line for line in own if not re.match("queue ", line)] and len(own) == len(theirs) + 2, (theirs, own)


def test_without_a_history_it_is_said_what_is_missing_and_told_what_is_known(own_lab):
    lab = own_lab
    ours = Ours(lab, "--no-history")
    try:
        worker = lab.worker("longshore")
        good, bad = lab.add.delay(20, 22), lab.fail.delay("oh")
        good.get(timeout=20), bad.get(timeout=20, propagate=False)
        status, _, body, headers = ask(ours, "/api/tasks")
        tasks = json.loads(body)
        assert status == 200 and "no history is kept" in headers["Longshore-Lacks"]
        assert {id: task["state"] for id, task in tasks.items()} == {good.id: "SUCCESS", bad.id: "FAILURE"}
        assert tasks[bad.id]["exception"] == "ValueError('oh', 42)" and tasks[bad.id]["received"] is None
        assert list(get(ours, "/api/tasks?state=FAILURE")) == [bad.id]
        assert get(ours, f"/api/task/info/{good.id}")["result"] == "42"
        assert ask(ours, "/api/tasks?search=lab.add")[0] == 503
        assert eventually(lambda: worker.node in get(ours, "/api/workers"), 35, 0.5)
    finally:
        ours.close()


def test_arguments_and_results_that_are_hidden_are_neither_told_nor_found(own_lab, tmp_path):
    lab = own_lab
    history = ["--history", str(tmp_path / "history.db")]
    lab.worker("longshore")
    # Begun without --hide-args, its history has them.
    open_one = Ours(lab, *history)
    try:
        assert eventually(lambda: is_seen(lab, open_one), 30)
        sent = lab.echo.apply_async(("hidden-word",), {"n": "hidden-word"})
        sent.get(timeout=20)
        assert eventually(lambda: "hidden-word" in str(ask(open_one, f"/api/task/info/{sent.id}")[2]), 10, 0.1)
        assert eventually(lambda: list(get(open_one, "/api/tasks?search=hidden-word")) == [sent.id], 10, 0.1)
    finally:
        open_one.process.stop()
    hidden = Ours(lab, *history, "--hide-args")
    try:
        assert eventually(lambda: sent.id in get(hidden, "/api/tasks"), 10, 0.1)
        paths = ["/api/tasks", f"/api/task/info/{sent.id}", f"/api/task/result/{sent.id}", "/api/workers?refresh=1"]
        assert [path for path in paths if "hidden-word" in ask(hidden, path)[2]] == []
        for search in ("hidden-word", "args:hidden-word", "kwargs:n=hidden-word", "result:hidden-word"):
            assert get(hidden, f"/api/tasks?search={search}") == {}, search
    finally:
        hidden.close()


def is_seen(lab, server):
    result = lab.add.delay(1, 1)
    result.get(timeout=20)
    return eventually(lambda: (json.loads(ask(server, f"/api/task/info/{result.id}")[2] or "{}") if ask(server, f"/api/task/info/{result.id}")[0] == 200 else {}).get("received"), 1, 0.1)
