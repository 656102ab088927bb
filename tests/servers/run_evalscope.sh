#!/usr/bin/env bash
# `t3s-megatron evaluate` through the real evalscope: bash tests/servers/run_evalscope.sh [pytest args]
#
# evalscope gets a virtual environment of its own, $EVALSCOPE_ENV (default: build/evalscope), about
# 1.2 GB, once. The problems are made up and lie on this machine; no hub is asked.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
EVALSCOPE_ENV=${EVALSCOPE_ENV:-$ROOT/build/evalscope}
VERSION=1.14.1

if [ ! -e "$EVALSCOPE_ENV/.installed-$VERSION" ]; then
    "$PYTHON" -m venv "$EVALSCOPE_ENV"
    "$EVALSCOPE_ENV/bin/python" -m pip --disable-pip-version-check --quiet install \
        "evalscope==$VERSION"
    touch "$EVALSCOPE_ENV/.installed-$VERSION"
fi
cd "$ROOT"
T3S_TEST_EVALSCOPE="$EVALSCOPE_ENV/bin/python" \
    exec "$PYTHON" -m pytest tests/servers/test_evalscope_itself.py "$@"
