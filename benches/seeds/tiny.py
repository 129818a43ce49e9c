"""Ten tiny tasks: one after another, in processes, and (the lesson's advice) in batches; then many of them in batches."""

import concurrent.futures

from common import amount, check, items, loky, options, way

options("tiny")
FEW = 10
many = items(amount(200_000))


# repair: this was a function inside of a function, and the batch a lambda; neither can be sent to another process
def tiny_computation(n):
    """Very small computation - overhead will dominate."""
    return sum(range(n))


def process_batch(batch):
    return [tiny_computation(n) for n in batch]


def sequential(count):
    return [tiny_computation(n) for n in [1000] * count]


def in_processes(count):
    with concurrent.futures.ProcessPoolExecutor() as executor:
        return list(executor.map(tiny_computation, [1000] * count))


def in_batches(count, pool=concurrent.futures.ProcessPoolExecutor):
    # repair: the lesson's batches are a quarter of its hundred items; so are these, whatever the number
    size = -(-count // 4)
    batches = [[1000] * len(range(start, min(start + size, count))) for start in range(0, count, size)]
    with pool() as executor:
        return [result for batch in executor.map(process_batch, batches) for result in batch]


if __name__ == "__main__":  # repair: as in heavy.py
    # repair: the lesson sums ten of them only; how the number matters is seen by looking at two
    for label, count, ways in [
        (f"{FEW}", FEW, [("one after another", sequential), ("processes (the gotcha)", in_processes)]),
        (
            "many",
            many,
            [("one after another", sequential), ("processes, in batches", in_batches)]
            # not in the lesson
            + ([("loky, in batches", lambda count: in_batches(count, loky.ProcessPoolExecutor))] if loky else []),
        ),
    ]:
        results = [way(f"{label}, {name}", lambda: work(count)) for name, work in ways]
        check(all(len(r) == count and r == results[0] for r in results), "the ways differ")
