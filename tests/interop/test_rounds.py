"""Workers that are killed, and workers that are told to go, again and again under load, on each broker. Three ledgers know what happened: what was started and
what was ended (lines that the tasks write), and the results in the store. With LONGSHORE_INTEROP_LONG=1 there are 200 rounds of each.
"""

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from lab import pick
from procs import eventually
from stores import STORES

pytestmark = [pytest.mark.alone, pytest.mark.ours]

LEASE = 1
# A worker that has lived for so many seconds runs whom its death would bury.
CALM = 10
SLOTS = 4
# So many tasks are sent in each round, each of so many seconds.
LOAD, SECONDS = 120, 0.01


class Ledgers:
    """What was sent, started, ended and stored."""

    def __init__(self, lab, store):
        self.store, self.path = store, lab.path("rounds")
        self.sent, self.pending = 0, {}
        self.file, self.rest = None, b""
        # By tag: the processes that started it, in order; how often it ended.
        self.started, self.ended, self.outcomes, self.failed = {}, Counter(), Counter(), []

    def send(self):
        tags = range(self.sent, self.sent + LOAD)
        ids = self.store.send("marked", [(self.path, tag, SECONDS) for tag in tags])
        self.sent += len(tags)
        self.pending.update(zip(map(str, tags), ids))

    def read(self):
        """Reads what the tasks have written since."""
        if self.file is None:
            try:
                self.file = open(self.path, "rb")
            except FileNotFoundError:
                return
        *lines, self.rest = (self.rest + self.file.read()).split(b"\n")
        for line in lines:
            what, tag, _, pid, *_ = line.decode().split(" ")
            if what == "start":
                self.started.setdefault(tag, []).append(int(pid))
            else:
                self.ended[tag] += 1

    def settle(self):
        """Forgets what has a result; how many have none."""
        tags = list(self.pending)
        for tag, state in zip(tags, self.store.states([self.pending[tag] for tag in tags])):
            if state in ("SUCCESS", "FAILURE"):
                self.outcomes[state] += 1
                if state == "FAILURE":
                    self.failed.append(tag)
                del self.pending[tag]
        return len(self.pending)

    def running_in(self, pid):
        """What a process that stands still has started, and has stored no result of."""
        self.settle()
        self.read()
        return {tag for tag in self.pending if self.started.get(tag, [0])[-1] == pid}

    def repeats(self):
        """For each start that was not the first: the task, and the process that had started it before."""
        return [(tag, before) for tag, pids in self.started.items() for before in pids[:-1]]


@pytest.fixture(params=STORES)
def store(request, own_lab):
    store = STORES[request.param](own_lab)
    yield store
    store.close()


def another(lab, store):
    return lab.worker(concurrency=SLOTS, lease=LEASE, broker=store.broker, results=store.broker)


def finish(ledgers, seconds):
    """Waits for the last results. What is without one then is lost."""
    eventually(lambda: ledgers.settle() == 0, seconds, 0.05)
    ledgers.read()
    return len(ledgers.pending)


def nothing_is_left(store):
    return eventually(lambda: not store.left(), 10) or store.left()


def rounds_of(count):
    draw = random.Random(pick(1, time.time_ns()))
    for _ in range(count):
        yield draw.random() * 0.1


def stand_still(worker):
    """Freezes it, and waits until the last of its threads has left the kernel: what it was writing is written."""
    worker.freeze()
    threads = Path(f"/proc/{worker.pid}/task")

    def still():
        try:
            return all(each.read_text().rsplit(")")[-1].split()[0] == "T" for each in threads.glob("*/stat"))
        except OSError:
            # One has just ended.
            return False

    assert eventually(still, 5, 0.001)


class Killer:
    """Two workers, of which one is killed and replaced at a time; and what ran in those that were killed."""

    def __init__(self, lab, store, start=another):
        self.lab, self.store, self.ledgers, self.start = lab, store, Ledgers(lab, store), start
        self.workers = [start(lab, store) for _ in range(2)]
        self.running, self.ended = {}, 0
        # When each worker was started; the longest that one of those that were killed has lived.
        self.born, self.oldest = {worker.pid: time.monotonic() for worker in self.workers}, 0

    def strike(self, pause):
        self.ledgers.send()
        victim = self.workers.pop(0)
        # On a slow machine it may take a while until it has work.
        eventually(lambda: self.ledgers.running_in(victim.pid), 2, 0.002)
        time.sleep(pause)
        # It stands still while we look at what it runs: the moment it is dead, others take that over.
        stand_still(victim)
        running = self.running[victim.pid] = self.ledgers.running_in(victim.pid)
        victim.kill()
        self.oldest = max(self.oldest, time.monotonic() - self.born[victim.pid])
        self.ended += sum(self.ledgers.ended[tag] for tag in running)
        begun = time.monotonic()
        self.workers.append(self.start(self.lab, self.store))
        self.born[self.workers[-1].pid] = begun

    def sum_up(self, lost):
        rounds, ledgers, repeats = len(self.running), self.ledgers, self.ledgers.repeats()
        count = sum(map(len, self.running.values()))
        print(f"{rounds} times kill -9, {ledgers.sent} tasks: lost {lost}, started again {len(repeats)}, of {count} that ran when their worker was killed "
              f"({self.ended} of them at their end, and not yet stored); buried {len(self.store.dead())}")  # fmt: skip
        strange = [(tag, pid) for tag, pid in repeats if tag not in self.running.get(pid, ())]
        assert (lost, strange) == (0, [])
        # It was under load, though on a machine that is busy most of them die before they begin.
        assert any(self.running.values())
        assert nothing_is_left(self.store) is True


@pytest.mark.limit(pick(90, 1800))
def test_kill_9_of_the_worker_loses_nothing_and_repeats_only_what_ran(own_lab, store):
    """Each round ends before the next one begins."""
    killer, rounds, lost = Killer(own_lab, store), pick(5, 200), 0
    for pause in rounds_of(rounds):
        killer.strike(pause)
        lost = finish(killer.ledgers, 30)
        if lost:
            break
    killer.sum_up(lost)
    assert killer.ledgers.outcomes == {"SUCCESS": killer.ledgers.sent} and store.dead() == []


@pytest.mark.limit(pick(90, 1800))
def test_workers_that_are_killed_before_they_are_over_the_last_kill_lose_nothing_either(own_lab, store):
    """Nor do they bury anything: whom a third death would bury is run by a worker that has lived for a while, which none does here. Where one does, the machine being
    slow, what it is killed with may be buried: nobody can tell it from what kills its worker."""
    killer, rounds = Killer(own_lab, store), pick(8, 200)
    for pause in rounds_of(rounds):
        killer.strike(pause)
        killer.ledgers.settle()
    killer.sum_up(finish(killer.ledgers, pick(60, 180)))
    dead, ledgers = store.dead(), killer.ledgers
    assert dead == [] or killer.oldest > CALM
    assert all(letter["crashes"] == 3 for letter in dead)
    assert ledgers.outcomes == Counter(SUCCESS=ledgers.sent - len(dead), FAILURE=len(dead))
    # Each of them was running, or about to, when its workers were killed.
    assert len(ledgers.failed) == len(dead)
    for tag in ledgers.failed:
        assert all(tag in killer.running[pid] for pid in ledgers.started.get(tag, [])), tag


@pytest.mark.limit(pick(90, 1800))
def test_sigterm_of_the_worker_loses_nothing_repeats_nothing_and_hangs_nowhere(own_lab, store):
    ledgers, rounds, hung, codes, busy = Ledgers(own_lab, store), pick(8, 200), 0, Counter(), 0
    workers = [another(own_lab, store) for _ in range(2)]
    for pause in rounds_of(rounds):
        ledgers.send()
        leaving = workers.pop(0)
        eventually(lambda: ledgers.running_in(leaving.pid), 2, 0.002)
        time.sleep(pause)
        stand_still(leaving)
        busy += bool(ledgers.running_in(leaving.pid))
        leaving.terminate()
        leaving.thaw()
        code = leaving.process.wait(10)
        hung += code is None
        codes[code] += 1
        leaving.kill()
        workers.append(another(own_lab, store))
        ledgers.settle()
    lost = finish(ledgers, 30)
    repeats = len(ledgers.repeats())
    print(f"{rounds} times SIGTERM, {ledgers.sent} tasks: lost {lost}, started again {repeats}, hung {hung}; exit codes {dict(codes)}")
    assert (lost, repeats, hung, dict(codes)) == (0, 0, 0, {0: rounds})
    assert ledgers.outcomes == {"SUCCESS": ledgers.sent}
    assert busy > rounds / 3
    assert nothing_is_left(store) is True
