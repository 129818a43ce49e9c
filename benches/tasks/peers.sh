#!/usr/bin/env bash
# Task queues at the same safety side by side: installs the peers into target/, runs peers.py, prints its table. A peer that cannot be installed is named
# and left out. Arguments: `quick`, and words of the rows to run (bullmq, dramatiq, "without results", …). LONGSHORE_BENCH: the example `bench` if built already.
set -euo pipefail
cd "$(dirname "$0")/../.."
for tool in redis-server python3; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install redis-server python3-venv" >&2; exit 1; }
done
venv=$PWD/target/bench-venv peers=$PWD/target/bench-peers lab=$PWD/benches/tasks/peers
export PYTHONDONTWRITEBYTECODE=1 PIP_CACHE_DIR="$peers/pip-cache" npm_config_cache="$peers/npm-cache" npm_config_update_notifier=false
mkdir -p "$peers"
left_out() { echo "left out: $1 ($2)" >&2; }

[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -c 'import redis' 2>/dev/null || "$venv/bin/pip" -q install redis
[ -x "$venv/bin/dramatiq" ] || "$venv/bin/pip" -q install 'dramatiq[redis]==2.2.1' >"$peers/dramatiq.log" 2>&1 || left_out Dramatiq "see target/bench-peers/dramatiq.log"

# No lock file: registries do not have all platforms' parts of one optional package. BullMQ pins what it needs itself.
bullmq() {
    mkdir -p "$peers/bullmq" && cp "$lab/bullmq/package.json" "$peers/bullmq/" &&
        npm install --prefix "$peers/bullmq" --no-package-lock --ignore-scripts --no-audit --no-fund >"$peers/bullmq.log" 2>&1 ||
        { rm -rf "$peers/bullmq"; false; }
}
if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    left_out BullMQ "no node and npm"
elif ! cmp -s "$lab/bullmq/package.json" "$peers/bullmq/package.json" || ! [ -d "$peers/bullmq/node_modules/bullmq" ]; then
    bullmq || left_out BullMQ "see target/bench-peers/bullmq.log"
fi

cargo build --release -q --locked --manifest-path "$lab/apalis/Cargo.toml" --target-dir "$peers/apalis" >"$peers/apalis.log" 2>&1 ||
    { rm -f "$peers/apalis/release/peer-apalis"; left_out apalis-redis "see target/bench-peers/apalis.log"; }

if [ -z "${LONGSHORE_BENCH:-}" ]; then
    cargo build --release -q -p longshore-worker --example bench
    LONGSHORE_BENCH=$PWD/target/release/examples/bench
fi
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
data=$(mktemp -d)
redis-server --port "$port" --bind 127.0.0.1 --save '' --dir "$data" >/dev/null &
server=$!
trap 'kill $server; wait $server 2>/dev/null || true; rm -rf "$data"' EXIT
until redis-cli -p "$port" ping >/dev/null 2>&1; do sleep 0.1; done
"$venv/bin/python" benches/tasks/peers.py "$port" "$LONGSHORE_BENCH" "$venv" "$peers" "$@"
