"""Task queues side by side: Celery's prefork pool and longshore on one Redis, in turn, the same tasks. Prints a table; `run.sh` prepares everything.

The clients are programs of one thread, both.
D1 drains a backlog of no-op tasks, D2 publishes, D3 asks and waits one after the other, D4 runs 2 000 sleeps of 50 ms at 100 at once,
D5 runs 8 computations of 100 ms and 50 sleeps of 20 ms a second in one queue and one worker, as plain functions.
`far` drains waits of 10 ms from a server that is far away. `memory` shows what longshore's worker has resident: idle, after no-ops, and with messages that it holds for their ETA.
"""
import json
import os
import signal
import statistics
import subprocess
import sys
import time

import redis
from celery import Celery

from processes import cpu_of, pss_of, tree
from relay import Relay

PORT, BENCH, VENV, QUICK = int(sys.argv[1]), sys.argv[2], sys.argv[3], "quick" in sys.argv[4:]
ONLY = [word for word in sys.argv[4:] if word != "quick"]
URL = f"redis://127.0.0.1:{PORT}/0"
HERE = os.path.dirname(os.path.abspath(__file__))
QUEUE = "bench"
server = redis.Redis(port=PORT)
REDIS_PID = int(server.info("server")["process_id"])


class Worker:
    def __init__(self, system, early=False, noresult=False, slots=None, url=URL):
        self.system = system
        if system == "celery":
            env = dict(os.environ, BENCH_URL=URL, BENCH_QUEUE=QUEUE, BENCH_EARLY=str(int(early)), BENCH_NORESULT=str(int(noresult)))
            command = [f"{VENV}/bin/celery", "-A", "lab", "worker", "-P", "prefork", "-c", str(slots or 2), "-Q", QUEUE, "-l", "warning",
                       "--without-gossip", "--without-mingle"]
            self.process = subprocess.Popen(command, cwd=HERE, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                            start_new_session=True)
        else:
            command = [BENCH, "worker", url, QUEUE] + ["early"] * early + ["noresult"] * noresult + ([f"slots={slots}"] if slots else [])
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def pids(self):
        return tree(self.process.pid)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def left():
    # Waiting, held, and what a worker may have between the two. Asked in one go: whoever watches takes little from those who work.
    ask = server.pipeline(transaction=False)
    for step in ("", "\x06\x163", "\x06\x166", "\x06\x169"):
        ask.llen(QUEUE + step)
    return sum(ask.hlen("unacked").execute())


def publish(task, count, mode="bulk", arg=None):
    args = [task, str(count), mode] + ([str(arg)] if arg is not None else []) + ["current"]
    out = subprocess.run([BENCH, "publish", URL, QUEUE, *args], check=True, capture_output=True, text=True)
    return float(out.stdout)


def client():
    app = Celery("client", broker=URL, backend=URL)
    app.conf.task_default_queue = QUEUE
    return app


def drain(system, count, early, noresult):
    """Seconds from the first task that is gone to the last, without the worker's start. Acknowledged early, what longshore has claimed ahead is gone
    before it has run: about a thousand tasks at most."""
    server.flushall()
    publish("bench.noop", count)
    worker = Worker(system, early=early, noresult=noresult)
    try:
        while (now := left()) >= count:
            time.sleep(0.002)
        start, begun = time.perf_counter(), now
        cpu = cpu_of(worker.pids()) + cpu_of([REDIS_PID])
        while left() > 0:
            time.sleep(0.005)
        wall = time.perf_counter() - start
        spent = cpu_of(worker.pids()) + cpu_of([REDIS_PID]) - cpu
        stored = 0 if noresult else server.dbsize()
        assert noresult or stored >= count, f"{stored} results of {count}"
        return {"rate": begun / wall, "cpu_us": spent / begun * 1e6, "pss": pss_of(worker.pids())}
    finally:
        worker.stop()


def resident(worker):
    """MB of the worker's own process."""
    for line in open(f"/proc/{worker.process.pid}/status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024


def memory(tasks, more, held):
    """Resident MB of our worker at rest: idle, after tasks, after many more, and what messages add that are held for an ETA an hour ahead."""
    server.flushall()
    worker = Worker("longshore")
    try:
        while not server.exists("longshore:owners"):
            time.sleep(0.01)
        time.sleep(1)
        rows = [("idle", 10, resident(worker))]
        for count, limit in ((tasks, 15), (more, 15)):
            for part in range(0, count, 50_000):
                publish("bench.noop", min(50_000, count - part))
                while left() > 0:
                    time.sleep(0.05)
                # Results are not what is looked at here.
                server.flushdb()
            time.sleep(1)
            rows.append((f"after {count:,} more no-ops", limit, resident(worker)))
    finally:
        worker.stop()
    server.flushall()
    worker = Worker("longshore")
    try:
        while not server.exists("longshore:owners"):
            time.sleep(0.01)
        time.sleep(1)
        before = resident(worker)
        publish("bench.noop", held, "later")
        while server.hlen("unacked") < held or server.llen(QUEUE) > 0:
            time.sleep(0.05)
        time.sleep(1)
        rows.append((f"added by {held:,} held messages", 20, resident(worker) - before))
    finally:
        worker.stop()
    for what, limit, mb in rows:
        print(f"| memory, {what} | | {mb:.1f} MB | | {limit} MB | {'yes' if mb <= limit else '**no**'} | |", flush=True)


def ask(system, count):
    server.flushall()
    worker = Worker(system)
    try:
        if system == "celery":
            app, times = client(), []
            app.send_task("bench.noop").get(timeout=30)
            for _ in range(count):
                start = time.perf_counter()
                app.send_task("bench.noop").get(timeout=30)
                times.append((time.perf_counter() - start) * 1e3)
            times.sort()
            return {"p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100]}
        out = subprocess.run([BENCH, "roundtrip", URL, QUEUE, str(count), "current"], check=True, capture_output=True, text=True).stdout.split()
        return {"p50": float(out[0]), "p99": float(out[1])}
    finally:
        worker.stop()


def send(system, count, mode):
    server.flushall()
    if system == "celery":
        app, start = client(), time.perf_counter()
        for _ in range(count):
            app.send_task("bench.noop")
        return {"rate": count / (time.perf_counter() - start)}
    return {"rate": count / publish("bench.noop", count, mode)}


def warmed(system, slots):
    """A worker that has run a task."""
    server.flushall()
    worker = Worker(system, slots=slots)
    client().send_task("bench.sleep", (1,)).get(timeout=60)
    return worker


def sleeps(system, count=2000, ms=50, slots=100):
    worker = warmed(system, slots)
    try:
        start = time.perf_counter()
        publish("bench.sleep", count, arg=ms)
        while left() > 0:
            time.sleep(0.002)
        wall = time.perf_counter() - start
        return {"wall": wall, "efficiency": count * ms / 1000 / slots / wall, "pss": pss_of(worker.pids())}
    finally:
        worker.stop()


def mixed(system, seconds, slots=20):
    """Sleeps of 20 ms beside computations that ask for 0.8 of a core, asked for by one and the same client."""
    worker = warmed(system, None if system == "longshore" else slots)
    try:
        out = subprocess.run([BENCH, "mixed", URL, QUEUE, str(seconds)], check=True, capture_output=True, text=True).stdout.split()
        return {"p50": float(out[0]), "p99": float(out[1]), "pss": pss_of(worker.pids())}
    finally:
        worker.stop()


def far(task, slots, count, trip):
    """Tasks of 10 ms a second, from the first that is gone, where a round trip to the server takes so many ms."""
    server.flushall()
    publish(task, count, arg=10)
    worker = Worker("longshore", slots=slots, url=f"redis://127.0.0.1:{Relay(PORT, trip / 2000).port}/0")
    try:
        while left() >= count:
            time.sleep(0.002)
        start = time.perf_counter()
        while left() > 0:
            time.sleep(0.005)
        rate, ideal = count / (time.perf_counter() - start), slots * 100
        print(f"| {task} of 10 ms, {slots} slots, {trip} ms to the broker and back | | {rate:,.0f} /s | {rate / ideal:.2f} of the ideal | | | |", flush=True)
    finally:
        worker.stop()


SCALE = 0.2 if QUICK else 1.0
ROUNDS = 1 if QUICK else 3


def median(rows, key):
    return statistics.median(row[key] for row in rows)


def compare(name, ours, theirs, key, limit, higher=True, unit=""):
    """Both in turn, medians of the rounds, their ratio. Returns Celery's figure."""
    if ONLY and not any(word in name for word in ONLY):
        return None
    rows = {"longshore": [], "celery": []}
    for _ in range(ROUNDS):
        rows["celery"].append(theirs())
        rows["longshore"].append(ours())
    a, b = median(rows["longshore"], key), median(rows["celery"], key)
    ratio = a / b if higher else b / a
    extra = {k: round(median(rows["longshore"], k), 3) for k in rows["longshore"][0] if k != key}
    other = {k: round(median(rows["celery"], k), 3) for k in rows["celery"][0] if k != key}
    verdict = "yes" if ratio >= limit else "**no**"
    print(f"| {name} | {b:,.4g} {unit} | {a:,.4g} {unit} | {ratio:.1f} × | {limit} × | {verdict} | {json.dumps(extra)} / {json.dumps(other)} |", flush=True)
    return b


def bare(name, celery, figure, higher=True, unit=""):
    """What the machine allows, beside Celery's figure of the row before."""
    if celery is None:
        return
    server.flushall()
    value = statistics.median(figure() for _ in range(ROUNDS))
    ratio = value / celery if higher else celery / value
    print(f"| {name} | | {value:,.4g} {unit} | {ratio:.1f} × | | | |", flush=True)


def bare_publish(count):
    return count / float(subprocess.run([BENCH, "bare-publish", str(PORT), str(count)], check=True, capture_output=True, text=True).stdout)


def bare_ask(count):
    worker = subprocess.Popen([BENCH, "bare-worker", str(PORT)])
    try:
        return float(subprocess.run([BENCH, "bare-ask", str(PORT), str(count)], check=True, capture_output=True, text=True).stdout.split()[0])
    finally:
        worker.kill()
        worker.wait()


def n(count):
    return max(200, int(count * SCALE))


print("| work | Celery | longshore | ratio | limit | holds | also (longshore / Celery) |")
print("|---|---|---|---|---|---|---|")
compare("D1 drain, results, late ack", lambda: drain("longshore", n(50000), False, False), lambda: drain("celery", n(3000), False, False), "rate", 45, unit="/s")
compare("D1 drain, no results, early ack", lambda: drain("longshore", n(100000), True, True), lambda: drain("celery", n(3000), True, True), "rate", 145, unit="/s")
celery = compare("D2 publish, one by one", lambda: send("longshore", n(20000), "await"), lambda: send("celery", n(2000), ""), "rate", 18, unit="/s")
bare("… the limit: LPUSH, bare, by a loop that never sleeps", celery, lambda: bare_publish(n(20000)), unit="/s")
compare("D2 publish, 64 at once", lambda: send("longshore", n(50000), "concurrent"), lambda: send("celery", n(2000), ""), "rate", 70, unit="/s")
compare("D2 publish, bulk", lambda: send("longshore", n(100000), "bulk"), lambda: send("celery", n(2000), ""), "rate", 145, unit="/s")
celery = compare("D3 ask and wait", lambda: ask("longshore", n(2000)), lambda: ask("celery", n(300)), "p50", 22, higher=False, unit="ms")
bare("… the limit: LPUSH, BRPOP, SET and PUBLISH, bare", celery, lambda: bare_ask(n(2000)), higher=False, unit="ms")
compare("D4 2000 sleeps of 50 ms, 100 at once", lambda: sleeps("longshore"), lambda: sleeps("celery"), "efficiency", 1)
compare("D5 sleeps beside computations", lambda: mixed("longshore", 10 * SCALE), lambda: mixed("celery", 10 * SCALE), "p99", 1, higher=False, unit="ms")
if not ONLY or "far" in ONLY:
    for trip in (0.1, 10, 30, 80):
        far("bench.sleep", 8, n(4000), trip)
        far("bench.wait", 50, n(10000), trip)
if not ONLY or any(word in "memory" for word in ONLY):
    memory(n(100000), n(1000000), 100000)
