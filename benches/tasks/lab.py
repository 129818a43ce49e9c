"""The tasks of the benchmark for Celery's own workers: the same as in crates/worker/examples/bench.rs."""
import os
import time

from celery import Celery

app = Celery("lab", broker=os.environ["BENCH_URL"], backend=os.environ["BENCH_URL"])
app.conf.task_default_queue = os.environ["BENCH_QUEUE"]
app.conf.task_acks_late = os.environ.get("BENCH_EARLY") != "1"
app.conf.task_ignore_result = os.environ.get("BENCH_NORESULT") == "1"
app.conf.worker_prefetch_multiplier = 4


@app.task(name="bench.noop")
def noop():
    pass


@app.task(name="bench.sleep")
def sleep(ms):
    time.sleep(ms / 1000)


@app.task(name="bench.cpu")
def cpu(ms):
    start, x = time.thread_time(), 1
    while (time.thread_time() - start) * 1000 < ms:
        for _ in range(1000):
            x = (x * 6364136223846793005 + 1) & 0xFFFFFFFFFFFFFFFF
    return x
