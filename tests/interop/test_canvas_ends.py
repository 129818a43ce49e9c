"""How canvases end beside the plain way: each as a worker of Celery's has it, and ours, in the same place."""

import time

import pytest
from celery import chord
from celery.exceptions import ChordError, ImproperlyConfigured
from celery.result import GroupResult

from procs import eventually

pytestmark = pytest.mark.compared


def failure(result, error, seconds=15):
    with pytest.raises(error) as caught:
        result.get(timeout=seconds)
    return caught.value


def test_the_failure_of_a_chords_body_has_its_errbacks_as_children(lab):
    path = lab.path()
    body = lab.tsum.s().on_error(lab.told.s(path=path)).on_error(lab.told.s(path=path, tag="also"))
    result = lab.app.AsyncResult(chord([lab.fail.s("x"), lab.add.s(1, 1)], body).apply_async().id)
    failure(result, ChordError)
    [errbacks] = result.children
    assert isinstance(errbacks, GroupResult)
    assert errbacks.get(timeout=10) == [result.id, result.id]
    assert sorted(lab.marks(path)) == [["also", result.id], ["told", result.id]]


def test_the_failure_of_a_chords_body_has_no_children_without_errbacks(lab):
    result = lab.app.AsyncResult(chord([lab.fail.s("x"), lab.add.s(1, 1)], lab.tsum.s()).apply_async().id)
    failure(result, ChordError)
    assert result.children == []


# Around a task that puts an empty chain in its place: what is sent, whose failure it is, and who fails with it.
REPLACED = {
    "alone": lambda l: (l.replaced_by_nothing.s(1), lambda r: r, lambda r: []),
    "in a chain": lambda l: (l.add.s(1, 1) | l.replaced_by_nothing.s() | l.add.s(1), lambda r: r.parent, lambda r: [r]),
    "in a chord": lambda l: (chord([l.add.s(1, 1), l.replaced_by_nothing.s(1)], l.tsum.s()), lambda r: r.parent.children[1], lambda r: [r]),
}


@pytest.mark.parametrize("where", REPLACED)
def test_a_task_that_is_replaced_with_an_empty_chain_has_failed(lab, where):
    canvas, whose, with_it = REPLACED[where](lab)
    result = canvas.apply_async()
    alone = [lab.app.AsyncResult(each.id) for each in [whose(result), *with_it(result)]]
    assert failure(alone[0], ImproperlyConfigured).args == ("Cannot replace with an empty chain",)
    for later in alone[1:]:
        failure(later, Exception)
    assert lab.wait_empty(chords=False) == {}
    assert lab.dead() == {}


def test_an_errback_of_a_task_that_is_replaced_with_an_empty_chain_is_told(lab):
    path = lab.path()
    result = lab.replaced_by_nothing.s(1).on_error(lab.told.s(path=path)).apply_async()
    failure(result, ImproperlyConfigured)
    assert eventually(lambda: lab.marks(path), 10) == [["told", result.id]]


# What fails, whose errback it is, and what that is told: the id, the class of the exception, how many arguments that has, whether there is a traceback.
TOLD = {
    "a task": lambda l, e: (l.fail.s("x").on_error(e), lambda r: r.id, ["ValueError", "2", "True"]),
    "a link of a chain": lambda l, e: ((l.add.s(1, 1) | l.fail.si("x").on_error(e) | l.add.s(1)), lambda r: r.parent.id, ["ValueError", "2", "True"]),
    "a chord's body": lambda l, e: (chord([l.fail.s("x"), l.add.s(1, 1)], l.tsum.s().on_error(e)), lambda r: r.id, ["ChordError", "1", "False"]),
}


@pytest.mark.parametrize("of", TOLD)
def test_an_errback_of_three_arguments_is_told_of_request_exception_and_traceback(own_lab, of):
    lab, path = own_lab, own_lab.path()
    # Celery's workers call it where the task has failed, and ours send it to a worker that has it.
    lab.worker("python", queues="python" if lab.kind == "longshore" else "celery,python")
    if lab.kind == "longshore":
        lab.worker("longshore", flags=["--errback", "lab.told_all,lab.another"])
    canvas, whose, told = TOLD[of](lab, lab.told_all.s(path=path).set(queue="python"))
    result = canvas.apply_async()
    assert eventually(lambda: lab.marks(path), 15) == [["told_all", whose(result), *told]]
    assert lab.wait_empty(chords=False) == {}


def test_a_chord_that_is_sent_again_runs_again_though_a_part_is_quicker_than_its_sender(own_lab, monkeypatch):
    """Its sender begins it again just before the last of its tasks, and by then a part has ended. Celery's own worker drops that part, and waits for ever."""
    lab, header, body = own_lab, own_lab.path(), own_lab.path()
    lab.worker()
    backend, slow = type(lab.app.backend), []
    begin = backend.set_chord_size

    def begin_late(self, *args):
        if slow:
            assert eventually(lambda: len(lab.marks(header)) == 3, 10)
            # Until it is counted, too, of which nothing can be seen.
            time.sleep(0.5)
        begin(self, *args)

    monkeypatch.setattr(backend, "set_chord_size", begin_late)
    canvas = chord([lab.heard.s(1, path=header), lab.heard.s(2, path=header)], lab.heard.s(path=body))
    canvas.freeze()
    canvas.apply_async()
    [first] = eventually(lambda: lab.marks(body), 10)
    assert "".join(first) == "heard[1,2]"
    assert lab.wait_empty() == {}
    slow.append(True)
    canvas.apply_async()
    assert eventually(lambda: len(lab.marks(header)) == 4, 10)
    again = eventually(lambda: len(lab.marks(body)) == 2, 10 if lab.kind == "longshore" else 2)
    assert again is (None if lab.kind == "python" else True)
