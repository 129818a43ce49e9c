"""Lays what the repaired programs and `longshore demo --json` printed side by side, as one Markdown table.

python3 table.py --scale X [--items N] PYTHON.jsonl OURS.jsonl      (run.sh calls it)

Each file has one JSON line per way, or per scenario, and round; of several rounds the table shows medians. A way that is not found on either side is
an error, so that a renamed one does not drop out of the table unseen; a whole scenario that `longshore demo` does not have is named below it.
"""

import argparse
import json
import re
import statistics
import sys

# Where our demos compute more than the lesson, so that compiled code can be timed, their title says how much; the second number is the lesson's.
SQUARES = (r"sums of (\d+) squares", 1_000_000)
STEPS = (r"chunks of (\d+) steps", 500_000)
VALUES = (r"chunks of (\d+) values", 100_000)
SUMS = (r"then (\d+) of them", 200_000)

# scenario, way in Python, our way (the beginning of its name), and what its time is divided by
# Ways of which a Python without the module that they need has none.
OPTIONAL = {"loky", "many, loky, in batches"}

ROWS = [
    ("options", "one after another", "one after another", None),
    ("options", "threads, map over two inputs", "blocking lane, map over two inputs", None),
    ("options", "threads, map over pairs", "blocking lane, map over pairs", None),
    ("options", "asyncio, gather", "async lane, gather", None),
    ("io-vs-cpu", "waits, one after another", "waits, one after another", None),
    ("io-vs-cpu", "waits, threads", "waits, blocking lane", None),
    ("io-vs-cpu", "sums, one after another", "sums, one after another", SQUARES),
    ("io-vs-cpu", "sums, threads", "sums, cpu lane", SQUARES),
    ("urls", "one after another", "one after another", None),
    ("urls", "threads, as completed", "async lane", None),
    ("files", "one after another", "one after another", None),
    ("files", "threads, as completed", "blocking lane", None),
    ("services", "threads, all at once", "blocking lane", None),
    ("heavy", "one after another", "one after another", STEPS),
    ("heavy", "processes", "cpu lane", STEPS),
    ("heavy", "loky", "cpu lane", STEPS),
    ("heavy", "threads (the gotcha)", "cpu lane", STEPS),
    ("chunks", "one after another", "one after another", VALUES),
    ("chunks", "processes, combined as completed", "cpu lane", VALUES),
    ("tiny", "10, one after another", "10, one after another", None),
    ("tiny", "10, processes (the gotcha)", "10, each submitted", None),
    ("tiny", "many, one after another", r"\d+, one after another", SUMS),
    ("tiny", "many, processes, in batches", r"\d+, in chunks", SUMS),
    ("tiny", "many, loky, in batches", r"\d+, in chunks", SUMS),
    ("producer-consumer", "producer beside consumer", "producer beside consumer", None),
    ("workers", "threads, with a collector", "blocking lane", None),
    ("pipeline", "a thread for each stage", "pipeline", None),
]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--items", type=int)
    parser.add_argument("python")
    parser.add_argument("ours")
    args = parser.parse_args()
    python, ours = lines(args.python), lines(args.ours)
    ran, shown = {line["scenario"] for line in python}, {line["scenario"] for line in ours}
    print("| scenario | way in Python | s | way here | s | Python ÷ ours |")
    print("|---|---|---|---|---|---|")
    lost = []
    for scenario, theirs, own, unit in ROWS:
        if scenario not in ran or scenario not in shown:
            continue
        spent = [line["seconds"] for line in python if (line["scenario"], line["way"]) == (scenario, theirs)]
        found = [way for line in ours if line["scenario"] == scenario for way in ours_of(line, own, unit, args)]
        if not spent and theirs in OPTIONAL:
            continue
        if not spent or not found:
            lost.append(f"{scenario}: {theirs if not spent else own}")
            continue
        spent, own_spent = statistics.median(spent), statistics.median(seconds for _, seconds, _ in found)
        name, _, times = found[0]
        more = "" if times == 1 else f" (×{times:g})"
        print(f"| {scenario} | {theirs} | {number(spent)} | {name}{more} | {number(own_spent)} | {number(spent / own_spent)} |")
    print("\n(×N): ours did N times the work of Python's, and its time is divided by N.")
    if absent := sorted(ran - shown):
        print(f"Not in this build of longshore: {', '.join(absent)}.")
    if lost:
        sys.exit(f"table.py: not found, has it been renamed? {'; '.join(lost)}")


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def ours_of(line, own, unit, args):
    """Name, seconds and multiple of the work, of the way that is meant."""
    times = 1.0
    if unit is not None:
        pattern, lesson = unit
        meant = re.search(pattern, line["title"])
        if meant is None:
            sys.exit(f"table.py: {line['scenario']}: how much is computed does not stand in its title: {line['title']}")
        of_python = args.items if unit is SUMS and args.items else lesson * args.scale
        times = int(meant[1]) / max(1, int(of_python))
    for way in line["ways"]:
        # The many of `tiny` are a second comparison; its ten begin with a number as well.
        if re.match(own, way["name"]) and (way["group"] > 0 or not own.startswith(r"\d")):
            return [(way["name"], way["seconds"] / times, round(times, 2))]
    return []


def number(value):
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


main()
