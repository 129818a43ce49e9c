"""Results over rpc://: sent to the queue of whoever asked, and kept by nobody."""

import pytest
from celery import chain, chord, group
from celery.exceptions import TaskRevokedError, TimeoutError as NotInTime

from test_canvas import SHAPES

pytestmark = pytest.mark.amqp

# Those without a chord. Of a task that is replaced as the first of all Celery's worker asks for the result itself: its caller waits for ever.
CELERYS = [
    "accumulate", "chain", "chain of chains", "chain of many", "chain of one", "chunks", "group", "group at the end", "group of chains",
    "group of chains at the end", "group of groups", "group of one", "immutable in a chain", "keyword arguments in a chain", "map",
    "replaced by a chain in a chain", "replaced in a chain", "retried in a chain", "starmap",
]  # fmt: skip


@pytest.fixture
def lab(rpc_staffed):
    yield rpc_staffed.use()


@pytest.mark.parametrize("shape", CELERYS)
def test_a_canvas_of_this_shape_comes_to_its_result(lab, shape):
    make, expected = SHAPES[shape]
    assert make(lab).apply_async().get(timeout=15) == expected
    assert lab.wait_empty() == {}


def test_a_chord_is_refused_by_whoever_would_have_to_count_its_parts(lab):
    with pytest.raises(NotImplementedError):
        chord([lab.add.s(1, 1), lab.add.s(2, 2)], lab.tsum.s()).apply_async()
    with pytest.raises(NotImplementedError):
        (group(lab.add.s(1, 1), lab.add.s(2, 2)) | lab.tsum.s()).apply_async()
    assert lab.wait_empty() == {}


def test_errors_are_rebuilt_with_their_type_and_arguments(lab):
    sent = lab.fail.delay("oh")
    with pytest.raises(ValueError) as caught:
        sent.get(timeout=10)
    assert caught.value.args == ("oh", 42) and sent.state == "FAILURE" and "oh" in sent.traceback


def test_a_retried_task_comes_to_its_result(lab):
    assert lab.flaky.delay(2, 0.1).get(timeout=10) == ["ok", 2]


def test_a_link_of_a_chain_that_fails_fails_what_comes_after_it(lab):
    last = chain(lab.add.s(1, 1), lab.fail.si("mid"), lab.add.s(1)).apply_async()
    with pytest.raises(ValueError) as caught:
        last.get(timeout=10)
    assert caught.value.args == ("mid", 42)
    assert last.parent.parent.get(timeout=10) == 2


def test_what_has_expired_is_revoked(lab):
    with pytest.raises(TaskRevokedError):
        lab.add.apply_async((1, 1), **lab.expired).get(timeout=10)


def test_a_countdown_is_kept_and_results_of_many_come_each_to_its_own(lab):
    sent = [lab.identity.apply_async((n,), countdown=0.3 if n % 10 == 0 else None) for n in range(100)]
    assert [each.get(timeout=15) for each in sent] == list(range(100))


def test_nobody_is_told_of_a_result_that_is_ignored(lab):
    silent = lab.silent.delay(1)
    assert lab.add.delay(1, 1).get(timeout=10) == 2
    with pytest.raises(NotInTime):
        lab.app.AsyncResult(silent.id).get(timeout=0.5)


def test_a_task_that_sends_tasks_gets_their_results_itself(lab):
    sent = lab.spawn.delay(3)
    assert len(sent.get(timeout=10)) == 3
    assert lab.wait_empty() == {}
