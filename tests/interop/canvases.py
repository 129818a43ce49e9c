"""Canvases of every shape, made at random from a seed, with the result that each must have.

A canvas is a pair: how to make its signature, and a function from the value that reaches it to the value that it gives. Where no value reaches it (at the
start), its first tasks have all their arguments.
"""

import random

from celery import chain, chord, group

from lab import pick

# Seconds until the next attempt. Not sooner: Celery stores RETRY after it has sent the next attempt, over the SUCCESS of whoever was quicker, and then its
# caller waits for ever. With hundreds of canvases at once its worker was seen to take a tenth of a second for that.
RETRY = pick(0.2, 1.0)


def total(value):
    return sum(total(each) for each in value) if isinstance(value, list) else value


class Maker:
    """Makes canvases. All randomness is the seed's."""

    def __init__(self, lab, seed):
        self.lab, self.random, self.used = lab, random.Random(seed), set()

    def number(self):
        return self.random.randrange(1, 50)

    def leaf(self, starts):
        """One task: a signature, and what it makes of the value that reaches it."""
        lab, n = self.lab, self.number()
        kind = self.random.choice(["add", "add", "mul", "immutable", "retried", "replaced", "replaced by a chain"])
        if kind == "mul":
            m = self.number()
            return (lab.mul.s(m, n), lambda _: m * n) if starts else (lab.mul.s(n), lambda x: x * n)
        if kind == "immutable":
            self.used.add("immutable")
            m = self.number()
            return lab.add.si(m, n), lambda _: m + n
        if kind == "retried":
            self.used.add("retried")
            return lab.flaky_value.si(1, RETRY, n), lambda _: n
        if kind == "replaced":
            self.used.add("replaced")
            m = self.number()
            return (lab.replaced.s(m, n), lambda _: m + n) if starts else (lab.replaced.s(n), lambda x: x + n)
        if kind == "replaced by a chain":
            self.used.add("replaced by a chain")
            return (lab.replaced_by_chain.s(n), lambda _: n + 3) if starts else (lab.replaced_by_chain.s(), lambda x: x + 3)
        self.used.add("task")
        m = self.number()
        return (lab.add.s(m, n), lambda _: m + n) if starts else (lab.add.s(n), lambda x: x + n)

    def members(self, starts, depth):
        return [self.scalar(starts, depth - 1) for _ in range(self.random.randrange(1, 5))]

    def scalar(self, starts, depth):
        """A canvas that gives a number."""
        lab = self.lab
        if depth <= 0:
            return self.leaf(starts)
        kind = self.random.choice(["leaf", "chain", "chain", "reduced", "reduced", "chord", "replaced by a group", "starmap", "grown"])
        if kind == "leaf":
            return self.leaf(starts)
        if kind == "chain":
            self.used.add("chain")
            parts = [self.scalar(starts, depth - 1)] + [self.scalar(False, depth - 1) for _ in range(self.random.randrange(1, 4))]

            def through(x, parts=parts):
                for _, value in parts:
                    x = value(x)
                return x

            return chain(*[signature for signature, _ in parts]), through
        if kind == "reduced":
            self.used.add("group in a chain")
            parts = self.members(starts, depth)
            if len(parts) == 1:
                # A group of one is that one, in a chain: its result is no list.
                signature, value = parts[0]
                return chain(group(signature), lab.tsum.s()), lambda x: total(value(x))
            return chain(group(*[s for s, _ in parts]), lab.tsum.s()), lambda x: sum(value(x) for _, value in parts)
        if kind == "chord":
            self.used.add("chord")
            parts = self.members(starts, depth)
            return chord([s for s, _ in parts], lab.tsum.s()), lambda x: sum(value(x) for _, value in parts)
        if kind == "starmap":
            self.used.add("starmap")
            pairs = [(self.number(), self.number()) for _ in range(3)]
            return chain(lab.add.starmap(pairs).set(immutable=True), lab.tsum.s()), lambda _: sum(a + b for a, b in pairs)
        if kind == "grown":
            self.used.add("grown chord")
            n = self.number()
            return chord([lab.grows.si(n), lab.add.si(1, 1)], lab.tsum.s()), lambda _: n + n + 1000 + 2
        self.used.add("replaced by a group")
        n = self.number()
        if starts:
            return chain(lab.replaced_by_group.s(n), lab.tsum.s()), lambda _: 3 * n + 3
        return chain(lab.replaced_by_group.s(), lab.tsum.s()), lambda x: 3 * x + 3
