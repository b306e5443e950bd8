#!/usr/bin/env bash
# The Llama 3.1 guide's run on MetaMathQA: `bash examples/train_llama3.1_metamath_8gpu.sh [KEY=VALUE]...`
# On eight GPUs as in the guide, or on as many as there are: the global batch stays what it is.
exec bash "$(dirname "${BASH_SOURCE[0]}")/on_all_gpus.sh" configs/Llama-3.1/llama3.1_8b_metamath.yaml "$@"
