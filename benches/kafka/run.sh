#!/usr/bin/env bash
# Records of 60 bytes, 8 partitions, 1 000 keys: Kafka's bare client, longshore, Confluent's Parallel Consumer, and the same sleeps without Kafka, in turn,
# on one broker. The last column is a row's rate as a part of the one that its table names.
#
# LONGSHORE_KAFKA=127.0.0.1:9092 [PARALLEL_CONSUMER=DIR] [ROUNDS=3] bash benches/kafka/run.sh [noop|waits|gate|memory|published]…
#
# Of ROUNDS runs the one in the middle is shown (of a backlog and of the published experiment there is one).
# PARALLEL_CONSUMER: a folder with PcBench.java and libs/*.jar (Parallel Consumer, its dependencies; Java 17's JDK); without it its rows are missing.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${LONGSHORE_KAFKA:?the address of a Kafka whose topics may be filled, HOST:PORT}"
cargo build --release --quiet -p longshore-kafka --example kafka_rates
rates=${CARGO_TARGET_DIR:-target}/release/examples/kafka_rates
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
run=$$
if [ -n "${PARALLEL_CONSUMER:-}" ]; then javac -cp "$PARALLEL_CONSUMER/libs/*" -d "$dir" "$PARALLEL_CONSUMER/PcBench.java"; fi

# field NAME: of what was measured last.
field() { sed -nE "s/.* $1=([^ ]*).*/\1/p" "$dir/last"; }
# ours MODE TOPIC NAME=VALUE…    sleeps NAME=VALUE…    theirs ORDER TOPIC RECORDS MICROSECONDS AT_ONCE
ours() { "$rates" "$1" "$LONGSHORE_KAFKA" "$2" "${@:3}" > "$dir/last"; }
sleeps() { "$rates" sleeps "$@" > "$dir/last"; }
theirs() {
    [ -n "${PARALLEL_CONSUMER:-}" ] || return 1
    java -Xmx1g -Dtopic="$2" -Dgroup="$2-theirs-$1-$RANDOM" -cp "$dir:$PARALLEL_CONSUMER/libs/*" PcBench "$LONGSHORE_KAFKA" "$1" "$3" 8 1000 "$4" "$5" \
        2> /dev/null | sed -E 's| rate=([0-9]+)/s| rate=\1|' > "$dir/last"
    sed -i "s/\$/ cpu_us=$(awk -v cpu="$(field cpu | tr -d s)" -v n="$3" 'BEGIN { printf "%.2f", cpu * 1e6 / n }')/" "$dir/last"
}
# median COMMAND…: the run in the middle of three, by its rate.
median() {
    for ((round = 0; round < ${ROUNDS:-3}; round++)); do
        "$@" || return 1
        echo "$(field rate) $(cat "$dir/last")"
    done | sort -n > "$dir/rounds"
    sed -n "$((${ROUNDS:-3} / 2 + 1))p" "$dir/rounds" | sed -E 's/^[0-9]+ //' > "$dir/last"
}
fill() { "$rates" fill "$LONGSHORE_KAFKA" "$1" "${@:2}" > /dev/null; }
# row WHAT BASE
row() {
    awk -v what="$1" -v rate="$(field rate)" -v cpu="$(field cpu_us)" -v base="$2" -v mem="$(field resident_mb)" \
        'BEGIN { printf "| %s | %d | %s | %s | %.2f |\n", what, rate, cpu, mem, rate / base }'
}
title() { printf '\n%s\n\n| what | records/s | CPU µs a record | resident MB | part of %s |\n|---|---|---|---|---|\n' "$1" "$2"; }

noop() {
    local topic=noop-$run bare
    fill "$topic" records=500000
    title 'No-op handlers, 500 000 records' 'the bare client'
    median ours bare "$topic"
    bare=$(field rate)
    row 'bare client' "$bare"
    median ours bare "$topic" eager=yes
    row 'bare client, its waits set as ours' "$bare"
    for order in none key; do
        median ours longshore "$topic" order="$order"
        row "longshore, order $order" "$bare"
    done
    # As many as by key: twice what runs is the default without an order.
    median ours longshore "$topic" order=none in_flight=1000
    row 'longshore, order none, 1 000 in flight' "$bare"
    for order in unordered key; do
        if median theirs "$order" "$topic" 500000 0 100; then row "Parallel Consumer, $order" "$bare"; fi
    done
}

# waited TOPIC RECORDS MICROSECONDS AT_ONCE: key order.
waited() {
    local alone
    median sleeps records="$2" wait="$3" at_once="$4"
    alone=$(field rate)
    row "$3 µs, $4 at once: sleeps alone" "$alone"
    median ours longshore "$1" records="$2" wait="$3" at_once="$4"
    row "$3 µs, $4 at once: longshore, key" "$alone"
    if median theirs key "$1" "$2" "$3" "$4"; then row "$3 µs, $4 at once: Parallel Consumer, key" "$alone"; fi
}

waits() {
    local topic=waits-$run
    fill "$topic" records=300000
    fill "$topic-3" records=100000 partitions=3
    title 'Handlers that wait, key order; the last one over 3 partitions' 'the same sleeps without Kafka'
    waited "$topic" 300000 1000 100
    waited "$topic" 60000 10000 100
    waited "$topic" 8000 100000 100
    waited "$topic-3" 100000 10000 500
}

gate() {
    local topic=gate-$run open
    fill "$topic" records=100000 partitions=3
    title '500 at once over 3 partitions, 10 ms, key order' 'a gate that never closes'
    median ours longshore "$topic" records=100000 wait=10000 at_once=500 in_flight=1000000
    open=$(field rate)
    row 'a gate that never closes' "$open"
    for resume in 75 99; do
        median ours longshore "$topic" records=100000 wait=10000 at_once=500 resume="$resume"
        row "the default limit, reopens at $resume %" "$open"
        median ours longshore "$topic" records=100000 wait=10000 at_once=500 in_flight=2000 resume="$resume"
        row "2 000 in flight, reopens at $resume %" "$open"
    done
}

memory() {
    local topic=memory-$run first
    fill "$topic" records=5000000
    title 'A backlog of five million records' 'the first row'
    ours longshore "$topic" records=5000000 order=key
    first=$(field rate)
    row 'no-op, key' "$first"
    ours longshore "$topic" records=5000000 order=none
    row 'no-op, unordered' "$first"
    ours longshore "$topic" records=300000 wait=1000 at_once=100
    row '1 ms, 100 at once, the first 300 000' "$first"
}

# Parallel Consumer's README: 10 000 records, one partition, handlers that wait 0 to 5 ms. It has 26.7 s one at a time and 2.13 s with 10 000 keys: 12.5×.
published() {
    local one topic keys
    title '10 000 records, one partition, 0 to 5 ms each' 'a plain consumer'
    for keys in 1 20 100 1000 10000; do
        topic=published-$keys-$run
        fill "$topic" records=10000 partitions=1 keys="$keys"
        if [ "$keys" = 1 ]; then
            ours plain "$topic" records=10000 wait=0-5000
            one=$(field rate)
            row 'a plain consumer, one at a time' "$one"
        fi
        for at_once in 16 100; do
            ours longshore "$topic" records=10000 wait=0-5000 at_once="$at_once"
            row "longshore, $keys keys, $at_once at once" "$one"
        done
    done
    ours longshore "$topic" records=10000 wait=0-5000 order=none
    row 'longshore, unordered, 100 at once' "$one"
    sleeps records=10000 wait=0-5000 at_once=100
    row 'the same sleeps without Kafka, 100 at once' "$one"
}

[ $# -gt 0 ] || set -- noop waits gate memory published
for part; do "$part"; done
