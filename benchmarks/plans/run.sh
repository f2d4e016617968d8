#!/usr/bin/env bash
# The plans of docs/plans.md: bash benchmarks/plans/run.sh. Each takes a minute or two, and no accelerator.
set -uo pipefail
cd "$(dirname "$0")/../.."
plan() {
    echo "\$ python -m dit_jax.plan $*"
    PYTHONPATH=.venv/tpu .venv/bin/python -m dit_jax.plan "$@" 2>&1 | grep -v '^WARNING\|^I0\|^W0'
    echo
}
XL="--config=imagenet256:dit_xl2 --config.model.unroll=1"
plan $XL --topology=v5e:16x16 --config.parallel.fsdp=16 --config.data.batch_size=8192
plan $XL --topology=v6e:16x16 --config.parallel.fsdp=16 --config.data.batch_size=8192
plan $XL --topology=v5p:2x2x2 --config.parallel.fsdp=8 --config.data.batch_size=256
plan $XL --topology=v5p:8x8x8 --config.parallel.fsdp=8 --config.data.batch_size=16384
plan --config=benchmarks/plans/dit_3b.py --topology=v5e:16x16 --config.parallel.fsdp=16
plan --config=benchmarks/plans/clip_16k.py --topology=v5e:16x16 --config.parallel.fsdp=16
