#!/usr/bin/env bash
# What has to be copied to a GPU machine without network, in one folder of at most 50 MB:
#
#   bash tests/gpu/kit.sh            wheels and references made on this CPU     (about 6 MB)
#   TE=1 bash tests/gpu/kit.sh       Transformer Engine too, pruned to Hopper   (about 32 MB)
#
# Then on the machine, with the repository and this folder: bash tests/gpu/run.sh A, and B.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$ROOT"
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
KIT=${KIT:-$ROOT/.gpu}
LIMIT_MB=50
TE_VERSION=2.20.2

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

if [ "${TE:-0}" = 1 ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    get "$work" "transformer-engine-cu13==$TE_VERSION"
    "$PYTHON" -m zipfile -e "$work"/transformer_engine_cu13-*.whl "$work/te"
    library=$(find "$work/te" -name libtransformer_engine.so)
    "$PYTHON" tests/gpu/prune.py "$library" "$work/pruned.so" 90
    mkdir -p "$KIT/te"
    xz -T0 -c "$work/pruned.so" >"$KIT/te/libtransformer_engine.so.xz"
    rm "$library"
    tar -C "$work/te" -cJf "$KIT/te/python.tar.xz" .
    # The extension for torch is compiled on the machine, against the torch that is there.
    get "$KIT/te" --no-binary :all: --no-build-isolation "transformer-engine-torch==$TE_VERSION" \
        || echo "no source of transformer-engine-torch: steps with Transformer Engine are left out" >&2
fi

# The same student and samples on a CPU in float32: what a GPU is compared with.
[ -e "$KIT/reference/probe.json" ] || "$PYTHON" -m tests.gpu.reference "$KIT/reference"

size=$(du -sm "$KIT" | cut -f1)
du -sh "$KIT"/* && echo "$KIT: $size MB"
(( size <= LIMIT_MB )) || { echo "more than $LIMIT_MB MB" >&2; exit 1; }
