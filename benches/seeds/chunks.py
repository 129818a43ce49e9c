"""Chunks of one data set, with sum, average, smallest and largest, in four processes; one chunk fails."""

import concurrent.futures
import math  # repair: imported by another pattern of the lesson, not by this one

from common import amount, check, items, options, say, way, workers

options("chunks")
count, size = items(5), amount(100_000)
BAD = count // 2


def process_data_chunk(data_info):
    """Process a chunk of data (like analyzing a CSV section)."""
    chunk_id, start_value, size = data_info
    processed_items = []
    total_sum = 0
    for i in range(size):
        value = start_value + i
        processed_value = value ** 2 + math.sin(value) * 100
        processed_items.append(processed_value)
        total_sum += processed_value
    # repair: the lesson catches failures and has none; one chunk fails here, after its work, as in `longshore demo chunks`
    if chunk_id == BAD + 1:
        raise ValueError("its third line has no value")
    return {
        "chunk_id": chunk_id,
        "items_processed": len(processed_items),
        "sum": total_sum,
        "average": total_sum / len(processed_items),
        "min_value": min(processed_items),
        "max_value": max(processed_items),
    }


data_chunks = [(nth + 1, nth * size, size) for nth in range(count)]


def combined(all_results):
    # repair: the lesson computes smallest and largest of each chunk and never combines them
    return (
        sum(r["items_processed"] for r in all_results),
        min((r["min_value"] for r in all_results), default=math.inf),
        max((r["max_value"] for r in all_results), default=-math.inf),
        math.fsum(r["sum"] for r in all_results),
    )


def sequential():
    # repair: the lesson has nothing to compare its time with
    all_results = []
    for chunk_info in data_chunks:
        try:
            all_results.append(process_data_chunk(chunk_info))
        except Exception as e:
            say(f"Chunk {chunk_info[0]} failed: {e}")
    return combined(all_results)


def parallel_data_processing():
    with concurrent.futures.ProcessPoolExecutor(max_workers=workers(4)) as executor:
        future_to_chunk = {executor.submit(process_data_chunk, chunk_info): chunk_info[0] for chunk_info in data_chunks}
        all_results = []
        for future in concurrent.futures.as_completed(future_to_chunk):
            chunk_id = future_to_chunk[future]
            try:
                all_results.append(future.result())
            except Exception as e:
                say(f"Chunk {chunk_id} failed: {e}")
    return combined(all_results)


if __name__ == "__main__":  # repair: as in heavy.py
    alone = way("one after another", sequential)
    together = way("processes, combined as completed", parallel_data_processing)
    check(alone == together, f"the ways differ: {alone} and {together}")
