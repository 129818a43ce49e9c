"""A chain of groups, each as wide as the next: what it costs a worker, in memory and in time, and what it puts on the wire.

    python benches/tasks/canvas.py PORT VENV NAME=BENCH... [WIDTHxGROUPS...]      (`run.sh canvas` does all of it)

Celery's client sends the chain to an empty queue, Celery's prefork worker and each of the given builds of longshore's (`crates/worker/examples/bench.rs`)
run it. `time` is from the sending to the end of the last task; `peak` is the highest that the worker had resident (of Celery's, its largest process);
`sent` is what came to Redis in that time, results included. A worker that needs more than 6 GiB or two minutes is ended, and the row says so.
"""
import contextlib
import os
import resource
import signal
import subprocess
import sys
import time

import redis
from celery import Celery, chain, group
from celery.result import AsyncResult

from processes import tree

HERE = os.path.dirname(os.path.abspath(__file__))
PORT, VENV = int(sys.argv[1]), sys.argv[2]
BUILDS = [word.split("=", 1) for word in sys.argv[3:] if "=" in word]
SHAPES = [tuple(map(int, word.split("x"))) for word in sys.argv[3:] if "=" not in word] or [(3, 8), (3, 10), (5, 8), (25, 10)]
URL, QUEUE, SECONDS, MOST = f"redis://127.0.0.1:{PORT}/0", "bench", 120, 6 << 30
server = redis.Redis(port=PORT)
app = Celery("client", broker=URL, backend=URL)
app.conf.task_default_queue = QUEUE
# Results that outlive their server have nobody to unsubscribe from, and would say so at exit.
AsyncResult.__del__ = lambda self: None


def limited():
    resource.setrlimit(resource.RLIMIT_AS, (MOST, MOST))


def start(command):
    env = dict(os.environ, BENCH_URL=URL, BENCH_QUEUE=QUEUE)
    null = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=HERE, env=env, stdout=null, stderr=null, start_new_session=True, preexec_fn=limited)


def worker_of(build):
    if build is not None:
        return start([build, "worker", URL, QUEUE])
    return start([f"{VENV}/bin/celery", "-A", "lab", "worker", "-P", "prefork", "-c", "2", "-Q", QUEUE, "-l", "warning", "--without-mingle"])


def peak(pids):
    """MiB of the largest, at its highest."""
    most = 0
    for pid in pids:
        try:
            lines = open(f"/proc/{pid}/status").read().splitlines()
            most = max(most, *(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")))
        except (OSError, TypeError):
            pass
    return most / 1024


def bytes_in():
    return server.info("stats")["total_net_input_bytes"]


def left():
    ask = server.pipeline(transaction=False)
    ask.llen(QUEUE), ask.hlen("unacked")
    return sum(ask.execute())


def measure(build, width, groups):
    server.flushall()
    worker = worker_of(build)
    try:
        noop = app.signature("bench.noop", immutable=True)
        # It serves, and has started what it starts at first.
        noop.apply_async().get(timeout=60)
        sent, begun = bytes_in(), time.perf_counter()
        chain(noop, *[group(noop.clone() for _ in range(width)) for _ in range(groups)]).apply_async()
        # The first task here, the chain's first, and all in groups.
        most, ended, tasks = 0, 0, width * groups + 2
        while ended < tasks:
            time.sleep(0.005)
            most = max(most, peak(tree(worker.pid)))
            took = time.perf_counter() - begun
            if worker.poll() is not None:
                return f"died above {most:,.0f} MiB", "–", "–"
            if took > SECONDS:
                return f"{most:,.0f} MiB, and going on", f"{ended} of {tasks} tasks after {SECONDS} s", "–"
            # Counting takes time from the worker, so not before its queue is empty.
            ended = 0 if left() else sum(1 for _ in server.scan_iter("celery-task-meta-*", 1000))
        return f"{most:,.0f} MiB", f"{took:.2f} s", f"{(bytes_in() - sent) / 1e6:,.1f} MB"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


print("| groups | worker | peak | time | sent |\n|---|---|---|---|---|", flush=True)
for width, groups in SHAPES:
    for name, build in [("Celery 5.7", None), *BUILDS]:
        row = measure(build, width, groups)
        print(f"| {groups} of {width} | {name} | {' | '.join(row)} |", flush=True)
