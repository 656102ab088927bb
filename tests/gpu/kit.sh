#!/usr/bin/env bash
# What has to be copied to a GPU machine without network, in one folder of at most 50 MB:
#
#   bash tests/gpu/kit.sh
#
# Wheels that such a machine lacks, references made on this CPU, and, with their device code pruned to
# Hopper's, Transformer Engine and an NCCL that lets ranks share a GPU. Then on the machine, with the
# repository and this folder: bash tests/gpu/run.sh.
#
# Transformer Engine's extension for torch is compiled on that machine, against its torch. A wheel of
# it that was built elsewhere saves that time: lay it into the folder's te/.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$ROOT"
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
KIT=${KIT:-$ROOT/.gpu}
LIMIT_MB=50
TE_VERSION=2.20.2
NCCL_VERSION=2.30.7

mkdir -p "$KIT/wheels"
get() { "$PYTHON" -m pip download --quiet --no-deps --disable-pip-version-check --dest "$1" "${@:2}"; }

# In the versions that are installed here. torch and transformers are the machine's.
wheels=()
for name in megatron-core math-verify latex2sympy2-extended antlr4-python3-runtime pydantic \
    pydantic-core annotated-types typing-inspection importlib-metadata; do
    version=$("$PYTHON" -c "import importlib.metadata as m; print(m.version('$name'))" 2>/dev/null) \
        || { echo "not installed here, left out: $name" >&2; continue; }
    wheels+=("$name==$version")
done
get "$KIT/wheels" "${wheels[@]}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# pruned SOURCE TARGET: a library with Hopper's device code alone, compressed.
pruned() {
    "$PYTHON" tests/gpu/prune.py "$1" "$work/pruned.so" 90
    xz -T0 -c "$work/pruned.so" >"$2"
    rm "$1" "$work/pruned.so"
}

if [ ! -e "$KIT/te/python.tar.xz" ]; then
    mkdir -p "$KIT/te"
    get "$work" "transformer-engine-cu13==$TE_VERSION"
    "$PYTHON" -m zipfile -e "$work"/transformer_engine_cu13-*.whl "$work/te"
    pruned "$work/te/transformer_engine/wheel_lib/libtransformer_engine.so" \
        "$KIT/te/libtransformer_engine.so.xz"
    tar -C "$work/te" -cJf "$KIT/te/python.tar.xz" .
    get "$KIT/te" "transformer-engine==$TE_VERSION"    # the name under which it is looked for
    get "$KIT/te" --no-binary :all: --no-build-isolation "transformer-engine-torch==$TE_VERSION"
fi
if [ ! -e "$KIT/libnccl.so.2.xz" ]; then
    get "$work" "nvidia-nccl-cu13==$NCCL_VERSION"
    "$PYTHON" -m zipfile -e "$work"/nvidia_nccl_cu13-*.whl "$work/nccl"
    pruned "$work/nccl/nvidia/nccl/lib/libnccl.so.2" "$KIT/libnccl.so.2.xz"
fi

# The same students and samples on a CPU in float32: what a GPU is compared with. An older torch does
# not read the checkpoints of a newer one: PYTHON has to be of the machine's torch, or an older one.
[ -e "$KIT/reference/torch_version" ] || "$PYTHON" -m tests.gpu.reference "$KIT/reference"

size=$(du -sm "$KIT" | cut -f1)
du -sh "$KIT"/* && echo "$KIT: $size MB"
(( size <= LIMIT_MB )) || { echo "more than $LIMIT_MB MB" >&2; exit 1; }
