"""Eight items through three stages of 0.3, 0.4 and 0.2 s, queues of three, an item every 0.1 s."""

import queue
import threading
import time

from common import check, items, options, seconds, took, way, workers

options("pipeline")
count = items(8)


def processing_pipeline():
    raw_queue = queue.Queue(maxsize=3)
    processed_queue = queue.Queue(maxsize=3)
    # repair: this one had no bound
    finished_queue = queue.Queue(maxsize=3)
    final_products = []

    # repair: all stages are this one function; each of the three had the same mistakes. They ended after a silent second, whoever was slow before them;
    # they passed one None on, so that with several workers in a stage its first one ended the next stage while the others were still at work; and they
    # left task_done() out for it, so that join() would wait for ever
    def stage(source, target, work):
        while (item := source.get()) is not None:
            target(work(item))

    def stage1_prepare(raw_item):
        time.sleep(seconds(0.3))
        return {"original": raw_item, "stage1_done": True}

    def stage2_assemble(prepared_item):
        time.sleep(seconds(0.4))
        return {**prepared_item, "stage2_done": True}

    def quality_control(finished_item):
        time.sleep(seconds(0.2))
        # repair: the products were returned to a thread, which drops them
        return {**finished_item, "quality_approved": True, "completed_at": time.time()}

    stages = [
        (raw_queue, processed_queue.put, stage1_prepare, 1),
        (processed_queue, finished_queue.put, stage2_assemble, workers(1)),
        (finished_queue, final_products.append, quality_control, 1),
    ]
    started = [
        (source, [threading.Thread(target=stage, args=(source, target, work)) for _ in range(number)])
        for source, target, work, number in stages
    ]
    for _, threads in started:
        for thread in threads:
            thread.start()
    for i in range(1, count + 1):
        # repair: the pause comes between two items, not after the last as well
        if i > 1:
            time.sleep(seconds(0.1))
        raw_queue.put(f"Item-{i:02d}")
    # repair: a None for each worker of a stage, when all workers of the stage before have ended
    for source, threads in started:
        for _ in threads:
            source.put(None)
        for thread in threads:
            thread.join()
    return len(final_products)


took("one after another", count * seconds(0.3 + 0.4 + 0.2))
check(way("a thread for each stage", processing_pipeline) == count, "products are missing")
