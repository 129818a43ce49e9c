#!/usr/bin/env bash
# `longshore run` against what a shell user would write instead, and the journal against no journal: the same work in turn, medians of the CPU time
# (user + system, children included) and of the wall time.
#
# bash benches/run.sh [ROUNDS]      needs a release build; GNU parallel is measured when it is there
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-5}
cargo build --release --quiet -p longshore-cli
longshore=$PWD/target/release/longshore
[ -n "${CARGO_TARGET_DIR:-}" ] && longshore=$CARGO_TARGET_DIR/release/longshore
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export XDG_STATE_HOME=$dir/state
seq 5000 > "$dir/numbers"
seq 1000000 | sed 's/.*/{"id":&,"name":"user &","price":&.5}/' > "$dir/million.jsonl"

# measure NAME COMMAND…: appends "cpu wall" in seconds to a file of that name.
measure() {
    local name=$1
    shift
    local TIMEFORMAT='%U %S %R'
    { time "$@" > /dev/null 2>&1; } 2> "$dir/time" || true
    awk '{ print $1 + $2, $3 }' "$dir/time" >> "$dir/$name"
}
median() { cut -d' ' -f"$2" "$dir/$1" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
row() { # row LABEL NAME ITEMS BASE
    awk -v l="$1" -v c="$(median "$2" 1)" -v w="$(median "$2" 2)" -v bc="$(median "$4" 1)" -v bw="$(median "$4" 2)" -v n="$3" \
        'BEGIN { printf "| %s | %.3f | %.3f | %.2f | %.2f |\n", l, c * 1000 / n, w * 1000 / n, c / bc, w / bw }'
}

commands() { xargs -P2 -n1 true < "$dir/numbers"; }
ours() { "$longshore" run "$dir/numbers" -j 2 --progress none --summary none -- true; }
theirs() { parallel -j2 true {} < "$dir/numbers"; }
for ((i = 0; i < rounds; i++)); do
    measure xargs commands
    measure ours ours
    if [ "$i" = 0 ] && command -v parallel > /dev/null; then measure parallel theirs; fi
    for mode in off batch:50ms; do
        measure "journal-$mode" "$longshore" run "$dir/million.jsonl" --noop --durable "$mode" -o /dev/null --progress none --summary none
    done
done
printf '\n5 000 × `true` at 2 workers, %s rounds\n| way | CPU ms a command | wall ms a command | CPU ÷ xargs | wall ÷ xargs |\n|---|---|---|---|---|\n' "$rounds"
row '`xargs -P2 -n1`' xargs 5000 xargs
row '`longshore run -j 2`, journal and guardian included' ours 5000 xargs
[ -e "$dir/parallel" ] && row 'GNU parallel `-j2` (one round)' parallel 5000 xargs
printf '\na million JSON Lines records with --noop, %s rounds\n| journal | CPU ms a record | wall ms a record | CPU ÷ off | wall ÷ off |\n|---|---|---|---|---|\n' "$rounds"
row '`--durable off`' journal-off 1000000 journal-off
row '`--durable batch:50ms` (the default)' journal-batch:50ms 1000000 journal-off
