"""Seed 004's example as its files have it, on each broker that it names, three ways: Celery's client and our worker; our client and Celery's worker; our command
line and what `[tasks]` names. Three additions that sleep for 3 s each take about 3 s.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import HERE, LABAPP
from ourclient import Client
from procs import Process, eventually

pytestmark = pytest.mark.skipif(not LABAPP, reason="LONGSHORE_LABAPP names no program")

EXAMPLE = (Path(HERE) / "../../crates/longshore/examples/seed004").resolve()
ADD = "tasks._add"
PAIRS = [(1, 1), (2, 2), (3, 3)]
TASKS = '[tasks."tasks._add"]\nexec = ["sh", "-c", "sleep 3; echo $(($1 + $2))", "sh", "{args.0}", "{args.1}"]\n'


@pytest.fixture(params=["redis", "amqp"])
def brokers(request):
    """The URL of an empty broker for each way."""
    if request.param == "amqp":
        rabbit = request.getfixturevalue("rabbit")
        return [rabbit.url(rabbit.vhost()) for _ in range(3)]
    server = request.getfixturevalue("own_server")
    return [server.url(db) for db in range(3)]


def celerys_client(broker):
    """The script; what it printed."""
    env = {**os.environ, "CELERY_BROKER_URL": broker}
    script = subprocess.Popen([sys.executable, "client.py"], cwd=EXAMPLE, env=env, stdout=subprocess.PIPE, text=True)

    def answer():
        results, took = script.communicate(timeout=40)[0].splitlines()
        return json.loads(results), float(re.fullmatch("after (.*) s", took)[1])

    return answer


def our_client(broker):
    client, begun = Client(broker), time.monotonic()
    options = {"kwargs": {}, "options": {}, "subtask_type": None, "immutable": False}
    sent = [client.tell(send={"task": ADD, "args": list(pair), **options}, wait=40) for pair in PAIRS]

    def answer():
        answers = [client.told(n, 40) for n in sent]
        took = time.monotonic() - begun
        client.close()
        return [answer.get("result", answer) for answer in answers], took

    return answer


def our_command_line(broker):
    begun = time.monotonic()
    argv = [LABAPP, "call", "--broker", broker, "--wait=40s", ADD, "-a"]
    calls = [subprocess.Popen([*argv, json.dumps(pair)], stdout=subprocess.PIPE, text=True) for pair in PAIRS]

    def answer():
        results = [json.loads(call.communicate(timeout=40)[0].split()[-1]) for call in calls]
        return results, time.monotonic() - begun

    return answer


@pytest.mark.limit(90)
def test_three_slow_additions_take_as_long_as_one_whoever_asks_and_whoever_serves(brokers, tmp_path):
    of_python, in_rust, of_program = brokers
    (tmp_path / "tasks.toml").write_text(TASKS)
    starts = {
        "in Rust": ([LABAPP, "worker", "-l", "info", "--broker", in_rust], {"LAB_SEED": "1"}),
        "of Celery": ([sys.executable, "-m", "celery", "-A", "tasks", "worker", "--loglevel=INFO", "-c", 3], {"CELERY_BROKER_URL": of_python}),
        "of [tasks]": ([LABAPP, "worker", "-l", "info", "--broker", of_program, "--lane", "process=3"], {"LONGSHORE_CONFIG": str(tmp_path / "tasks.toml")}),
    }
    workers = {name: Process(argv, tmp_path / f"{name}.log", env=env, cwd=EXAMPLE, name=name) for name, (argv, env) in starts.items()}
    try:
        for worker in workers.values():
            worker.wait_for(r"\bready\b")
        ways = {"in Rust": celerys_client(in_rust), "of Celery": our_client(of_python), "of [tasks]": our_command_line(of_program)}
        for name, answer in ways.items():
            results, took = answer()
            assert results == [2, 4, 6], (name, workers[name].text())
            # One after the other they would take 9 s; alone on the machine it is 3.1 to 3.7 s.
            assert 3 <= took < 8, (name, took)
            print(f"worker {name}: {results} after {took:.1f} s")
            # What Celery's log says, ours says too.
            for line in [r"\] received", r"\] succeeded in 3\.\d+s: "]:
                told = re.compile(r"tasks\._add\[[0-9a-f-]{36}" + line)
                # A result may be there before its line is written.
                assert eventually(lambda told=told, name=name: len(told.findall(workers[name].text())) == 3, 10), workers[name].text()
    finally:
        for worker in workers.values():
            worker.stop()
