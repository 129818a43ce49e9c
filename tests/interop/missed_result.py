"""Shows that Celery's client misses a result now and then, with nothing of longshore's in it: a bare process stores and publishes results as Celery's workers do.

The client subscribes on one connection and then looks into the store on another. A server that finds both requests at once, with the result between them, may take
them the other way round: it looks, the result is stored and told to nobody, it subscribes. The quicker the worker and the busier the machine, the likelier: four of
these at once on two busy cores, 24 of 34 480 results.

    python missed_result.py redis://127.0.0.1:6379/0 [SECONDS]
"""

import json
import multiprocessing
import random
import sys
import time
import uuid

import redis
from celery import Celery
from celery.exceptions import TimeoutError


def store(url, asked):
    server = redis.Redis.from_url(url)
    for id in iter(asked.recv, None):
        key, doc = f"celery-task-meta-{id}", {"status": "SUCCESS", "result": 10, "traceback": None, "children": [], "task_id": id}
        until = time.perf_counter() + random.random() * 0.0007
        while time.perf_counter() < until:
            pass
        with server.pipeline() as pipeline:
            pipeline.set(key, json.dumps(doc), ex=3600)
            pipeline.publish(key, json.dumps(doc))
            pipeline.execute()


def main(url, seconds=30.0):
    ask, asked = multiprocessing.Pipe()
    multiprocessing.Process(target=store, args=(url, asked), daemon=True).start()
    app, count, missed, until = Celery("missed", broker=url, backend=url), 0, 0, time.time() + float(seconds)
    while time.time() < until:
        count += 1
        result = app.AsyncResult(str(uuid.uuid4()))
        ask.send(result.id)
        try:
            assert result.get(timeout=1) == 10
        except TimeoutError:
            missed += 1
            assert app.AsyncResult(result.id).state == "SUCCESS"
        result.forget()
    ask.send(None)
    print(f"{count} results, {missed} of them missed by the client and stored all the same")


if __name__ == "__main__":
    main(*sys.argv[1:])
