#!/usr/bin/env bash
# Task queues side by side: sets up what is needed, runs bench.py, prints its table. Arguments: `quick`, and words of the rows to run (D1, D3, memory, …).
# `run.sh canvas [NAME=BENCH…] [WIDTHxGROUPS…]` runs canvas.py instead: chains of groups, also with other builds of the bench beside this one.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONDONTWRITEBYTECODE=1
for tool in redis-server python3; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install redis-server python3-venv" >&2; exit 1; }
done
venv=target/bench-venv
[ -x "$venv/bin/celery" ] || { python3 -m venv "$venv" && "$venv/bin/pip" -q install 'celery[redis]==5.7.0'; }
cargo build --release -q -p longshore-worker --example bench
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
data=$(mktemp -d)
redis-server --port "$port" --bind 127.0.0.1 --save '' --dir "$data" >/dev/null &
server=$!
trap 'kill $server; wait $server 2>/dev/null || true; rm -rf "$data"' EXIT
until redis-cli -p "$port" ping >/dev/null 2>&1; do sleep 0.1; done
if [ "${1:-}" = canvas ]; then
    "$venv/bin/python" benches/tasks/canvas.py "$port" "$PWD/$venv" longshore="$PWD/target/release/examples/bench" "${@:2}"
    exit
fi
"$venv/bin/python" benches/tasks/bench.py "$port" "$PWD/target/release/examples/bench" "$PWD/$venv" "$@"
