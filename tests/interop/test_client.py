"""Celery's client before the worker: every option of apply_async, results of every state, errors rebuilt."""

import datetime
import decimal
import json
import statistics
import time
import uuid

import pytest
from celery.exceptions import MaxRetriesExceededError, TaskRevokedError, TimeoutError as NotInTime

from procs import eventually

pytestmark = pytest.mark.alone


def seen(lab, *args, **options):
    """What a task sees of its message when it is sent with these options."""
    return lab.request.apply_async(args, **options).get(timeout=10)


def doc(lab, result):
    """The stored document of a result, read anew."""
    return json.loads(lab.redis.get(f"celery-task-meta-{result.id}"))


def test_positional_and_keyword_arguments_arrive(lab):
    sent = lab.echo.apply_async((1, "two", [3.5, None], {"a": []}), {"k": {"v": True}, "ü": "ß"})
    assert sent.get(timeout=10) == {"args": [1, "two", [3.5, None], {"a": []}], "kwargs": {"k": {"v": True}, "ü": "ß"}}


@pytest.mark.parametrize(
    ("args", "kwargs", "result"),
    [((1,), {}, [1, 2, 3]), ((1, 5), {}, [1, 5, 3]), ((), {"a": 7, "b": 8, "c": 9}, [7, 8, 9]), ((1,), {"c": 0}, [1, 2, 0])],
)
def test_defaults_are_filled_in(lab, args, kwargs, result):
    assert lab.defaults.apply_async(args, kwargs).get(timeout=10) == result


@pytest.mark.compared
def test_further_arguments_are_gathered(lab):
    assert lab.gathered.apply_async((1, 2, "three"), {"unit": "cm", "bold": True}).get(timeout=10) == [1, [2, "three"], "cm", {"bold": True}]
    assert lab.gathered.apply_async((1,)).get(timeout=10) == [1, [], "m", {}]
    with pytest.raises(TypeError, match=r"gathered\(\) missing 1 required positional argument: 'first'"):
        lab.app.send_task("lab.gathered", (), {"bold": True}).get(timeout=10)


@pytest.mark.compared
def test_a_retry_may_have_other_arguments(lab):
    assert lab.halved.apply_async((8, "a", "b"), {"least": 2}).get(timeout=10) == [2, ["a", "b"], 2]
    with pytest.raises(ValueError, match="8"):
        lab.halved.apply_async((64,), {"least": 2}).get(timeout=10)


@pytest.mark.compared
def test_an_errback_sees_the_exception(lab, tmp_path):
    path = str(tmp_path / "marks")
    failed = lab.fail.apply_async(("oh",), link_error=lab.alarmed.s(path))
    with pytest.raises(ValueError):
        failed.get(timeout=10)
    assert eventually(lambda: [words[1:] for words in lab.marks(path)] == [[failed.id, "ValueError('oh',", "42)"]])


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2, 3, 4), {}), ((1,), {"z": 1}), ((1,), {"a": 2})])
def test_wrong_arguments_are_a_type_error_of_the_task(lab, args, kwargs):
    # By name, because a client that has the task would refuse to send it.
    with pytest.raises(TypeError):
        lab.app.send_task("lab.defaults", args, kwargs).get(timeout=10)


def test_a_task_sees_its_ids_and_its_headers(lab):
    sent = lab.request.apply_async((), task_id="of-my-own", headers={"x-foo": "bar", "trace": {"n": 1}}, shadow="pretty", reply_to="elsewhere")
    request = sent.get(timeout=10)
    assert (request["id"], request["root_id"], request["parent_id"], request["correlation_id"]) == ("of-my-own", "of-my-own", None, "of-my-own")
    assert request["headers"]["x-foo"] == "bar" and request["headers"]["trace"] == {"n": 1}
    assert request["shadow"] == "pretty" and request["reply_to"] == "elsewhere" and request["retries"] == 0
    sent.forget()


def test_stamps_travel(lab):
    request = seen(lab, stamped_headers=["tags", "monitoring"], tags=["a", "b"], monitoring="abc")
    assert request["stamped_headers"] == ["tags", "monitoring"]
    assert request["stamps"] == {"tags": ["a", "b"], "monitoring": "abc"} or request["stamps"] == {"tags": ["a", "b"], "monitoring": ["abc"]}


def test_a_countdown_and_an_eta_are_kept(lab):
    sent = time.time()
    soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=0.6)
    late = lab.identity.apply_async(("late",), countdown=0.7)
    eta = lab.identity.apply_async(("eta",), eta=soon)
    past = lab.identity.apply_async(("past",), eta=soon - datetime.timedelta(days=1))
    now = lab.identity.apply_async(("now",), countdown=0)
    assert past.get(timeout=10) == "past" and now.get(timeout=10) == "now"
    assert time.time() - sent < 0.6
    assert eta.get(timeout=10) == "eta" and time.time() - sent >= 0.6
    assert late.get(timeout=10) == "late" and 0.7 <= time.time() - sent < 2.5


def test_what_has_expired_is_revoked_and_what_has_not_is_run(lab):
    gone = lab.add.apply_async((1, 1), **lab.expired)
    fine = lab.add.apply_async((1, 1), expires=60)
    later = lab.add.apply_async((1, 1), **lab.overdue)
    with pytest.raises(TaskRevokedError) as caught:
        gone.get(timeout=10)
    assert caught.value.args == ("expired",) and gone.state == "REVOKED"
    assert fine.get(timeout=10) == 2
    with pytest.raises(TaskRevokedError):
        later.get(timeout=10)


def test_time_limits_of_the_message_arrive(lab):
    assert seen(lab, time_limit=60, soft_time_limit=50)["timelimit"] == [60, 50]


def test_the_priority_and_the_queue_arrive(lab):
    request = seen(lab, priority=5)
    assert (request["priority"], request["queue"]) == (5, "celery")


@pytest.mark.parametrize("compression", ["zlib", "gzip", "zstd"])
def test_compressed_messages_are_read(lab, compression):
    text = "longshore " * 10_000
    assert lab.identity.apply_async((text,), compression=compression).get(timeout=10) == text


TAGGED = {
    "datetime": datetime.datetime(2030, 1, 1, 12, 30, 15, 250, tzinfo=datetime.timezone.utc),
    "date": datetime.date(2030, 1, 2),
    "time": datetime.time(23, 59, 1),
    "decimal": decimal.Decimal("1.50"),
    "uuid": uuid.UUID("12345678123456781234567812345678"),
    "bytes": b"text",
    "base64": b"\xff\x00\xfe",
}


@pytest.mark.parametrize("tag", TAGGED)
def test_tagged_values_go_through_untouched(lab, tag):
    assert lab.identity.delay([TAGGED[tag]]).get(timeout=10) == [TAGGED[tag]]


STRANGE = {
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "a thousand digits": int("9" * 1000),
    "above 2^64": 2**64 + 1,
    "a lone surrogate": "\ud800x",
    "an exact float": 0.1 + 0.2,
    "a tiny float": 5e-324,
    "a NUL": "a\0b",
    "an emoji": "🚢",
    "nothing": None,
    "empty": [[], {}, ""],
}


@pytest.mark.parametrize("what", STRANGE)
def test_what_pythons_json_can_hold_goes_through_untouched(lab, what):
    assert lab.identity.delay(STRANGE[what]).get(timeout=10) == STRANGE[what]


def test_nan_goes_through(lab):
    answer = lab.identity.delay(float("nan")).get(timeout=10)
    assert answer != answer


def test_big_arguments_and_results_go_through(lab):
    assert lab.big.delay(3_000_000).get(timeout=20) == "x" * 3_000_000
    assert lab.identity.delay(list(range(50_000))).get(timeout=20) == list(range(50_000))


def test_a_result_is_read_in_every_way(lab):
    sent = lab.add.delay(1, 2)
    assert sent.get(timeout=10) == 3
    again = lab.app.AsyncResult(sent.id)
    assert again.ready() and again.successful() and not again.failed() and again.state == "SUCCESS" and again.result == 3 and again.traceback is None
    stored = doc(lab, again)
    assert stored["task_id"] == sent.id and stored["status"] == "SUCCESS" and stored["children"] == []
    when = datetime.datetime.fromisoformat(stored["date_done"])
    assert abs(datetime.datetime.now(datetime.timezone.utc) - when.astimezone(datetime.timezone.utc)) < datetime.timedelta(seconds=30)
    assert 86_000 < lab.redis.ttl(f"celery-task-meta-{sent.id}") <= 86_400
    again.forget()
    assert lab.app.AsyncResult(sent.id).state == "PENDING" and not lab.redis.exists(f"celery-task-meta-{sent.id}")


def test_nothing_is_a_result_too(lab):
    sent = lab.nothing.delay()
    assert sent.get(timeout=10) is None and sent.state == "SUCCESS"


def test_an_error_is_rebuilt_with_its_type_and_arguments(lab):
    sent = lab.fail.delay("oh")
    with pytest.raises(ValueError) as caught:
        sent.get(timeout=10)
    assert caught.value.args == ("oh", 42) and sent.state == "FAILURE" and sent.failed()
    assert sent.traceback and "oh" in sent.traceback
    assert doc(lab, sent)["result"] == {"exc_type": "ValueError", "exc_message": ["oh", 42], "exc_module": "builtins"}


@pytest.mark.parametrize("error", [KeyError, TypeError, RuntimeError, LookupError])
def test_errors_of_other_types_are_rebuilt(lab, error):
    with pytest.raises(error) as caught:
        lab.fail_as.delay(error.__name__, "why", 1).get(timeout=10)
    assert type(caught.value) is error and caught.value.args == ("why", 1)


def test_a_task_that_nobody_knows_has_failed(lab):
    sent = lab.app.send_task("no.such", (1,))
    with pytest.raises(Exception) as caught:
        sent.get(timeout=10)
    assert type(caught.value).__name__ == "NotRegistered" and caught.value.args == ("no.such",)


def test_a_retried_task_keeps_its_id_and_comes_to_its_result(lab):
    sent = lab.flaky.delay(2, 0.05, "fine")
    assert sent.get(timeout=10) == ["fine", 2] and sent.state == "SUCCESS"


def test_the_state_between_two_attempts_is_retry(lab):
    sent = lab.flaky.delay(1, 1.0)
    assert eventually(lambda: sent.state == "RETRY", 5)
    stored = doc(lab, sent)
    assert stored["result"] == {"exc_type": "KeyError", "exc_message": ["again"], "exc_module": "builtins"}
    assert sent.get(timeout=10) == ["ok", 1]


def test_retries_end_with_the_error_or_with_celerys_own(lab):
    with pytest.raises(LookupError) as caught:
        lab.hopeless.delay().get(timeout=10)
    assert caught.value.args == ("never",)
    with pytest.raises(MaxRetriesExceededError):
        lab.exhausted.delay().get(timeout=10)


def test_errors_are_retried_by_themselves_where_the_task_says_so(lab):
    assert lab.moody.delay(2).get(timeout=10) == 2
    with pytest.raises(ConnectionError):
        lab.moody.delay(9).get(timeout=10)


@pytest.mark.needs("started")
def test_a_tracked_task_is_started_before_it_has_ended(lab):
    sent = lab.tracked.delay(0.6)
    assert eventually(lambda: sent.state == "STARTED", 5)
    assert set(sent.info) >= {"pid", "hostname"} and sent.info["hostname"] in {worker.node for worker in lab.workers}
    assert sent.get(timeout=10) == "done"


def test_an_ignored_result_is_not_stored(lab):
    by_task, by_call, by_end = lab.silent.delay(1), lab.add.apply_async((1, 1), ignore_result=True), lab.ignored.delay()
    last = lab.add.delay(1, 1)
    assert last.get(timeout=10) == 2
    time.sleep(0.3)
    for sent in (by_task, by_call, by_end):
        assert not lab.redis.exists(f"celery-task-meta-{sent.id}")
    # A caller that wants it after all gets it: the message's word counts before the task's.
    wanted = lab.silent.apply_async((5,), ignore_result=False)
    assert lab.app.AsyncResult(wanted.id).get(timeout=10) == 5


def test_a_rejected_task_has_failed_and_is_gone(lab):
    sent = lab.rejected.delay()
    assert eventually(lambda: sent.state == "FAILURE", 5)
    assert doc(lab, sent)["result"] == {"exc_type": "Reject", "exc_message": ["no", False], "exc_module": "celery.exceptions"}


def test_get_wakes_when_the_result_is_published(lab):
    """Nothing on either side polls."""
    took = []
    for n in range(30):
        begun = time.perf_counter()
        assert lab.add.delay(n, 1).get(timeout=10) == n + 1
        took.append(time.perf_counter() - begun)
    # Measured: a Python worker answers in 4 ms, on two cores.
    assert statistics.median(took) < 0.08, sorted(took)


def test_get_with_a_timeout_ends_in_time(lab):
    sent = lab.slow.delay(1.8)
    with pytest.raises(NotInTime):
        sent.get(timeout=0.2)
    assert sent.get(timeout=10) is None


def test_a_callback_gets_the_result_and_an_errback_the_id(lab):
    path = lab.path()
    sent = lab.add.apply_async((1, 2), link=lab.heard.s(path))
    failed = lab.fail.apply_async(("x",), link_error=lab.told.s(path=path), link=lab.heard.s(path, "never"))
    several = lab.add.apply_async((3, 4), link=[lab.heard.s(path, "one"), lab.heard.s(path, "two")])
    immutable = lab.add.apply_async((3, 4), link=lab.heard.si("mine", path, "immutable"))
    assert eventually(lambda: len(lab.marks(path)) >= 5, 10), lab.marks(path)
    time.sleep(0.2)
    assert sorted(map(tuple, lab.marks(path))) == sorted([("heard", "3"), ("told", failed.id), ("one", "7"), ("two", "7"), ("immutable", '"mine"')])
    assert {child.get(timeout=10) for child in sent.children} == {3}
    assert (several.get(timeout=10), immutable.get(timeout=10)) == (7, 7)


def test_the_children_of_a_task_are_known(lab):
    sent = lab.spawn.delay(3)
    ids = sent.get(timeout=10)
    assert [child.id for child in sent.children] == ids
    assert [child.get(timeout=10) for child in sent.children] == [0, 2, 4]
    assert sorted(value for _, value in sent.collect() if isinstance(value, int)) == [0, 2, 4]


def test_a_task_that_sends_tasks_is_their_parent(lab):
    parent = lab.spawn.delay(1)
    parent.get(timeout=10)
    child = parent.children[0]
    assert child.get(timeout=10) == 0
    chained = (lab.add.s(1, 2) | lab.request.s()).apply_async()
    request = chained.get(timeout=10)
    assert request["parent_id"] == chained.parent.id and request["root_id"] == chained.parent.id
