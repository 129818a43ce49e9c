"""What the repaired programs share: their options, how a way is timed, and the random numbers.

Each program takes --workers, --items, --seed and --scale (which shrinks every duration and every amount of computing), does its scenario in
every way of the lesson, checks that the ways agree, and prints a JSON line for each: {"scenario", "way", "seconds"}. What the lesson prints on
the way goes to stderr, and only with -v: these programs are timed.
"""

import argparse
import json
import sys
import time

try:
    import loky
except ImportError:
    loky = None

_options = None


def options(scenario):
    """Reads the command line; every program does this first."""
    global _options
    parser = argparse.ArgumentParser(description=f"The lesson's scenario `{scenario}`, repaired.")
    parser.add_argument("--workers", type=int, help="workers, instead of the lesson's number")
    parser.add_argument("--items", type=int, help="items, instead of the lesson's number")
    parser.add_argument("--seed", type=int, default=1, help="of what is random (1)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every duration and amount (1)")
    parser.add_argument("-v", action="store_true", help="say on stderr what the lesson says")
    _options = parser.parse_args()
    _options.scenario = scenario
    return _options


def workers(default):
    return max(1, _options.workers or default)


def items(default):
    return max(1, _options.items or default)


def seconds(duration):
    """A duration of the lesson, scaled."""
    return duration * _options.scale


def amount(count):
    """An amount of computing of the lesson, scaled."""
    return max(1, int(count * _options.scale))


def say(*what):
    if _options is not None and _options.v:  # a process that was not forked has not read them
        print(*what, file=sys.stderr)


def way(name, work):
    """Runs and times one way; returns what it came to."""
    start = time.perf_counter()  # repair: time.time() may be set back while it runs
    result = work()
    took(name, time.perf_counter() - start)
    return result


def took(name, spent):
    print(json.dumps({"scenario": _options.scenario, "way": name, "seconds": spent}), flush=True)


def check(holds, what):
    """The ways must come to the same results, or their times say nothing."""
    if not holds:
        sys.exit(f"{_options.scenario}: {what}")


class Luck:
    """The generator of `longshore demo` (wyrand, as the crate fastrand has it), so that both sides draw the same numbers.

    repair: the lesson's random.choice and random.uniform make each run another amount of work.
    """

    MASK = (1 << 64) - 1

    def __init__(self):
        self.state = _options.seed & self.MASK

    def _u64(self):
        self.state = (self.state + 0x2D358DCCAA6C78A5) & self.MASK
        product = self.state * (self.state ^ 0x8BB84B93962EACC9)
        return (product & self.MASK) ^ (product >> 64)

    def below(self, n):
        """A whole number from 0 to n - 1."""
        while True:
            product = (self._u64() & 0xFFFFFFFF) * n
            if product & 0xFFFFFFFF >= (1 << 32) % n:
                return product >> 32

    def unit(self):
        """A number from 0 up to 1."""
        while True:
            drawn = (self._u64() >> 1) / (1 << 63)
            if drawn < 1.0:
                return drawn

    def uniform(self, low, high):
        return low + (high - low) * self.unit()
