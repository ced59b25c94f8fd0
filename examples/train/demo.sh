#!/bin/sh
# From nothing to a trained small model on two cores: this machine measured, text to tokens, a plan
# for it, a run with a rank killed in the middle of it, and what was predicted beside what was
# measured.
#   sh demo.sh [FOLDER]        WEFTLINE=path/to/weftline if it is not on the path
set -eu
here=$(dirname "$0")
out=${1:-train-demo}
weftline=${WEFTLINE:-weftline}
mkdir -p "$out"
# The demo's own catalogue: what it measures stays in its folder.
WEFTLINE_CONFIG_DIR=$out/catalogue
export WEFTLINE_CONFIG_DIR

plan() {
    $weftline plan train "$here/llama-5m.json" --tokens 80k --seq 128 --global-batch 8 \
        --precision fp32 --on here --chips 2 --layout "tp=1,pp=1,cp=1,zero=3" \
        -o "$out/plan.json" > "$out/plan.txt"
}

echo "==> this machine, and the plan's own operators on it" >&2
$weftline calibrate --accept-loud > "$out/machine.txt"
plan
$weftline calibrate --plan "$out/plan.json" --accept-loud > "$out/operators.txt"
plan
head -3 "$out/plan.txt"

echo "==> tokens from the source of Python's standard library" >&2
$weftline prepare stdlib -o "$out/data"

echo "==> the run, with rank 1 killed on the way" >&2
rm -rf "$out/run"
$weftline train "$out/plan.json" --data "$out/data" -o "$out/run" --lr 1e-3 --warmup 5 \
    --checkpoint-every 10 > "$out/run.txt" &
run=$!
until grep -qs '"step": 35,' "$out/run/steps.jsonl"; do
    kill -0 $run || exit 1
    sleep 0.2
done
$weftline inject kill "$out/run" --rank 1
wait $run
cat "$out/run.txt"

echo "==> predicted and measured" >&2
$weftline compare "$out/plan.json" "$out/run"
