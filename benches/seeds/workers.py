"""Twelve tasks of different weight, three workers, a results collector."""

import queue
import threading
import time

from common import Luck, check, items, options, say, seconds, took, way, workers

options("workers")
luck = Luck()
num_tasks, num_workers = items(12), workers(3)
# repair: drawn beforehand, with a seed
complexities = [luck.below(5) + 1 for _ in range(num_tasks)]


def multiple_workers_example():
    # repair: both queues had no bound; as many places as the rules of thumb say, 1 to 3 for each worker
    task_queue = queue.Queue(maxsize=2 * num_workers)
    results_queue = queue.Queue(maxsize=2 * num_workers)

    def work_generator():
        for i in range(num_tasks):
            task_queue.put({"id": i + 1, "data": f"task_data_{i+1}", "complexity": complexities[i]})

    def worker(worker_id):
        tasks_completed = 0
        # repair: ended after a silent second, so that workers who start before the work comes are gone when it does
        while (task := task_queue.get()) is not None:
            processing_time = seconds(task["complexity"] * 0.2)
            time.sleep(processing_time)
            results_queue.put(
                {
                    "task_id": task["id"],
                    "worker_id": worker_id,
                    "result": f"processed_{task['data']}",
                    "processing_time": processing_time,
                }
            )
            task_queue.task_done()
            tasks_completed += 1
        task_queue.task_done()
        say(f"Worker {worker_id} finished ({tasks_completed} tasks)")

    all_results = []

    def results_collector():
        # repair: gave up after two silent seconds, and returned its results to a thread, which drops them
        while (result := results_queue.get()) is not None:
            all_results.append(result)

    collector_thread = threading.Thread(target=results_collector)
    collector_thread.start()
    # repair: the document also calls the workers one after another, so that the first takes everything; here each has its thread, and only that
    worker_threads = [threading.Thread(target=worker, args=(f"W{i+1}",)) for i in range(num_workers)]
    for worker_thread in worker_threads:
        worker_thread.start()
    generator_thread = threading.Thread(target=work_generator)
    generator_thread.start()
    generator_thread.join()
    # repair: one None for each worker, and when they are gone one for the collector
    for _ in worker_threads:
        task_queue.put(None)
    for worker_thread in worker_threads:
        worker_thread.join()
    results_queue.put(None)
    collector_thread.join()

    by_worker = {}
    for result in all_results:
        by_worker[result["worker_id"]] = by_worker.get(result["worker_id"], 0) + 1
    say(by_worker)
    return len(all_results)


took("the tasks' own times, added", sum(seconds(c * 0.2) for c in complexities))
check(way("threads, with a collector", multiple_workers_example) == num_tasks, "results are missing")
