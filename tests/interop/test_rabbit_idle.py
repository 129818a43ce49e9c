"""What costs RabbitMQ something while nothing is to be done: frames of AMQP, both ways."""

import contextlib
import json
import os
import subprocess
import time

import pytest

from frames import FrameCounter
from lab import HERE, LABAPP, RabbitLab, pick
from procs import Process, eventually

pytestmark = [pytest.mark.amqp, pytest.mark.ours]

# Looks come every 5 s, each of two frames.
SECONDS = pick(19, 60)


@pytest.mark.limit(SECONDS + 60)
def test_who_has_nothing_to_do_sends_no_more_than_a_frame_a_second(rabbit, server, tmp_path):
    counters, labs, others = {}, [], []

    def lab(name):
        counters[name] = counter = FrameCounter(rabbit.port)
        lab = RabbitLab(rabbit, server, 240 + len(labs), tmp_path / name.replace(" ", "-"), "longshore")
        lab.broker_url = lab.broker_url.replace(f":{rabbit.port}/", f":{counter.address}/")
        labs.append(lab)
        return lab

    def program(name, *words, env=None):
        lab_ = lab(name)
        argv = [LABAPP, *words, "--broker", lab_.broker_url, *([] if words[0] == "call" else ["--results", lab_.results_url])]
        others.append(Process(argv, lab_.folder / "log", env=env, cwd=HERE, name=name))

    try:
        for queues in (1, 8):
            named = ["celery", *(f"q{n}" for n in range(queues - 1))]
            lab(f"worker, {queues} queue{'s' * (queues > 1)}").worker(queues=",".join(named), wait=False)
        eight = lab("worker, 4 classic and 4 quorum queues")
        names = [f"{kind}{n}" for kind in ("classic", "quorum") for n in range(4)]
        for name in names:
            arguments = "[]" if name.startswith("classic") else '[{<<"x-queue-type">>, longstr, <<"quorum">>}]'
            rabbit.eval(f'Q = rabbit_misc:r(<<"{eight.vhost}">>, queue, <<"{name}">>), {{new, _}} = rabbit_amqqueue:declare(Q, true, false, {arguments}, none, <<"test">>), ok.')
        eight.worker(queues=",".join(names), wait=False)
        program("client that waits, rpc://", "call", "lab.add", "-a", "[1, 1]", "--wait")
        config = tmp_path / "beat.toml"
        config.write_text('[schedules.seldom]\ntask = "lab.add"\nevery = "1h"\n')
        program("scheduler", "beat", env={"LONGSHORE_CONFIG": str(config)})
        for each in labs:
            for worker in each.workers:
                worker.wait_ready()
        time.sleep(8)  # Until the last of them has begun.
        for counter in counters.values():
            counter.reset()
        time.sleep(SECONDS)
        rows = {name: (counter.heartbeats, counter.events, dict(counter.others)) for name, counter in counters.items()}
        for name, (heartbeats, events, methods) in rows.items():
            print(f"| {name} | {sum(methods.values()) / SECONDS:.2f} | {heartbeats / SECONDS:.2f} | {events / SECONDS:.2f} | {methods}")
        assert all(each.alive() for each in others) and all(worker.alive() for each in labs for worker in each.workers)
        assert {name: methods for name, (_, _, methods) in rows.items() if sum(methods.values()) > SECONDS} == {}
    finally:
        for each in others:
            each.kill()
        for each in labs:
            each.close()
