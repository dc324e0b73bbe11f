#!/usr/bin/env bash
# `make demo`: recordings -> sweep on two workers -> leaderboard -> verified bundle in champion/.
#
#     deploy/demo.sh [DATA]    DATA: a folder in ESC-50's layout; without it, synthetic clips are made
#
# Environment: OUT (champion), SWEEP (sweeps/demo.toml), BIN (release, in cargo's target folder)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

data=${1:-}
out=${OUT:-champion}
sweep=${SWEEP:-sweeps/demo.toml}
bin=${BIN:-${CARGO_TARGET_DIR:-target}/release}
address_s_max=600 # the coordinator prepares the clips before it listens
leave_s_max=30    # a worker that was away when the sweep ended learns of it when it reconnects

step() { printf '\n\033[1m%s\033[0m\n' "$*"; }
fail() {
    printf 'demo: %s\n' "$*" >&2
    for log in "$work"/worker-*.log; do
        if [[ -s $log ]]; then
            printf -- '--- the end of %s\n' "${log##*/}" >&2
            tail -n 20 "$log" >&2
        fi
    done
    exit 1
}

work=$(mktemp -d "${TMPDIR:-/tmp}/earshot-demo.XXXXXX")
children=()
cleanup() {
    status=$?
    trap - EXIT
    for child in "${children[@]}"; do
        kill "$child" 2>/dev/null || true
    done
    wait
    rm -rf "$work"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [[ -z $data ]]; then
    # Not in data/raw, which is for the recordings of whoever goes on from here.
    data=data/demo
    step "1. Synthetic clips in $data"
    "$bin/coordinator" data synth --out "$data"
else
    step "1. Clips in $data"
    [[ -f $data/meta/esc50.csv ]] || fail "$data/meta/esc50.csv is missing: DATA names a folder in ESC-50's layout"
fi

step "2. The sweep $sweep, on two workers"
"$bin/coordinator" start --sweep "$sweep" --set "data.root=$data" \
    --set "data.processed=data/processed/$(basename "$data")" \
    --listen 127.0.0.1:0 --address-file "$work/address" --db "$work/sweep.redb" --exit-when-done >/dev/null &
coordinator=$!
children+=("$coordinator")

deadline=$((SECONDS + address_s_max))
until [[ -s $work/address ]]; do
    kill -0 "$coordinator" 2>/dev/null || fail "the coordinator ended before it listened"
    ((SECONDS < deadline)) || fail "the coordinator did not listen within $address_s_max s"
    sleep 0.1
done
address=$(<"$work/address")

# The two workers share the cores; with an odd number the first takes one more.
cores=$(nproc)
for slots in $(((cores + 1) / 2)) $((cores > 1 ? cores / 2 : 1)); do
    number=${#children[@]}
    "$bin/worker" --coordinator "http://$address" --slots "$slots" --exit-when-done \
        >"$work/worker-$number.log" 2>&1 &
    children+=("$!")
done

# A worker that ends well has no more to do; one that fails would leave the coordinator waiting.
while kill -0 "$coordinator" 2>/dev/null; do
    for worker in "${children[@]:1}"; do
        kill -0 "$worker" 2>/dev/null || wait "$worker" || fail "a worker failed"
    done
    sleep 0.2
done
wait "$coordinator" || fail "the coordinator failed"
deadline=$((SECONDS + leave_s_max))
for worker in "${children[@]:1}"; do
    while kill -0 "$worker" 2>/dev/null && ((SECONDS < deadline)); do sleep 0.1; done
    kill "$worker" 2>/dev/null || true
    wait "$worker" || fail "a worker failed"
done
children=()

step "3. The leaderboard"
"$bin/coordinator" leaderboard --top 10 --db "$work/sweep.redb"

step "4. The champion in $out/"
"$bin/coordinator" export --out "$out" --db "$work/sweep.redb"
ls -lh "$out"
