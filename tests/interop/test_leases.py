"""What longshore holds stays its own for as long as it lives, however long the task or its ETA, with Python workers beside it whose visibility timeout is short.

Kombu's sweep (what makes Celery run long tasks twice) comes once when a worker starts and then every 100 s; here it comes all the time.
"""

import threading
import time

import pytest
from kombu import Connection

from lab import pick
from procs import eventually


class Sweeper:
    """Kombu's own restore of what nobody acknowledged, twice a second."""

    def __init__(self, lab, visibility_timeout):
        self.connection = Connection(lab.broker_url, transport_options={"visibility_timeout": visibility_timeout})
        self.over = threading.Event()
        self.sweeps, self.error = 0, None
        self.thread = threading.Thread(target=self._sweep, daemon=True)
        self.thread.start()

    def _sweep(self):
        try:
            channel = self.connection.channel()
            while not self.over.wait(0.3):
                channel.qos.restore_visible(interval=1)
                self.sweeps += 1
        except Exception as error:  # noqa: BLE001
            self.error = error

    def close(self):
        self.over.set()
        self.thread.join(10)
        self.connection.release()


@pytest.mark.alone
@pytest.mark.limit(90)
def test_a_long_task_and_a_far_eta_are_started_once(own_lab):
    lab = own_lab
    visibility, seconds = pick(2, 5), pick(5, 20)
    ours = lab.worker("python" if lab.kind == "python" else "longshore", name="first", visibility_timeout=visibility,
                      conf={"task_acks_late": True})  # fmt: skip
    path = lab.path()
    long = lab.marked.delay(path, "long", seconds)
    far = lab.marked.apply_async((path, "far"), countdown=seconds)
    assert eventually(lambda: lab.starts(path)["long"] == 1, 10)
    # Both are held.
    assert eventually(lambda: lab.redis.hlen("unacked") == 2, 5)
    sweeper = Sweeper(lab, visibility)
    try:
        for n in range(2):
            lab.worker("python", name=f"neighbour{n}", visibility_timeout=visibility, conf={"task_acks_late": True})
        if lab.kind == "python":
            # The measured expectation: both again and again, as long as they are not over.
            assert eventually(lambda: lab.starts(path)["long"] > 1, seconds + 5)
            return
        assert long.get(timeout=seconds + 10) == "long" and far.get(timeout=seconds + 10) == "far"
    finally:
        sweeper.close()
    workers = f"{len(lab.workers)} workers ({len(lab.workers) - 1} of them Celery's)"
    print(f"{seconds} s of task and an ETA {seconds} s ahead, visibility timeout {visibility} s, {workers}, {sweeper.sweeps} sweeps: "
          f"starts {dict(lab.starts(path))}")  # fmt: skip
    assert sweeper.error is None and sweeper.sweeps > seconds
    assert lab.starts(path) == {"long": 1, "far": 1}
    assert {words[2] for words in lab.marks(path)} == {"longshore"} and ours.alive()
    assert lab.wait_empty() == {}


@pytest.mark.ours
@pytest.mark.limit(60)
def test_what_a_dead_worker_held_is_back_within_seconds_whatever_the_visibility_timeout(own_lab):
    lab = own_lab
    path = lab.path()
    dead = lab.worker(concurrency=1, lease=pick(2, 5))
    held = lab.marked.delay(path, "held", 3)
    waiting = lab.marked.delay(path, "waiting")
    far = lab.marked.apply_async((path, "far"), countdown=3)
    assert eventually(lambda: lab.starts(path)["held"] == 1, 10)
    time.sleep(0.3)
    assert lab.starts(path) == {"held": 1}
    dead.kill()
    killed = time.monotonic()
    lab.worker(concurrency=4)
    assert eventually(lambda: lab.starts(path)["held"] == 2, 15), lab.marks(path)
    took = time.monotonic() - killed
    print(f"back after {took:.1f} s")
    assert took < 10
    assert waiting.get(timeout=10) == "waiting" and far.get(timeout=10) == "far" and held.get(timeout=10) == "held"
    assert lab.wait_empty() == {}


@pytest.mark.alone
@pytest.mark.limit(60)
def test_many_etas_are_held_and_run_in_time(own_lab):
    """They hold up nothing that comes after them, and nothing holds them up."""
    lab = own_lab
    lab.staff(concurrency=2)
    path, count = lab.path(), pick(200, 2000)
    begun = time.time()
    with lab.app.producer_pool.acquire(block=True) as producer:
        for n in range(count):
            lab.marked.apply_async((path, n), countdown=2.5, producer=producer)
    sent = time.time() - begun
    assert lab.add.delay(1, 1).get(timeout=10) == 2
    assert time.time() - begun < 2.5 + sent
    assert eventually(lambda: len(lab.starts(path)) == count, 20)
    times = [float(words[4]) for words in lab.marks(path) if words[0] == "start"]
    assert min(times) >= begun + 2.5 and max(lab.starts(path).values()) == 1
    assert lab.wait_empty() == {}
