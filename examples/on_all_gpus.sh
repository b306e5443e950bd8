#!/usr/bin/env bash
# Train RECIPE with one process for each GPU of this machine: `bash examples/on_all_gpus.sh RECIPE [KEY=VALUE]...`
#
# The number of GPUs is read, the port is a free one, nothing is asked; without a GPU it ends with an error (2). It can
# be given again at any time: an interrupted run continues (exit code 75 says that there is more to do). A gated model
# needs HF_TOKEN or `hf auth login`.
#
#   PYTHON=python3.12        which Python
#   WHET_ON_CPU=2            try the way out without a GPU: two processes on the CPU, two steps of the same recipe on the
#                            built-in model and generated rows, into outputs/trial
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ "$#" -lt 1 ]; then
    echo "usage: bash examples/on_all_gpus.sh RECIPE [KEY=VALUE]..." >&2
    exit 2
fi
recipe=$1
shift

if [ -n "${WHET_ON_CPU:-}" ]; then
    exec "${PYTHON:-python}" -m whet launch local "$recipe" --nproc "$WHET_ON_CPU" \
        output=outputs/trial train.device=cpu train.max_steps=2 train.best_metric=eval/loss train.final=last \
        model.id=smollm2-135m-instruct model.dtype=auto batch.micro_size=auto batch.global_size=8 \
        'data.train=[{source: "reasoning-gym:gsm_symbolic", rows: 32}]' 'data.validation=[]' 'evaluate=[]' \
        'callbacks=[]' 'tracking=[]' "$@"
fi

exec "${PYTHON:-python}" -m whet launch local "$recipe" --require-gpu "$@"
