#!/usr/bin/env bash
# What idle workers cost a Redis: 1, 50, 200 and 1 000 of them, 60 seconds each, then a hundred kills among fifty. `quick`: 1 and 50, 20 seconds.
# BENCH names the program to be measured; without it, it is built.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONDONTWRITEBYTECODE=1
for tool in redis-server python3; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install redis-server python3" >&2; exit 1; }
done
if [ -z "${BENCH:-}" ]; then
    cargo build --release -q -p longshore-worker --example idle
    BENCH=$PWD/target/release/examples/idle
fi
if [ "${1:-}" = quick ]; then
    python3 benches/tasks/idle.py "$BENCH" rest 20 1 50
else
    python3 benches/tasks/idle.py "$BENCH" rest 60 1 50 200 1000
    python3 benches/tasks/idle.py "$BENCH" kills 20
fi
