"""Seed 004's script: three slow additions at once. Whether a worker in Python or one in Rust serves them, it cannot tell."""

import time

from tasks import _add

begun = time.monotonic()
# Tasks kicked off. Non-blocking.
result_01 = _add.delay(1, 1)
result_02 = _add.delay(2, 2)
result_03 = _add.delay(3, 3)

# Wait for tasks to finish and get result. result.get() is blocking.
results = [
    result_01.get(),
    result_02.get(),
    result_03.get(),
]

print(results)
print(f"after {time.monotonic() - begun:.1f} s")
