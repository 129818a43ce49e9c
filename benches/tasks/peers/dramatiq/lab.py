"""Dramatiq for `benches/tasks/peers.sh`: `dramatiq -p 2 -t 8 lab` works, `python lab.py COUNT` publishes."""
import os
import sys

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

URL, KEEP = os.environ["BENCH_URL"], os.environ.get("BENCH_RESULTS") == "1"
broker = RedisBroker(url=URL)
if KEEP:
    broker.add_middleware(Results(backend=RedisBackend(url=URL), store_results=True))
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=os.environ["BENCH_QUEUE"])
def noop():
    pass


if __name__ == "__main__":
    for _ in range(int(sys.argv[1])):
        noop.send()
