"""Canvases: each shape by name, the ways in which they fail, and many at random."""

import collections
import json
import time

import pytest
from celery import chain, chord, group
from celery.exceptions import ChordError

from canvases import Maker
from lab import pick
from procs import eventually

# Name, canvas, result. All of what section 5 of Celery's guide to canvas and its tests know.
SHAPES = {
    "chain": (lambda l: l.add.s(1, 2) | l.add.s(3) | l.add.s(4), 10),
    "chain of one": (lambda l: chain(l.add.s(1, 2)), 3),
    "chain of chains": (lambda l: chain(chain(l.add.s(1, 2), l.add.s(3)), chain(l.add.s(4), l.mul.s(2))), 20),
    "chain of many": (lambda l: chain(l.add.s(0, 1), *[l.add.s(1) for _ in range(30)]), 31),
    "immutable in a chain": (lambda l: l.add.s(1, 2) | l.add.si(10, 20) | l.add.s(1), 31),
    "keyword arguments in a chain": (lambda l: l.add.s(1, 2) | l.echo.s(a=1), {"args": [3], "kwargs": {"a": 1}}),
    "group": (lambda l: group(l.add.s(n, n) for n in range(10)), [2 * n for n in range(10)]),
    "group of one": (lambda l: group(l.add.s(1, 1)), [2]),
    "group of groups": (lambda l: group(group(l.add.s(1, 1), l.add.s(2, 2)), l.add.s(3, 3)), [2, 4, 6]),
    "group of chains": (lambda l: group(l.add.s(1, 1) | l.add.s(2), l.add.s(3, 3) | l.add.s(4)), [4, 10]),
    "group at the end": (lambda l: l.add.s(1, 1) | group(l.add.s(1), l.add.s(2)), [3, 4]),
    "group of chains at the end": (lambda l: l.add.s(1, 1) | group(l.add.s(1) | l.mul.s(2), l.add.s(2) | l.mul.s(3)), [6, 12]),
    "group, then a task": (lambda l: group(l.add.s(1, 1), l.add.s(2, 2)) | l.tsum.s(), 6),
    "task, group, task": (lambda l: l.add.s(1, 1) | group(l.add.s(1), l.add.s(2)) | l.tsum.s(), 7),
    "task, group, task, task": (lambda l: l.add.s(1, 1) | group(l.add.s(1), l.add.s(2)) | l.tsum.s() | l.add.s(10), 17),
    "group, group": (lambda l: group(l.add.s(1, 1), l.add.s(2, 2)) | group(l.tsum.s(), l.identity.s()), [6, [2, 4]]),
    "group, group, task": (lambda l: group(l.add.s(1, 1), l.add.s(2, 2)) | group(l.tsum.s(), l.tsum.s()) | l.tsum.s(), 12),
    "task, group, group, task": (
        lambda l: l.add.s(1, 1) | group(l.add.s(1), l.add.s(2)) | group(l.tsum.s(), l.tsum.s()) | l.tsum.s(), 14),
    "task, many groups, task": (
        lambda l: chain(l.add.s(1, 1), *[group(l.tsum.s() for _ in range(3)) for _ in range(8)], l.tsum.s()), 2 * 3**8),
    "chord": (lambda l: chord([l.add.s(1, 2), l.add.s(3, 4)], l.tsum.s()), 10),
    "chord keeps the order": (lambda l: chord([l.random_sleep.s(n) for n in range(20)], l.identity.s()), list(range(20))),
    "chord of one": (lambda l: chord([l.add.s(1, 2)], l.identity.s()), [3]),
    "chord of chains": (lambda l: chord([l.add.s(1, 2) | l.add.s(3), l.add.s(4, 5) | l.add.s(6)], l.identity.s()), [6, 15]),
    "chord of groups": (lambda l: chord([group(l.add.s(1, 1), l.add.s(2, 2)), l.add.s(3, 3)], l.tsum.s()), 12),
    "chord with an immutable body": (lambda l: chord([l.add.s(1, 2), l.add.s(3, 4)], l.add.si(5, 6)), 11),
    "chord with keyword arguments in the body": (lambda l: chord([l.add.s(1, 2)], l.echo.s(k=1)), {"args": [[3]], "kwargs": {"k": 1}}),
    "chord with a chain as body": (lambda l: chord([l.add.s(1, 2), l.add.s(3, 4)], l.tsum.s() | l.add.s(5)), 15),
    "chord with a group as body": (lambda l: chord([l.add.s(1, 2), l.add.s(3, 4)], group(l.tsum.s(), l.identity.s())), [10, [3, 7]]),
    "chord, then a task": (lambda l: chord([l.add.s(1, 2), l.add.s(3, 4)], l.tsum.s()) | l.add.s(5), 15),
    "chord, then a group": (lambda l: chord([l.add.s(1, 2), l.add.s(3, 4)], l.tsum.s()) | group(l.add.s(5), l.add.s(6)), [15, 16]),
    "chord in a chord": (
        lambda l: chord([chord([l.add.s(1, 2), l.add.s(3, 4)], l.tsum.s()), l.add.s(5, 6)], l.tsum.s()), 21),
    "chord in a chord in a chord": (
        lambda l: chord([chord([chord([l.add.s(1, 1), l.add.s(1, 1)], l.tsum.s()), l.add.s(1, 1)], l.tsum.s()), l.add.s(1, 1)], l.tsum.s()), 8),
    "chord with a chord as body": (
        lambda l: chord([l.add.s(1, 2), l.add.s(3, 4)], chord([l.tsum.s(), l.tsum.s()], l.tsum.s())), 20),
    "chord in a chain": (lambda l: l.add.s(1, 1) | chord([l.add.s(1), l.add.s(2)], l.tsum.s()) | l.add.s(1), 8),
    "two chords in a chain": (
        lambda l: chord([l.add.s(1, 1), l.add.s(2, 2)], l.tsum.s()) | chord([l.add.s(1), l.add.s(2)], l.tsum.s()), 15),
    "chord whose header is a chain with a chord": (
        lambda l: chord([l.add.s(1, 1) | chord([l.add.s(1), l.add.s(2)], l.tsum.s()), l.add.s(3, 3)], l.tsum.s()), 13),
    "map": (lambda l: l.identity.map([1, 2, 3]), [1, 2, 3]),
    "starmap": (lambda l: l.add.starmap([(1, 2), (3, 4)]), [3, 7]),
    "chunks": (lambda l: l.add.chunks([(n, n) for n in range(10)], 4).group(), [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18]]),
    "replaced": (lambda l: l.replaced.s(1, 2), 3),
    "replaced in a chain": (lambda l: l.add.s(1, 1) | l.replaced.s(2) | l.add.s(3), 7),
    "replaced in a chord": (lambda l: chord([l.replaced.s(1, 2), l.add.s(3, 4)], l.tsum.s()), 10),
    "replaced by a group": (lambda l: l.replaced_by_group.s(10), [10, 11, 12]),
    "replaced by a group in a chain": (lambda l: l.replaced_by_group.s(10) | l.tsum.s(), 33),
    "replaced by a chain": (lambda l: l.replaced_by_chain.s(10), 13),
    "replaced by a chain in a chain": (lambda l: l.replaced_by_chain.s(10) | l.add.s(1), 14),
    "replaced by a chain in a chord": (lambda l: chord([l.replaced_by_chain.s(1), l.add.s(3, 4)], l.tsum.s()), 11),
    "replaced as a body": (lambda l: chord([l.add.s(1, 2), l.add.s(3, 4)], l.tsum.s() | l.replaced.s(1)), 11),
    "grown chord": (lambda l: chord([l.grows.s(1), l.add.s(2, 2)], l.tsum.s()), 1006),
    "retried in a chain": (lambda l: l.add.s(1, 1) | l.flaky_value.si(2, 0.1, 5) | l.add.s(1), 6),
    "retried in a chord": (lambda l: chord([l.flaky_value.s(1, 0.1, 5), l.add.s(1, 1)], l.tsum.s()), 7),
    "retried as a body": (lambda l: chord([l.add.s(1, 1)], l.flaky_value.si(1, 0.1, 9)), 9),
    "accumulate": (lambda l: l.app.tasks["celery.accumulate"].s(1, 2, 3), [1, 2, 3]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_canvas_of_this_shape_comes_to_its_result(lab, shape):
    make, expected = SHAPES[shape]
    result = make(lab).apply_async()
    assert result.get(timeout=15) == expected
    assert lab.wait_empty() == {}


def test_a_group_is_saved_and_restored(lab):
    result = group(lab.add.s(n, n) for n in range(4)).apply_async()
    result.save()
    again = lab.app.GroupResult.restore(result.id)
    assert again.get(timeout=10) == [0, 2, 4, 6] and again.successful() and again.completed_count() == 4
    again.delete()
    assert lab.app.GroupResult.restore(result.id) is None


def test_the_members_of_a_group_know_it(lab):
    sent = group(lab.request.s() for _ in range(3)).apply_async()
    requests = sent.get(timeout=10)
    assert [request["group"] for request in requests] == [sent.id] * 3 and [request["group_index"] for request in requests] == [0, 1, 2]


def test_ids_of_a_chain_are_known_before_it_has_run(lab):
    last = (lab.add.s(1, 1) | lab.slow.si(0.1) | lab.request.si()).apply_async()
    first = last.parent.parent
    request = last.get(timeout=10)
    assert (request["id"], request["parent_id"], request["root_id"]) == (last.id, last.parent.id, first.id)


def failure(result, error, seconds=15):
    with pytest.raises(error) as caught:
        result.get(timeout=seconds)
    return caught.value


def test_a_chain_fails_with_its_link_and_what_comes_after_it_too(lab):
    last = (lab.add.s(1, 1) | lab.fail.si("mid") | lab.add.s(1) | lab.add.s(2)).apply_async()
    assert failure(last, ValueError).args == ("mid", 42)
    # One after the other; `get` looks at what went before, too, and may see the first of them.
    assert eventually(lambda: [each.state for each in (last, last.parent, last.parent.parent)] == ["FAILURE"] * 3, 5)
    assert last.parent.parent.parent.get(timeout=10) == 2
    assert lab.wait_empty(chords=False) == {}


def test_a_failed_member_fails_its_group_and_not_its_siblings(lab):
    result = group(lab.add.s(1, 1), lab.fail.s("one"), lab.add.s(2, 2)).apply_async()
    failure(result, ValueError)
    assert [child.get(timeout=10, propagate=False) for child in result.children][::2] == [2, 4]


def test_a_failed_member_fails_the_chord_with_its_id_and_its_error(lab):
    result = chord([lab.add.s(1, 1), lab.fail.s("kaboom"), lab.add.s(2, 2)], lab.tsum.s()).apply_async()
    failure(result, ValueError)
    # The chord's own error, which `get` hides behind that of its member.
    error = failure(lab.app.AsyncResult(result.id), ChordError)
    failed = result.parent.children[1].id
    assert str(error) == f"Dependency {failed} raised ValueError('kaboom', 42)"
    assert lab.wait_empty(chords=False) == {}


def test_an_expired_member_fails_the_chord(lab):
    result = chord([lab.add.s(1, 1), lab.add.s(1, 1).set(**lab.expired)], lab.tsum.s()).apply_async()
    expired = result.parent.children[1].id
    assert str(failure(lab.app.AsyncResult(result.id), ChordError)) == f"Dependency {expired} raised TaskRevokedError('expired')"
    assert lab.wait_empty(chords=False) == {}


def test_a_body_that_fails_is_the_chords_failure(lab):
    assert failure(chord([lab.add.s(1, 1)], lab.fail.si("body")).apply_async(), ValueError).args == ("body", 42)


def test_what_follows_a_failed_chord_has_failed(lab):
    result = (chord([lab.fail.s("h"), lab.add.s(1, 1)], lab.tsum.s()) | lab.add.s(1)).apply_async()
    failure(result, Exception)
    assert lab.wait_empty(chords=False) == {}


def test_a_failed_chord_in_a_chord_fails_the_outer_one(lab):
    inner = chord([lab.fail.s("inner"), lab.add.s(1, 1)], lab.tsum.s())
    failure(chord([inner, lab.add.s(1, 1)], lab.tsum.s()).apply_async(), ChordError)
    assert lab.wait_empty(chords=False) == {}


def test_a_chord_whose_body_is_a_group_fails_its_members(lab):
    result = chord([lab.fail.s("h"), lab.add.s(1, 1)], group(lab.tsum.s(), lab.identity.s())).apply_async()
    failure(result, Exception)
    assert lab.wait_empty(chords=False) == {}


# Which canvas, and what its errback is told: the id of what failed, as a word.
ERRBACKS = {
    "task": lambda l, e: (l.fail.s("x").on_error(e), lambda r: r.id),
    "chain": lambda l, e: ((l.add.s(1, 1) | l.fail.si("x") | l.add.s(1)).on_error(e), lambda r: r.parent.id),
    "chord, on its body": lambda l, e: (chord([l.fail.s("x"), l.add.s(1, 1)], l.tsum.s().on_error(e)), lambda r: r.id),
    "member of a group": lambda l, e: (group(l.fail.s("x").on_error(e), l.add.s(1, 1)), lambda r: r.children[0].id),
    "body of a chord": lambda l, e: (chord([l.add.s(1, 1)], l.fail.si("x").on_error(e)), lambda r: r.id),
}


@pytest.mark.parametrize("of", ERRBACKS)
def test_an_errback_is_told_the_id_once(lab, of):
    path = lab.path()
    canvas, whose = ERRBACKS[of](lab, lab.told.s(path=path))
    result = canvas.apply_async()
    assert eventually(lambda: lab.marks(path), 10)
    assert lab.wait_empty(chords=False) == {}
    assert lab.marks(path) == [["told", whose(result)]]


def test_a_callback_of_a_chain_comes_after_its_last_link(lab):
    path = lab.path()
    canvas = lab.add.s(1, 1) | lab.add.s(2)
    canvas.link(lab.heard.s(path))
    assert canvas.apply_async().get(timeout=10) == 4
    assert eventually(lambda: lab.marks(path), 10) and lab.wait_empty() == {}
    assert lab.marks(path) == [["heard", "4"]]


@pytest.mark.limit(pick(60, 900))
def test_canvases_at_random_come_to_their_results_and_leave_nothing(own_lab):
    """All at once, so that their tasks mix on the queue; seeds are printed, and any of them can be made again."""
    lab, count, first = own_lab, pick(60, 1000), pick(1, int(time.time()))
    for kind in ["python", "python", "longshore"] if lab.kind == "mixed" else [lab.kind]:
        # Ours takes no more at once than one of Celery's, so that they have their share.
        flags = ["--prefetch", "2"] if kind == "longshore" and lab.kind == "mixed" else []
        lab.worker(kind, concurrency=2 if flags else 4, flags=flags, wait=False)
    for worker in lab.workers:
        worker.wait_ready()
    shapes, pending = collections.Counter(), []
    for seed in range(first, first + count):
        maker = Maker(lab, seed)
        signature, value = maker.scalar(True, maker.random.randrange(1, 4))
        shapes.update(maker.used)
        pending.append((seed, signature, value(None), signature.apply_async()))
    wrong = []
    for seed, signature, expected, result in pending:
        try:
            got = result.get(timeout=60)
        except Exception as error:  # noqa: BLE001
            got = error
        if got != expected and got != [expected]:
            wrong.append((seed, expected, got, str(signature)))
    served = {worker.node: worker.text().lower().count("succeeded") for worker in lab.workers}
    left = lab.wait_empty()
    print(f"{count} canvases from seed {first}, by shape: {json.dumps(shapes)}; tasks served: {served}; wrong {len(wrong)}, left {left}")
    assert not wrong, wrong[:5]
    # All of the workers had a part in it.
    assert min(served.values()) > count / 4, served
    assert left == {}
