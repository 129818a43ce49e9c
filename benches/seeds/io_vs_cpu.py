"""Two waits and two sums of squares: one after another, and on two threads."""

import threading
import time

from common import amount, check, options, say, seconds, way

options("io-vs-cpu")


def io_task(task_id, duration):
    """Simulate I/O work: waiting for something."""
    say(f"I/O Task {task_id} starting (will wait {duration}s)")
    time.sleep(duration)
    say(f"I/O Task {task_id} completed")
    return f"IO-{task_id}"


def cpu_task(task_id, work_amount):
    """Simulate CPU work: actual computation."""
    say(f"CPU Task {task_id} starting (will compute {work_amount} items)")
    result = sum(i ** 2 for i in range(work_amount))
    say(f"CPU Task {task_id} completed")
    return result


# repair: from here on the document has lost the indentation of the function's body, so that none of this is inside of it
def one_after_another(task, size):
    return [task(1, size), task(2, size)]


def threaded(task, size):
    # repair: a thread's result is lost, so each puts it into its place; without it nobody could tell whether the work was done
    results = [None, None]

    def run(place):
        results[place] = task(place + 1, size)

    threads = [threading.Thread(target=run, args=(place,)) for place in (0, 1)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return results


for kind, task, size in [("waits", io_task, seconds(1)), ("sums", cpu_task, amount(1_000_000))]:
    alone = way(f"{kind}, one after another", lambda: one_after_another(task, size))
    together = way(f"{kind}, threads", lambda: threaded(task, size))
    check(alone == together, f"{kind}: the ways differ")
