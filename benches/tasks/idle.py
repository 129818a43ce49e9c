"""What a fleet that has nothing to do costs its Redis, and how it wakes up. `idle.sh` prepares everything.

`idle.py BENCH rest SECONDS COUNT…`: for each count of idle workers, commands a second and the server's CPU, then commands a message and round trips.
`idle.py BENCH kills ROUNDS`: fifty workers in processes of their own, five killed a round, and the last time the one that watches the others with them.
"""
import collections
import os
import random
import resource
import subprocess
import sys
import tempfile
import time

from processes import cpu_of
from resp import Server

BENCH = sys.argv[1]
EACH = 250  # workers of one process


def fleet(server, count, log=None):
    command = [BENCH, "fleet", server.url, str(count)] + ([log] if log else [])
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def end(processes):
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
        process.stdin.close()
        process.stdout.close()


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


def rest(seconds, count):
    server = Server()
    begun, spent = time.time(), cpu_of([server.pid])
    before = server.calls()
    processes = [fleet(server, min(EACH, count - at)) for at in range(0, count, EACH)]
    for process in processes:
        process.stdout.readline()
    # What greets has greeted, and what is looked for after a start has been looked for.
    settled = 0
    while settled < 3:
        spent_before = cpu_of([server.pid])
        time.sleep(2)
        settled = settled + 1 if cpu_of([server.pid]) - spent_before < 0.8 or time.time() > begun + 60 else 0
    start = (sum(server.calls().values()) - sum(before.values()), cpu_of([server.pid]) - spent, time.time() - begun)
    time.sleep(12)
    before, spent, begun = server.calls(), cpu_of([server.pid]), time.time()
    time.sleep(seconds)
    after, took = server.calls(), time.time() - begun
    busy = (cpu_of([server.pid]) - spent) / took
    difference = collections.Counter({name: after[name] - before.get(name, 0) for name in after})
    rate = sum(difference.values()) / took
    names = ", ".join(f"{name} {calls / took / count:.2f}" for name, calls in difference.most_common(8))
    print(f"{count} workers: {rate / count:.2f} commands a second and worker, the server {busy * 100:.1f} % of a core ({names}); "
          f"start: {start[0]} commands, {start[1]:.2f} s of the server's CPU in {start[2]:.0f} s", flush=True)
    messages, pause = 100, 100
    # The first ones are for the client's connections.
    trips = subprocess.Popen([BENCH, "trips", server.url, str(messages + 5), str(pause)], stdout=subprocess.PIPE, text=True)
    for _ in range(5):
        trips.stdout.readline()
    before, spent, begun = server.calls(), cpu_of([server.pid]), time.time()
    times = [float(line) for line in trips.stdout]
    after, took = server.calls(), time.time() - begun
    trips.wait()
    difference = collections.Counter({name: after[name] - before.get(name, 0) for name in after})
    names = ", ".join(f"{name} {calls / messages:.1f}" for name, calls in difference.most_common(8))
    each = (sum(difference.values()) - rate * took) / messages
    cost = (cpu_of([server.pid]) - spent - busy * took) / messages * 1e3
    print(f"    a message: {each:.0f} commands beyond those of rest, {cost:.2f} ms of the server's CPU ({names}); "
          f"round trip p50 {quantile(times, .5):.2f} ms, p99 {quantile(times, .99):.2f} ms", flush=True)
    end(processes)
    server.end()


def kills(rounds):
    """A killed worker's task has begun again when another one notes it; recovery is the time from the kill until then."""
    server = Server()
    log = os.path.join(tempfile.mkdtemp(), "log")
    open(log, "w").close()
    processes = {}

    def more():
        new = [fleet(server, 1, log) for _ in range(50 - len(processes))]
        for process in new:
            process.stdout.readline()
            processes[process.pid] = process

    def noted():
        starts = collections.defaultdict(list)
        for line in open(log):
            number, pid, at = line.split()
            starts[int(number)].append((int(pid), float(at)))
        return starts

    def wait(condition, what, seconds=60):
        begun = time.time()
        while not condition():
            assert time.time() - begun < seconds, what
            time.sleep(0.02)

    number = 0
    for watcher_too in [False, True]:
        times = []
        more()
        time.sleep(8)
        for _ in range(rounds):
            numbers = list(range(number, number + 5))
            number += 5
            for one in numbers:
                subprocess.run([BENCH, "hold", server.url, str(one)], check=True)
            wait(lambda: all(noted()[one] for one in numbers), "they start")
            starts = noted()
            victims = {starts[one][0][0] for one in numbers}
            time.sleep(random.uniform(0, 3))
            # The one that watches dies when it would have found the others: from then on nobody knows of them.
            killed = time.time()
            end([processes.pop(pid) for pid in victims])
            if watcher_too:
                time.sleep(random.uniform(4, 8))
                name = server.text("GET", "longshore:watcher").strip()
                pid = int((server.text("GET", f"longshore:owner:{name}") or "w0.0@").split("@")[0].split(".")[1])
                if pid in processes:
                    end([processes.pop(pid)])
            wait(lambda: all(len(noted()[one]) > 1 for one in numbers), "they start again", 90)
            starts = noted()
            times += [starts[one][1][1] - killed for one in numbers]
            more()
        print(f"{len(times)} tasks of killed workers among 50{', and the watcher killed 4 to 8 s later' * watcher_too}: "
              f"begun again after p50 {quantile(times, .5):.1f} s, at most {max(times):.1f} s", flush=True)
    end(processes.values())
    server.end()


limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
if sys.argv[2] == "rest":
    for count in sys.argv[4:]:
        rest(float(sys.argv[3]), int(count))
else:
    kills(int(sys.argv[3]))
