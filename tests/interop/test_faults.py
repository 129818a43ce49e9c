"""Bad days: the broker dies, freezes, is not there; connections end in the middle of a reply. Workers that are killed again and again: `test_rounds.py`."""

import json
import time
from collections import Counter

import pytest

from lab import Lab, pick
from ourclient import Client
from procs import eventually, free_port
from proxy import Cutter
from servers import RedisServer, Sentinel

pytestmark = pytest.mark.alone

LEASE = 1


class Load:
    """Many small tasks that write down when they start and end, and what became of them."""

    def __init__(self, lab, count, seconds=0.02):
        self.lab, self.path, self.ids, self.seconds = lab, lab.path("load"), {}, seconds
        self.more(count)

    def more(self, count):
        begin = len(self.ids)
        with self.lab.app.producer_pool.acquire(block=True) as producer:
            for tag in range(begin, begin + count):
                self.ids[str(tag)] = self.lab.marked.apply_async((self.path, tag, self.seconds), producer=producer).id

    def done(self):
        documents = self.lab.redis.mget([f"celery-task-meta-{id}" for id in self.ids.values()])
        return [tag for tag, document in zip(self.ids, documents) if document and json.loads(document)["status"] == "SUCCESS"]

    def running(self):
        """What has started and not ended, by what it wrote."""
        open = Counter()
        for words in self.lab.marks(self.path):
            open[words[1]] += 1 if words[0] == "start" else -1
        return [tag for tag, count in open.items() if count > 0]

    def wait_for(self, count, seconds=20):
        assert eventually(lambda: len(self.done()) >= count, seconds), f"{len(self.done())} of {count}"

    def finish(self, seconds=30):
        """Waits for all of them. How many are lost, and how often one was started again."""
        eventually(lambda: len(self.done()) == len(self.ids), seconds, 0.05)
        lost = set(self.ids) - set(self.done())
        starts = self.lab.starts(self.path)
        return len(lost), sum(starts.values()) - len(starts)


def test_nothing_is_lost_and_nothing_repeated_without_a_fault(own_lab):
    own_lab.staff(concurrency=4)
    assert Load(own_lab, 100).finish() == (0, 0)


@pytest.mark.ours
@pytest.mark.limit(90)
def test_a_task_that_kills_its_worker_three_times_is_buried_and_its_neighbours_live(own_lab):
    lab = own_lab
    load = Load(lab, 20, 0.02)
    poison = lab.dies_here.delay()
    load.more(20)

    def buried():
        if not any(worker.alive() for worker in lab.workers):
            lab.worker(concurrency=4, lease=LEASE)
        return lab.dead()

    # The third worker runs it when it has lived for 10 s.
    assert eventually(buried, 60, 0.1)
    if not any(worker.alive() for worker in lab.workers):
        lab.worker(concurrency=4, lease=LEASE)
    lost, _ = load.finish()
    assert lost == 0
    letters = [json.loads(letter) for queue in lab.dead().values() for letter in queue]
    assert len(letters) == 1 and letters[0]["crashes"] == 3 and letters[0]["reason"]
    assert len(lab.workers) <= 5
    assert lab.wait_empty() == {}
    assert lab.app.AsyncResult(poison.id).state == "FAILURE"


@pytest.mark.ours
@pytest.mark.limit(60)
def test_the_broker_is_killed_and_comes_back(fragile_lab, own_server):
    lab = fragile_lab
    worker = lab.worker(concurrency=4)
    load = Load(lab, 150, 0.03)
    load.wait_for(15)
    own_server.kill()
    time.sleep(1.0)
    own_server.start()
    lost, repeats = load.finish()
    print(f"the broker killed: lost {lost}, repeated {repeats}")
    assert lost == 0 and repeats <= 4 and worker.alive()
    assert lab.wait_empty() == {}


@pytest.mark.ours
@pytest.mark.limit(60)
def test_the_broker_freezes_and_thaws(fragile_lab, own_server):
    lab = fragile_lab
    worker = lab.worker(concurrency=4)
    load = Load(lab, 150, 0.03)
    load.wait_for(15)
    before = len(load.done())
    own_server.freeze()
    time.sleep(3.0)
    own_server.thaw()
    thawed = time.monotonic()
    assert eventually(lambda: len(load.done()) > before, 5)
    assert time.monotonic() - thawed < 3
    lost, repeats = load.finish()
    assert (lost, repeats) == (0, 0) and worker.alive()
    assert lab.wait_empty() == {}


def test_a_worker_waits_for_a_broker_that_is_not_there_yet(fragile_lab, own_server):
    lab = fragile_lab
    own_server.kill()
    workers = [lab.worker(kind, wait=False) for kind in (["python", "longshore"] if lab.kind == "mixed" else [lab.kind])]
    time.sleep(2.0)
    assert all(worker.alive() for worker in workers)
    assert all("S3CRET" not in worker.text() for worker in workers)
    own_server.start()
    for worker in workers:
        worker.wait_ready()
    assert lab.add.delay(1, 1).get(timeout=10) == 2


@pytest.mark.ours
@pytest.mark.limit(90)
def test_a_sentinel_makes_a_replica_the_master_and_the_worker_goes_on_there(own_server, kind, tmp_path):
    replica = RedisServer(tmp_path / "replica", extra=["--replicaof", "127.0.0.1", own_server.port])
    sentinel = Sentinel(tmp_path / "sentinel", own_server)
    lab = Lab(own_server, 0, tmp_path / "lab", kind).use()
    moved = Lab(replica, 0, tmp_path / "moved", kind)
    try:
        assert eventually(lambda: sentinel.knows() == (own_server.port, 1), 20, 0.1)
        worker = lab.worker(concurrency=4, broker=sentinel.url(), results=sentinel.url())
        client = Client(sentinel.url())
        load = Load(lab, 150, 0.03)
        load.wait_for(15)
        # What the replica has not heard of yet is lost with the master, whoever sent it.
        assert own_server.client().wait(1, 5000) == 1
        own_server.kill()
        assert eventually(lambda: sentinel.knows() and sentinel.knows()[0] == replica.port, 20, 0.1)
        load.lab = moved
        moved.redis = replica.client()
        lost, repeats = load.finish()
        print(f"the master killed, the replica made master: lost {lost}, repeated {repeats}")
        # What had ended and not reached the replica is done again.
        assert lost == 0 and repeats <= 8 and worker.alive()
        assert client.call({"task": "lab.add", "args": [1, 1], "kwargs": {}, "options": {}, "subtask_type": None})["result"] == 2
        client.close()
        assert moved.wait_empty() == {}
    finally:
        moved.close()
        lab.discard()
        sentinel.stop()
        replica.stop()


@pytest.mark.ours
@pytest.mark.limit(60)
def test_a_result_backend_that_is_down_holds_results_back_and_loses_none(own_lab, tmp_path):
    results = RedisServer(tmp_path / "results", appendonly=True)
    try:
        lab = own_lab
        worker = lab.worker(results=results.url(0))
        path = lab.path()
        first = lab.marked.delay(path, "before")
        assert eventually(lambda: results.client().get(f"celery-task-meta-{first.id}"), 10)
        results.kill()
        second = lab.marked.delay(path, "while")
        assert eventually(lambda: lab.starts(path)["while"], 10)
        time.sleep(0.5)
        assert worker.alive()
        # Not acknowledged, because its result is stored nowhere.
        assert lab.redis.hlen("unacked") == 1
        results.start()
        assert eventually(lambda: results.client().get(f"celery-task-meta-{second.id}"), 20)
        assert lab.starts(path) == {"before": 1, "while": 1}
        assert lab.wait_empty() == {}
    finally:
        results.stop()


@pytest.mark.ours
@pytest.mark.limit(90)
def test_connections_cut_in_the_middle_of_a_reply_lose_nothing(own_lab):
    lab = own_lab
    cutter = Cutter(lab.server.port, seed=pick(3, time.time_ns()))
    try:
        worker = lab.worker(concurrency=4, lease=LEASE, broker=f"redis://127.0.0.1:{cutter.address}/{lab.db}",
                            results=f"redis://127.0.0.1:{cutter.address}/{lab.db}")  # fmt: skip
        cutter.on = True
        load = Load(lab, 300, 0.02)
        assert eventually(lambda: cutter.cuts >= pick(20, 200) or len(load.done()) == len(load.ids), 20)
        cutter.on = False
        lost, repeats = load.finish()
        print(f"{cutter.cuts} connections cut: lost {lost}, repeated {repeats}")
        assert (lost, repeats) == (0, 0) and worker.alive()
        assert lab.wait_empty() == {}
    finally:
        cutter.close()


@pytest.mark.ours
@pytest.mark.limit(60)
def test_two_workers_of_one_name_share_the_work_and_one_may_die(own_lab):
    lab = own_lab
    one, two = (lab.worker(name="twin", concurrency=2, lease=LEASE) for _ in range(2))
    load = Load(lab, 80, 0.03)
    load.wait_for(20)
    one.kill()
    lost, repeats = load.finish()
    assert lost == 0 and repeats <= 2 and two.alive()
    assert {words[3] for words in lab.marks(load.path)} == {str(one.pid), str(two.pid)}
    assert lab.wait_empty() == {}


@pytest.mark.ours
@pytest.mark.limit(60)
def test_a_frozen_worker_comes_back_too_late_and_its_results_are_refused(own_lab):
    """Longer frozen than its lease: others take what it held; what it then says is not believed."""
    lab = own_lab
    frozen = lab.worker(name="frozen", concurrency=2, lease=LEASE)
    path = lab.path()
    sent = [lab.marked.delay(path, tag, 0.5) for tag in range(4)]
    assert eventually(lambda: len(lab.marks(path)) >= 2, 10)
    frozen.freeze()
    lab.worker(name="other", concurrency=2, lease=LEASE)
    assert [each.get(timeout=20) for each in sent] == [0, 1, 2, 3]
    frozen.thaw()
    assert lab.add.delay(1, 1).get(timeout=10) == 2
    assert lab.wait_empty() == {}
    assert max(lab.starts(path).values()) <= 2 and frozen.alive()


@pytest.mark.ours
def test_a_task_with_an_id_that_was_served_before_does_not_overwrite_its_result(lab):
    first = lab.add.apply_async((1, 2), task_id="twice")
    assert first.get(timeout=10) == 3
    lab.fail.apply_async(("late",), task_id="twice")
    lab.add.delay(0, 0).get(timeout=10)
    time.sleep(0.3)
    assert lab.app.AsyncResult("twice").state == "SUCCESS" and lab.app.AsyncResult("twice").result == 3
    lab.app.AsyncResult("twice").forget()


@pytest.mark.ours
def test_two_messages_of_one_id_both_end_and_a_revoked_one_does_not_come_back(lab):
    path = lab.path()
    for tag in ("one", "two"):
        lab.marked.apply_async((path, tag, 0.2), task_id="twins")
    assert lab.app.AsyncResult("twins").get(timeout=10) in ("one", "two")
    assert lab.wait_empty() == {}
    assert all(count == 1 for count in lab.starts(path).values()) and lab.app.AsyncResult("twins").state == "SUCCESS"
    lab.app.control.revoke("gone")
    time.sleep(0.3)
    for _ in range(2):
        lab.marked.apply_async((path, "gone"), task_id="gone")
        assert eventually(lambda: lab.app.AsyncResult("gone").state == "REVOKED", 10)
    assert lab.wait_empty() == {} and not lab.starts(path)["gone"]
    lab.app.AsyncResult("twins").forget()


@pytest.mark.ours
@pytest.mark.long
@pytest.mark.limit(120)
def test_a_broker_where_nobody_answers_is_said_and_waited_for(own_lab):
    port = free_port()
    worker = own_lab.worker(broker=f"redis://:S3CRETxyz@127.0.0.1:{port}/0", wait=False)
    assert eventually(lambda: str(port) in worker.text(), 10)
    time.sleep(3)
    assert worker.alive() and "S3CRET" not in worker.text()
