#!/usr/bin/env bash
# Install what is needed and run the test suite: bash tests/run.sh [pytest arguments]
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$ROOT/examples/lib/python.sh"
t3s_python "$ROOT"
cd "$ROOT"
exec "$PYTHON" -m pytest "$@"
