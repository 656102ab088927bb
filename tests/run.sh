#!/usr/bin/env bash
# Install what is needed and run the test suite: bash tests/run.sh [pytest arguments]
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$ROOT/examples/lib/python.sh"
t3s_python "$ROOT"
# The other supported releases, beside the default one: tests/jobs/test_releases.py.
for release in 0.17.1 0.18.2; do
    folder="$ROOT/.venv/releases/$release"
    if [ ! -e "$folder/.installed" ]; then
        "$PYTHON" -m pip install --quiet --disable-pip-version-check --upgrade --no-deps \
            --target "$folder" "megatron-core==$release"
        touch "$folder/.installed"
    fi
done
cd "$ROOT"
# Two tests at a time: most of a job is the start of its processes, one after another. Tests are given
# out one by one in their order, jobs first, so that neither worker is left waiting at the end.
exec "$PYTHON" -m pytest --numprocesses "${TEST_WORKERS:-2}" --maxschedchunk 1 "$@"
