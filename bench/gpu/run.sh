#!/usr/bin/env bash
# Runs `python -m bench.gpu` from this folder alone, without a network:
#   ./run.sh --out DIR --deadline SECONDS [--sections a,b] [--device cpu --small]
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
site="${LOOKAHEAD_SITE:-/tmp/lookahead-site}"
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --disable-pip-version-check --target "$site" "$here"/wheels/*.whl
export PYTHONPATH="$site:$here/code"
export PYTHONSAFEPATH=1 # a checkout in the current folder is not what runs
export PYTHONUNBUFFERED=1
export TOKENIZERS_PARALLELISM=false
export HF_HUB_OFFLINE=1
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
export NUMBA_CACHE_DIR=/tmp/numba
traces=()
if [ -d "$here/traces" ]; then
    traces=(--traces "$here/traces")
fi
exec python3 -m bench.gpu "${traces[@]}" "$@"
