#!/usr/bin/env bash
# All that RESULTS.md asks of an NVIDIA GPU, the most valuable first, in at most 8 minutes: bash benchmarks/gpu.sh [OUT]
# Each result is a file of its own in OUT, written as it comes; a part that fails or takes too long leaves the others be.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/gpu}
mkdir -p "$out"
export PYTHONPATH=. TF_CPP_MIN_LOG_LEVEL=2
{ nvidia-smi --query-gpu=name,driver_version --format=csv,noheader; git rev-parse --short HEAD; date -u +%F; } >"$out/where.txt"

part() { # name, seconds, command
    local name=$1 limit=$2
    shift 2
    timeout "$limit" "$@" >"$out/$name.txt" 2>&1 || echo "ended with status $?" >>"$out/$name.txt"
    tail -n 12 "$out/$name.txt"
}

xl2=(python train.py --config=configs/imagenet256.py:sit_xl2 --config.train.steps=40 --config.train.log_every=10 --config.sample.every=0)

# What unrolling is worth now that it does not switch rematerialisation off.
part attention_kernel 150 python benchmarks/attention_kernel.py
part xl2_loop 70 "${xl2[@]}" --workdir="$out/xl2_loop"
part xl2_unrolled 90 "${xl2[@]}" --workdir="$out/xl2_unrolled" --config.model.unroll=28
# Is a resume on a GPU bitwise? Two runs of 6 updates, one of them stopped at 3: their last losses are the same, or not.
part resume 50 bash -c '
    train() { python train.py --config.train.log_every=1 --config.sample.every=0 "$@"; }
    for steps in 3 6; do train --workdir="$0/stopped" --config.train.steps=$steps; done
    train --workdir="$0/straight" --config.train.steps=6
    for run in stopped straight; do grep -o "\"loss\": [^,]*" "$0/$run/metrics.jsonl" | tail -n 3; done' "$out"
part vs_diffusers 110 python benchmarks/vs_diffusers.py
