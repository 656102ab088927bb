#!/usr/bin/env bash
# The check for one GPU, without network:
#
#   bash tests/gpu/run.sh A     one rank: starts, float32 = CPU, rewind, kill, SIGTERM    (6 minutes)
#   bash tests/gpu/run.sh B     two ranks on the one GPU, decoding, noise, Transformer Engine   (6)
#   DEVICE=cpu bash tests/gpu/run.sh      both parts, as far as a CPU has them
#
# Needs the folder that tests/gpu/kit.sh makes (KIT, default .gpu; on a CPU its references are made
# where they are missing). Every step has its own time and is independent of the others; what they
# found is a table at the end, also in $OUT/table.md. Status 1 when something demanded was not so.
set -uo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$ROOT"
export DEVICE=${DEVICE:-cuda} KIT=${KIT:-$ROOT/.gpu} OUT=${OUT:-$ROOT/runs/gpu}
PART=${1:-AB}
rm -rf "$OUT" && mkdir -p "$OUT"
ROWS=$OUT/rows.tsv
: >"$ROWS"
began=$SECONDS

# step NAME SECONDS: one step of tests/gpu/check.py, or other commands that print its rows.
step() {
    local name=$1 limit=$2 status=0 since=$SECONDS
    shift 2
    (( $# )) || set -- "$PYTHON" -m tests.gpu.check "$name"
    timeout --kill-after 5 "$limit" "$@" >"$OUT/$name.log" 2>&1 || status=$?
    sed -n "s/^ROW\t/$name\t/p" "$OUT/$name.log" >>"$ROWS"
    if (( status )) && ! grep -q $'\tno$' <(grep "^ROW" "$OUT/$name.log"); then
        local why="exit status $status"
        (( status == 124 )) && why="not done in $limit s"
        printf '%s\t%s\t\tno\n' "$name" "$why" >>"$ROWS"
    fi
    echo "[$(( SECONDS - began )) s] $name: $(( SECONDS - since )) s, status $status" >&2
}

if [ "$DEVICE" = cpu ]; then
    PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
    export PYTHONPATH=$ROOT
    [ -e "$KIT/reference/probe.json" ] || "$PYTHON" -m tests.gpu.reference "$KIT/reference" \
        || { echo "the references could not be made" >&2; exit 2; }
else
    PYTHON=${PYTHON:-python3}
    [ -e "$KIT/reference/probe.json" ] || { echo "no $KIT: bash tests/gpu/kit.sh" >&2; exit 2; }
    SITE=${SITE:-/tmp/t3s_gpu_site}
    [ -e "$SITE/megatron" ] || "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile \
        --target "$SITE" "$KIT"/wheels/*.whl || exit 2
    # The package's own metadata names its version.
    export PYTHONPATH=$SITE:$ROOT PYTHONUNBUFFERED=1
    "$PYTHON" -c "import torch; print(torch.__version__, torch.version.cuda, \
        torch.cuda.get_device_name(), torch.backends.cudnn.version())" | tee "$OUT/machine.txt"
    # Ranks that share a GPU; NCCL from 2.30 on.
    export NCCL_MULTI_RANK_GPU_ENABLE=1
    te() {
        [ -d "$KIT/te" ] || return 1
        mkdir -p "$SITE" && tar -C "$SITE" -xJf "$KIT/te/python.tar.xz" || return 1
        xz -dc "$KIT/te/libtransformer_engine.so.xz" \
            >"$(dirname "$(find "$SITE" -name wheel_lib -o -name 'transformer_engine' -type d \
                | head -n 1)")/transformer_engine/wheel_lib/libtransformer_engine.so" || return 1
        NVTE_PYTORCH_FORCE_BUILD=TRUE NVTE_CUDA_ARCHS=90 MAX_JOBS=12 "$PYTHON" -m pip install \
            --quiet --no-index --no-deps --no-build-isolation --target "$SITE" \
            "$KIT"/te/transformer_engine_torch-*.tar.gz
    }
    # Its extension is compiled behind the steps that do not need it.
    (te >"$OUT/te_build.log" 2>&1; echo $? >"$OUT/te_build.rc") &
    building=$!
fi

case $PART in *A*)
    step start 60
    step units 60
    step fp32 100
    step det 120
    step kill_resume 150
    step sigterm 160
    [ "$DEVICE" = cpu ] || step syncs 60
esac
case $PART in *B*)
    step two_ranks 40
    if [ "$DEVICE" = cpu ] || ! grep -q $'^two_ranks\t.*\tno$' "$ROWS"; then
        for layout in tp2 pp2 dp2 pp2-vpp2; do step "$layout" 110; done
    fi
    step decode 120
    step prefill 60
    step noise 200
    if [ "$DEVICE" != cpu ]; then
        wait "$building"
        if [ "$(cat "$OUT/te_build.rc")" = 0 ]; then
            step te_own 200
        else
            printf 'te_own\tTransformer Engine was not built (te_build.log)\t\t-\n' >>"$ROWS"
        fi
    fi
esac

{
    echo "| step | figure | bound | ok |"
    echo "|---|---|---|---|"
    awk -F '\t' '{ printf "| %s | %s | %s | %s |\n", $1, $2, $3, $4 }' "$ROWS"
} | tee "$OUT/table.md"
echo "$(( SECONDS - began )) s; $OUT/table.md" >&2
! grep -q $'\tno$' "$ROWS"
