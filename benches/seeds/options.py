"""add(a, b), which waits 3 s, for three pairs: one after another, on threads, with asyncio.

Left out: Celery, which needs a broker and is not in the standard library.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from common import check, options, seconds, way, workers

options("options")


def add(a, b):
    time.sleep(seconds(3))
    result = a + b
    return result


# repair: in the document this second list stands apart from the call that it is for
a_b_pairs = [(1, 1), (2, 2), (3, 3)]


def one_after_another():
    results = []
    for a, b in a_b_pairs:
        result = add(a, b)
        results.append(result)
    return results


def threads_two_inputs():
    with ThreadPoolExecutor(max_workers=workers(5)) as executor:
        result = executor.map(
            add,
            [pair[0] for pair in a_b_pairs],
            [pair[1] for pair in a_b_pairs],
        )
    return list(result)


def threads_pairs():
    with ThreadPoolExecutor(max_workers=workers(5)) as executor:
        result = executor.map(lambda pair: add(*pair), a_b_pairs)
    return list(result)


async def async_add(a, b):
    await asyncio.sleep(seconds(3))
    return a + b


async def main():
    # repair: gather returns the results, where the document only prints them
    return await asyncio.gather(*[async_add(a, b) for a, b in a_b_pairs])


for name, work in [
    ("one after another", one_after_another),
    ("threads, map over two inputs", threads_two_inputs),
    ("threads, map over pairs", threads_pairs),
    ("asyncio, gather", lambda: asyncio.run(main())),
]:
    check(way(name, work) == [2, 4, 6], f"{name}: not [2, 4, 6]")
