"""A clock that jumps: that of a worker, and that of the server."""

import time

import pytest

from clock import Clock
from lab import Lab
from procs import eventually
from servers import RedisServer
from stores import STORES, RabbitStore
from test_rounds import Ledgers, finish, nothing_is_left

pytestmark = [pytest.mark.alone, pytest.mark.ours]

HOUR = 3600


@pytest.fixture
def clock(tmp_path):
    return Clock(tmp_path / "clock")


@pytest.fixture(params=[*STORES, pytest.param("rabbit", marks=pytest.mark.amqp)])
def store(request, own_lab):
    store = RabbitStore(own_lab, request.getfixturevalue("rabbit")) if request.param == "rabbit" else STORES[request.param](own_lab)
    yield store
    store.close()


def worker(lab, store, **options):
    return lab.worker(concurrency=2, broker=store.broker, results=store.results, **options)


@pytest.mark.limit(60)
def test_while_a_workers_clock_jumps_nothing_is_lost_repeated_or_held_up(own_lab, store, clock):
    lab, ledgers = own_lab, Ledgers(own_lab, store)
    jumpy, steady = worker(lab, store, lease=1, env=clock.env), worker(lab, store, lease=1)
    for ahead in (HOUR, 0, -HOUR, 0, 30 * 24 * HOUR, -30 * 24 * HOUR):
        ledgers.send()
        clock.set(ahead)
        begun = time.monotonic()
        # Longer than the lease, so that whoever is taken for dead loses what it holds.
        assert eventually(lambda: ledgers.settle() == 0, 10)
        time.sleep(max(0, 1.5 - (time.monotonic() - begun)))
    assert (finish(ledgers, 10), ledgers.repeats(), store.dead()) == (0, [], [])
    assert ledgers.outcomes == {"SUCCESS": ledgers.sent}
    served = {pid: sum(pid in pids for pids in ledgers.started.values()) for pid in (jumpy.pid, steady.pid)}
    assert min(served.values()) > 0 and jumpy.alive() and steady.alive(), served
    assert nothing_is_left(store) is True


@pytest.mark.limit(60)
def test_what_waits_for_its_time_sees_the_clock_jump_and_what_has_expired_too(own_lab, store, clock):
    lab, path = own_lab, own_lab.path()
    worker(lab, store, env=clock.env)
    [due, expired] = [
        store.send("marked", [(path, tag)], **options)[0]
        for tag, options in {"due": {"countdown": store.held}, "expired": {"countdown": store.held, "expires": store.held * 4 / 3}}.items()
    ]
    assert store.send("add", [(1, 1)]) and eventually(lambda: not lab.starts(path), 1)
    time.sleep(1)
    assert store.states([due, expired]) == [None, None]
    # And not while it is set back.
    clock.set(-HOUR)
    time.sleep(1)
    assert store.states([due, expired]) == [None, None]
    clock.set(HOUR)
    assert eventually(lambda: all(store.states([due, expired])), 15)
    assert store.states([due, expired]) == ["SUCCESS", "REVOKED"] and lab.starts(path) == {"due": 1}
    assert nothing_is_left(store) is True


@pytest.mark.limit(60)
def test_when_the_servers_clock_jumps_nobody_is_taken_for_dead(kind, tmp_path, clock):
    """All signs of life expire at once; whoever gives them is given the time to give them again."""
    server = RedisServer(tmp_path / "redis", env=clock.env)
    lab = Lab(server, 0, tmp_path / "lab", kind).use()
    try:
        # So that the next sign is seconds away.
        workers = [lab.worker(concurrency=2, lease=10) for _ in range(3)]
        path = lab.path()
        sent = [lab.marked.delay(path, tag, 6) for tag in range(5)]
        far = lab.marked.apply_async((path, "far"), countdown=6)
        assert eventually(lambda: len(lab.starts(path)) == 5, 10)
        time.sleep(0.5)
        before = server.client().time()[0]
        clock.set(HOUR)
        assert server.client().time()[0] - before >= HOUR
        assert [each.get(timeout=20) for each in [*sent, far]] == [0, 1, 2, 3, 4, "far"]
        assert set(lab.starts(path).values()) == {1} and all(worker.alive() for worker in workers)
        # Back again: what was stored lives longer, and that is all.
        clock.set(0)
        assert lab.add.delay(1, 1).get(timeout=10) == 2
        assert lab.wait_empty() == {}
        assert not any("dead worker" in worker.text() for worker in workers)
    finally:
        lab.close()
        server.stop()
