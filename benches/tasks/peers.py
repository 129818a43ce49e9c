"""Task queues side by side: BullMQ, apalis-redis, Dramatiq and longshore drain a backlog of no-op tasks on one Redis, in turn. Prints a table; `peers.sh`
prepares everything.

All of them acknowledge a task when it is done, so that what was in the hands of a worker that dies is run by another. They come in two rows where they
can: with and without results. Whoever keeps or drops them by default is marked; what is kept is BullMQ's completed jobs, apalis' finished tasks,
Dramatiq's and longshore's results. Workers are as is customary: one process, but for Dramatiq's two of 8 threads; 50 jobs at once in BullMQ; two threads
in apalis and longshore. The time runs from the first task that is done to the last, without the worker's start.
"""
import json
import os
import signal
import statistics
import subprocess
import sys
import time

import redis

from processes import cpu_of, pss_of, tree

PORT, BENCH, VENV, TARGET, QUICK = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], "quick" in sys.argv[5:]
ONLY = [word for word in sys.argv[5:] if word != "quick"]
URL = f"redis://127.0.0.1:{PORT}/0"
HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers")
QUEUE = "bench"
SCALE = 0.2 if QUICK else 1.0
ROUNDS = 1 if QUICK else 3
server = redis.Redis(port=PORT)
REDIS_PID = int(server.info("server")["process_id"])


def ask(*commands):
    """The sum of some counts, asked in one go: whoever watches takes little from those who work. Sources come before what tasks move to."""
    pipe = server.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*command)
    return sum(pipe.execute())


class Longshore:
    name, limit, count, default = "longshore", None, 50_000, True

    def __init__(self, results):
        self.results = results
        self.publish = lambda count: [BENCH, "publish", URL, QUEUE, "bench.noop", str(count), "bulk", "current"]
        self.worker = [BENCH, "worker", URL, QUEUE] + ["noresult"] * (not results)
        self.env = {}

    def left(self, _count):
        return ask(*[("LLEN", QUEUE + step) for step in ("", "\x06\x163", "\x06\x166", "\x06\x169")], ("HLEN", "unacked"))

    def kept(self):
        return server.dbsize()

    def failed(self):
        return 0


class Bullmq:
    name, limit, count = "BullMQ", 3, 20_000

    def __init__(self, results):
        self.default = self.results = results
        lab, remove = os.path.join(HERE, "bullmq", "lab.cjs"), [] if results else ["remove"]
        self.publish = lambda count: ["node", lab, "publish", str(PORT), QUEUE, str(count), *remove]
        self.worker = ["node", lab, "worker", str(PORT), QUEUE, "50"]
        self.env = {"NODE_PATH": f"{TARGET}/bullmq/node_modules"}

    def left(self, _count):
        return ask(("LLEN", f"bull:{QUEUE}:wait"), ("LLEN", f"bull:{QUEUE}:active"))

    def kept(self):
        return ask(("ZCARD", f"bull:{QUEUE}:completed"))

    def failed(self):
        return ask(("ZCARD", f"bull:{QUEUE}:failed"), ("ZCARD", f"bull:{QUEUE}:delayed"))


class Apalis:
    """It acknowledges by storing the result, so there is nothing without. Its lock of a task looks through all that waits: the backlog is the longest that
    it takes by itself, a longer one would slow it."""

    name, limit, count, default = "apalis-redis", 2.8, 7_000, True

    def __init__(self, results, how="default"):
        self.results = results
        program = f"{TARGET}/apalis/release/peer-apalis"
        self.publish = lambda count: [program, "publish", URL, QUEUE, str(count)]
        self.worker = [program, "worker", URL, QUEUE, how]
        self.env = {}

    def ready(self):
        # Version 1.0.0 pushes what is due at once as scheduled for now, and its worker dies of more than 8 000 of those: its first fetch moves all of
        # them with one `unpack`. So this is done here for it, before the time is taken.
        while due := server.zrange(f"{QUEUE}:scheduled", 0, 4_999):
            server.rpush(f"{QUEUE}:active", *due)
            server.zrem(f"{QUEUE}:scheduled", *due)

    def left(self, count):
        return count - self.kept()

    def kept(self):
        return ask(("SCARD", f"{QUEUE}:done"))

    def failed(self):
        return ask(("SCARD", f"{QUEUE}:dead"), ("ZCARD", f"{QUEUE}:scheduled"))


class ApalisTuned(Apalis):
    """Batches of 100 and no locks: what makes it fastest. It loses nothing so, but of 2 000 tasks 478 ran twice when their worker was killed in the middle:
    not the same safety, so nothing is promised."""

    name, limit, count, default = "apalis-redis without locks, batches of 100", None, 50_000, False

    def __init__(self, results):
        super().__init__(results, "tuned")


class Dramatiq:
    name, limit, count = "Dramatiq", 9, 8_000

    def __init__(self, results):
        self.default, self.results = not results, results
        self.publish = lambda count: [f"{VENV}/bin/python", os.path.join(HERE, "dramatiq", "lab.py"), str(count)]
        self.worker = [f"{VENV}/bin/dramatiq", "lab", "-p", "2", "-t", "8", "--path", os.path.join(HERE, "dramatiq")]
        self.env = {"BENCH_URL": URL, "BENCH_QUEUE": QUEUE, "BENCH_RESULTS": str(int(results))}

    def left(self, _count):
        return ask(("HLEN", f"dramatiq:{QUEUE}.msgs"))

    def kept(self):
        return server.dbsize()

    def failed(self):
        return ask(("ZCARD", f"dramatiq:{QUEUE}.XQ"), ("LLEN", f"dramatiq:{QUEUE}.DQ"))


PEERS = {"with results": [Bullmq, Apalis, ApalisTuned, Dramatiq], "without results": [Bullmq, Dramatiq]}
# What each needs; `peers.sh` has said already what it could not install.
NEEDS = {Bullmq: f"{TARGET}/bullmq/node_modules/bullmq", Apalis: f"{TARGET}/apalis/release/peer-apalis", Dramatiq: f"{VENV}/bin/dramatiq"}


def installed(peer):
    return all(os.path.exists(path) for what, path in NEEDS.items() if issubclass(peer, what))


def drain(system):
    """A backlog of tasks from the first that is done to the last."""
    count = max(200, int(system.count * SCALE))
    env = dict(os.environ, **system.env)
    server.flushall()
    subprocess.run(system.publish(count), check=True, env=env, stdout=subprocess.DEVNULL)
    getattr(system, "ready", lambda: None)()
    assert (waiting := system.left(count)) == count, f"{system.name}: {waiting} of {count} wait"
    worker = subprocess.Popen(system.worker, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        while (begun := system.left(count)) >= count:
            assert worker.poll() is None, f"{system.name}: the worker is gone"
            time.sleep(0.002)
        start = time.perf_counter()
        cpu = cpu_of(tree(worker.pid)) + cpu_of([REDIS_PID])
        while system.left(count) > 0:
            assert worker.poll() is None, f"{system.name}: the worker is gone"
            time.sleep(0.005)
        wall = time.perf_counter() - start
        pids = tree(worker.pid)
        spent = cpu_of(pids) + cpu_of([REDIS_PID]) - cpu
        assert (failed := system.failed()) == 0, f"{system.name}: {failed} failed"
        assert not system.results or (kept := system.kept()) >= count, f"{system.name}: {kept} results of {count}"
        return {"rate": begun / wall, "cpu_us": spent / begun * 1e6, "pss": pss_of(pids)}
    finally:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(10)
        except subprocess.TimeoutExpired:
            pass
        # Children that have not gone with it.
        try:
            os.killpg(worker.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        worker.wait()


def median(rows, key):
    return statistics.median(row[key] for row in rows)


def shown(rows):
    return {key: round(median(rows, key), 1) for key in rows[0] if key != "rate"}


def compare(mode):
    """Every peer and longshore in turn, medians of the rounds, their ratio."""
    results = mode == "with results"
    systems = [peer(results) for peer in PEERS[mode] if installed(peer)]
    systems = [system for system in systems if not ONLY or any(word.lower() in f"{system.name} {mode}".lower() for word in ONLY)]
    if not systems:
        return
    systems.append(Longshore(results))
    rows = {system.name: [] for system in systems}
    for _ in range(ROUNDS):
        for system in systems:
            rows[system.name].append(drain(system))
    ours = rows["longshore"]
    a = median(ours, "rate")
    for system in systems[:-1]:
        theirs = rows[system.name]
        b = median(theirs, "rate")
        name = f"{system.name}, {mode}" + " (its default)" * system.default
        limit, verdict = ("", "") if system.limit is None else (f"{system.limit} ×", "yes" if a / b >= system.limit else "**no**")
        print(f"| D1 drain, {name} | {b:,.0f} /s | {a:,.0f} /s | {a / b:.1f} × | {limit} | {verdict} | {json.dumps(shown(ours))} / {json.dumps(shown(theirs))} |", flush=True)


print("| work, peer | peer | longshore, late ack | ratio | limit | holds | also (longshore / peer) |")
print("|---|---|---|---|---|---|---|")
for mode in PEERS:
    compare(mode)
