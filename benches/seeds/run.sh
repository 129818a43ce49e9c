#!/usr/bin/env bash
# The lesson's Python programs, repaired, beside `longshore demo`: the same scenarios in turn, and one Markdown table.
#
# bash benches/seeds/run.sh [--scale X] [--rounds N] [--only "NAME …"] [--workers N] [--items N]
#
# --scale 1 (the default) is the lesson's own size and takes about three minutes a round; of several rounds the table has medians. Needs python3 and its
# standard library; PYTHON names another one, and one that has loky measures that too. Builds the demos in release mode, unless DEMOS names their executable.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
scale=1 rounds=1 only= settings=() items=()
while [ $# -gt 0 ]; do
    case $1 in
        --scale) scale=$2 ;;
        --rounds) rounds=$2 ;;
        --only) only=$2 ;;
        --workers) settings+=("$1" "$2") ;;
        --items) settings+=("$1" "$2") items=("$1" "$2") ;;
        *) echo "run.sh: what is $1? It knows --scale --rounds --only --workers --items" >&2; exit 2 ;;
    esac
    shift 2
done
python=${PYTHON:-python3}
command -v "$python" > /dev/null || { echo "run.sh: $python is not here" >&2; exit 2; }
if [ -z "${DEMOS:-}" ]; then
    cargo build --release --quiet --manifest-path "$here/../../Cargo.toml" -p longshore-demos
    DEMOS=${CARGO_TARGET_DIR:-$here/../../target}/release/longshore-demos
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
: > "$dir/python"
: > "$dir/ours"

for ((round = 1; round <= rounds; round++)); do
    for name in ${only:-options io-vs-cpu urls files services heavy chunks tiny producer-consumer workers pipeline}; do
        echo "round $round of $rounds: $name" >&2
        "$python" "$here/${name//-/_}.py" --scale "$scale" "${settings[@]}" >> "$dir/python"
        # A scenario that this build does not have ends with 2; the table says so.
        "$DEMOS" "$name" --json --scale "$scale" "${settings[@]}" >> "$dir/ours" || [ $? = 2 ]
    done
done
printf '%s cores, Linux %s, %s, scale %s, rounds: %s\n\n' "$(nproc)" "$(uname -r)" "$("$python" --version)" "$scale" "$rounds"
python3 "$here/table.py" --scale "$scale" "${items[@]}" "$dir/python" "$dir/ours"
