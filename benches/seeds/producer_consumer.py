"""One producer, one consumer, eight items, a queue of five."""

import queue
import threading
import time

from common import Luck, check, items, options, say, seconds, took, way, workers

options("producer-consumer")
luck = Luck()
count = items(8)
# repair: drawn beforehand, with a seed, so that each run is the same work
making = [seconds(luck.uniform(0.1, 0.3)) for _ in range(count)]
working = [seconds(luck.uniform(0.2, 0.5)) for _ in range(count)]


def simple_producer_consumer():
    work_queue = queue.Queue(maxsize=5)
    done = []

    def producer(name, items_to_produce):
        for i in range(items_to_produce):
            work_item = (i, f"{name}-item-{i+1}")
            work_queue.put(work_item)
            say(f" Produced: {work_item}")
            time.sleep(making[i])
        say(f"Producer {name} finished")

    def consumer(name):
        # repair: this waited for two silent seconds and took them for the end, which costs two seconds and loses what comes later; now each
        # consumer is sent a None of its own when all work is done
        while True:
            work_item = work_queue.get()
            try:
                if work_item is None:
                    break
                number, text = work_item
                say(f" {name} processing: {text}")
                time.sleep(working[number])
                done.append(text)
            finally:
                # repair: a failure left task_done() out, and join() would have waited for ever
                work_queue.task_done()

    producer_thread = threading.Thread(target=producer, args=("OrderTaker", count))
    # repair: args=("Worker") is no tuple: the consumer died of six arguments, and the producer waited at a full queue for ever
    consumers = [threading.Thread(target=consumer, args=(f"Worker{n + 1}",)) for n in range(workers(1))]
    producer_thread.start()
    for consumer_thread in consumers:
        consumer_thread.start()
    producer_thread.join()
    work_queue.join()
    for _ in consumers:
        work_queue.put(None)
    for consumer_thread in consumers:
        consumer_thread.join()
    return len(done)


took("make and work, one after another", sum(making) + sum(working))
check(way("producer beside consumer", simple_producer_consumer) == count, "items are missing")
