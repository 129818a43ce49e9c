"""A rolling upgrade: workers of an earlier commit and ours serve one broker at once and are killed in turns, and what the one has written the other opens.
LONGSHORE_OLD_LABAPP names the earlier labapp (`cargo build -p longshore-interop` there); without it these tests are skipped.
"""

import itertools
import os
import signal
import subprocess
import time

import pytest

from lab import LABAPP, OLD_LABAPP, pick
from procs import eventually
from test_rounds import CALM, LEASE, SLOTS, Killer, finish, nothing_is_left, rounds_of, store  # noqa: F401

pytestmark = [
    pytest.mark.alone,
    pytest.mark.ours,
    pytest.mark.skipif(not OLD_LABAPP, reason="LONGSHORE_OLD_LABAPP names no labapp of an earlier commit"),
]


@pytest.mark.limit(pick(120, 1800))
def test_workers_of_before_and_now_are_killed_in_turns_and_lose_nothing(own_lab, store):  # noqa: F811
    programs = itertools.cycle([OLD_LABAPP, LABAPP])
    started = []

    def start(lab, store):
        started.append(next(programs))
        return lab.worker(concurrency=SLOTS, lease=LEASE, broker=store.broker, results=store.broker, program=started[-1])

    killer, rounds = Killer(own_lab, store, start), pick(10, 200)
    for pause in rounds_of(rounds):
        killer.strike(pause)
        killer.ledgers.settle()
    killer.sum_up(finish(killer.ledgers, pick(60, 180)))
    assert started.count(OLD_LABAPP) > 2 and started.count(LABAPP) > 2
    dead = store.dead()
    assert dead == [] or killer.oldest > CALM
    assert killer.ledgers.outcomes["SUCCESS"] == killer.ledgers.sent - len(dead)


@pytest.mark.limit(60)
def test_a_rollout_stops_one_worker_after_the_other_and_repeats_nothing(own_lab, store):  # noqa: F811
    """From the old ones to the new ones, and back."""
    lab = own_lab

    def another(program):
        return lab.worker(concurrency=SLOTS, lease=LEASE, broker=store.broker, results=store.broker, program=program)

    killer = Killer(lab, store, lambda lab, store: another(OLD_LABAPP))
    ledgers, workers = killer.ledgers, killer.workers
    for program in [LABAPP, LABAPP, OLD_LABAPP, OLD_LABAPP]:
        ledgers.send()
        workers.append(another(program))
        leaving = workers.pop(0)
        leaving.terminate()
        assert leaving.process.wait(15) == 0
        ledgers.settle()
    assert (finish(ledgers, 30), len(ledgers.repeats())) == (0, 0)
    assert ledgers.outcomes == {"SUCCESS": ledgers.sent} and store.dead() == []
    assert nothing_is_left(store) is True


def longshore(program, folder, *words, stdin=None, wait=True):
    env = {**os.environ, "HOME": str(folder), "XDG_STATE_HOME": str(folder / "state"), "LONGSHORE_BROKER": f"sqlite:{folder / 'tasks.db'}"}
    if (folder / "longshore.toml").exists():
        env["LONGSHORE_CONFIG"] = "longshore.toml"  # Who names a file trusts it.
    popen = subprocess.Popen(
        [program, *words], cwd=folder, env=env, text=True, stdin=open(stdin) if stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE if wait else subprocess.DEVNULL, stderr=subprocess.PIPE if wait else subprocess.DEVNULL,
    )  # fmt: skip
    if not wait:
        return popen
    out, err = popen.communicate(timeout=40)
    assert popen.returncode == 0, (words, popen.returncode, out, err)
    return out


@pytest.mark.parametrize("writer, reader", [(OLD_LABAPP, LABAPP), (LABAPP, OLD_LABAPP)], ids=["old-new", "new-old"])
@pytest.mark.limit(60)
def test_a_database_is_opened_by_the_other_with_all_that_lies_in_it(tmp_path, writer, reader):
    (tmp_path / "longshore.toml").write_text('[tasks.slow]\nexec = ["sh", "-c", "echo start >> ran; sleep 2; echo end >> ran"]\n')
    ran = tmp_path / "ran"
    lines = lambda word: ran.read_text().split().count(word) if ran.exists() else 0  # noqa: E731
    # One runs when its worker is killed, one waits, one that nobody knows is a dead letter, one is for later.
    running = longshore(writer, tmp_path, "call", "slow").strip()
    worker = longshore(writer, tmp_path, "worker", "-q", wait=False)
    assert eventually(lambda: lines("start") == 1, 20)
    longshore(writer, tmp_path, "call", "nobody.knows")
    assert eventually(lambda: "nobody.knows" in longshore(writer, tmp_path, "dead", "list"), 20)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    waiting = longshore(writer, tmp_path, "call", "slow").strip()
    later = longshore(writer, tmp_path, "call", "slow", "--countdown", "1h").strip()
    assert "nobody.knows" in longshore(reader, tmp_path, "dead", "list")
    assert "later" in longshore(reader, tmp_path, "--json", "why", later)
    before = lines("end")
    worker = longshore(reader, tmp_path, "worker", "-q", wait=False)
    for id in (running, waiting):
        longshore(reader, tmp_path, "result", "--wait=30s", id)
    worker.terminate()
    assert worker.wait(20) == 0
    # What runs is ended with its worker, unless it was at its end.
    assert (lines("start"), lines("end")) == (3, before + 2)


@pytest.mark.parametrize("source", ["file", "stdin"])
@pytest.mark.limit(60)
def test_a_journal_of_before_is_resumed_and_shown(tmp_path, source):
    (tmp_path / "in").write_text("".join(f"{n}\n" for n in range(60)))
    words = [*(["in"] if source == "file" else []), "--name", "rolling", "-j", "3", "-o", "out.jsonl", "-q"]
    words += ["--", "sh", "-c", "echo {} >> ran; sleep 0.05"]
    stdin = tmp_path / "in" if source == "stdin" else None
    run = longshore(OLD_LABAPP, tmp_path, "run", *words, stdin=stdin, wait=False)
    ran = lambda: (tmp_path / "ran").read_text().split() if (tmp_path / "ran").exists() else []  # noqa: E731
    assert eventually(lambda: len(ran()) >= 15, 20)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    time.sleep(0.3)
    assert len(ran()) < 60
    assert "rolling" in longshore(LABAPP, tmp_path, "jobs", "list")
    longshore(LABAPP, tmp_path, "run", "--resume", "rolling", "-q", stdin=stdin)
    assert sorted(set(map(int, ran()))) == list(range(60)) and len(ran()) <= 60 + 3
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 60
    assert "rolling" in longshore(LABAPP, tmp_path, "jobs", "show", "rolling")
