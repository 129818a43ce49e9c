"""Four chunks of heavy computation: one after another, in processes, and (the lesson's first gotcha) on threads."""

import concurrent.futures
import math

from common import amount, check, items, loky, options, say, way

options("heavy")


def heavy_computation(workload_size):
    """Simulate CPU-intensive work like data analysis or image processing."""
    say(f"Starting computation with {workload_size:,} items...")
    total = 0
    for i in range(workload_size):
        value = math.sin(i) * math.cos(i) + math.sqrt(i + 1)
        total += value * math.log(i + 1)
    return {"workload_size": workload_size, "result": total, "computed_by": "CPU worker"}


work_chunks = [amount(500_000)] * items(4)


def sequential():
    return [heavy_computation(chunk_size) for chunk_size in work_chunks]


def pooled(pool):
    def work():
        # as in the lesson: as many workers as the executor thinks right
        with pool() as executor:
            # repair: "Chunk {i} completed" numbered what had ended, in whichever order; here each future knows its chunk
            chunk_of = {executor.submit(heavy_computation, size): nth for nth, size in enumerate(work_chunks)}
            results = [None] * len(work_chunks)
            for future in concurrent.futures.as_completed(chunk_of):
                results[chunk_of[future]] = future.result()
                say(f"  Chunk {chunk_of[future] + 1} completed")
        return results

    return work


# repair: without this guard processes that are spawned (on macOS and Windows, and everywhere from Python 3.14 on) would run the whole program again
if __name__ == "__main__":
    alone = way("one after another", sequential)
    for name, pool in [
        ("processes", concurrent.futures.ProcessPoolExecutor),
        # not in the lesson: what people take who know these pools well, where it is installed
        *([("loky", loky.ProcessPoolExecutor)] if loky else []),
        ("threads (the gotcha)", concurrent.futures.ThreadPoolExecutor),
    ]:
        check(way(name, pooled(pool)) == alone, f"{name}: other totals")
