#!/usr/bin/env bash
# The check for one GPU, without network:
#
#   bash tests/gpu/run.sh               everything                                 (8 minutes)
#   bash tests/gpu/run.sh A             whole jobs: one rank, and two ranks on the GPU  (4)
#   bash tests/gpu/run.sh B             what is timed, each alone on the GPU               (4)
#   bash tests/gpu/run.sh fp32 te       these steps
#   DEVICE=cpu bash tests/gpu/run.sh    as far as a CPU has them
#
# Needs the folder that tests/gpu/kit.sh makes (KIT, default .gpu; on a CPU its references are made
# where they are missing). Every step has its own time and is independent of the others; what they
# found is a table at the end, also in $OUT/table.md. Status 1 when something demanded was not so.
set -uo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$ROOT"
export DEVICE=${DEVICE:-cuda} KIT=${KIT:-$ROOT/.gpu} OUT=${OUT:-$ROOT/runs/gpu}
(( $# )) || set -- A B
WANTED=" $* "
rm -rf "$OUT" && mkdir -p "$OUT"
STEPS=()                              # in the order of the table
began=$SECONDS

# wanted PART NAME: whether a step of this part was asked for.
wanted() { [[ $WANTED == *" $1 "* || $WANTED == *" $2 "* ]]; }

# step NAME SECONDS: one step of tests/gpu/check.py; its rows in $OUT/NAME.rows.
step() {
    local name=$1 limit=$2 status=0 since=$SECONDS
    timeout --kill-after 5 "$limit" "$PYTHON" -m tests.gpu.check "$name" >"$OUT/$name.log" 2>&1 \
        || status=$?
    sed -n "s/^ROW\t/$name\t/p" "$OUT/$name.log" >"$OUT/$name.rows"
    if (( status )) && ! grep -q $'\tno$' "$OUT/$name.rows"; then
        local why="exit status $status: $(tail -n 1 "$OUT/$name.log" | tr '\t|' '  ' | cut -c1-200)"
        (( status == 124 )) && why="not done in $limit s"
        printf '%s\t%s\t\tno\n' "$name" "$why" >>"$OUT/$name.rows"
    fi
    echo "[$(( SECONDS - began )) s] $name: $(( SECONDS - since )) s, status $status" >&2
}

# together SECONDS NAME...: steps of part A, side by side on a GPU: most of their time is imports.
together() {
    local limit=$1 name pids=()
    shift
    for name; do
        wanted A "$name" || continue
        STEPS+=("$name")
        if [ "$DEVICE" = cpu ]; then
            step "$name" "$limit"
        else
            step "$name" "$limit" &
            pids+=($!)
        fi
    done
    (( ${#pids[@]} == 0 )) || wait "${pids[@]}"
}

# alone NAME SECONDS: a step of part B, with nothing beside it.
alone() {
    wanted B "$1" || return 0
    STEPS+=("$1")
    step "$1" "$2"
}

if [ "$DEVICE" = cpu ]; then
    PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
    export PYTHONPATH=$ROOT
    [ -e "$KIT/reference/torch_version" ] || "$PYTHON" -m tests.gpu.reference "$KIT/reference" \
        || { echo "the references could not be made" >&2; exit 2; }
    building=
else
    PYTHON=${PYTHON:-python3}
    [ -e "$KIT/reference/torch_version" ] || { echo "no $KIT: bash tests/gpu/kit.sh" >&2; exit 2; }
    SITE=${SITE:-/tmp/t3s_gpu_site}
    pip() { "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --target "$SITE" "$@"; }
    [ -e "$SITE/megatron" ] || pip "$KIT"/wheels/*.whl || exit 2
    export PYTHONPATH=$SITE:$ROOT PYTHONUNBUFFERED=1
    "$PYTHON" -c "import torch; print(torch.__version__, torch.version.cuda, \
        torch.cuda.get_device_name(), torch.backends.cudnn.version(), torch.cuda.nccl.version())" \
        | tee "$OUT/machine.txt"
    "$PYTHON" - "$(cat "$KIT/reference/torch_version")" <<'CHECK' || exit 2
import sys, torch
made, here = ([int(n) for n in v.split("+")[0].split(".")[:2]] for v in (sys.argv[1], torch.__version__))
if made > here:
    sys.exit(f"references of torch {sys.argv[1]} are not read by torch {torch.__version__}: make them "
             "with PYTHON=... bash tests/gpu/kit.sh, of a Python that has this torch")
CHECK
    # Ranks that share a GPU: NCCL from 2.30 on. tests/gpu/jobs.py preloads it for them alone.
    if [ -e "$KIT/libnccl.so.2.xz" ]; then
        export NCCL_OF_MANY=$SITE/libnccl.so.2
        [ -e "$NCCL_OF_MANY" ] || xz -dc "$KIT/libnccl.so.2.xz" >"$NCCL_OF_MANY"
    fi
    # Laid out file by file: pip would not put a second package into transformer_engine/.
    te() {
        local built=("$KIT"/te/transformer_engine_torch-*.whl)
        [ -d "$KIT/te" ] || return 1
        [ -e "$SITE/transformer_engine_torch.ready" ] && return 0
        if [ ! -e "${built[0]}" ]; then
            NVTE_PYTORCH_FORCE_BUILD=TRUE NVTE_WITH_NCCL_EP=0 NVTE_CUDA_ARCHS=90 MAX_JOBS=12 \
                "$PYTHON" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$SITE" \
                "$KIT"/te/transformer_engine_torch-*.tar.gz || return 1
            built=("$SITE"/transformer_engine_torch-*.whl)
        fi
        tar -C "$SITE" -xJf "$KIT/te/python.tar.xz" \
            && xz -dc "$KIT/te/libtransformer_engine.so.xz" \
                >"$SITE/transformer_engine/wheel_lib/libtransformer_engine.so" \
            && "$PYTHON" -m zipfile -e "$KIT"/te/transformer_engine-*.whl "$SITE" \
            && "$PYTHON" -m zipfile -e "${built[0]}" "$SITE" \
            && touch "$SITE/transformer_engine_torch.ready"
    }
    # Its extension is compiled behind the steps that do not need it.
    (te >"$OUT/te_build.log" 2>&1; echo $? >"$OUT/te_build.rc") &
    building=$!
fi

with_te=no
together 60 two_ranks
if [ -n "$building" ]; then
    wait "$building"
    [ "$(cat "$OUT/te_build.rc")" != 0 ] || with_te=yes
fi
two=no
[ "$DEVICE" = cuda ] && grep -qs $'\tno$' "$OUT/two_ranks.rows" || two=yes

# Ranks that share a GPU take turns on it, so few of them run at a time; te_own is judged by its
# memory, which is its own.
one_rank=(start fp32 det kill_resume sigterm moe prefill noise)
[ "$DEVICE" = cpu ] || one_rank+=(syncs)
[ $with_te = no ] || one_rank+=(te te_own)
[ $two = no ] || one_rank+=(dp2)
together 160 "${one_rank[@]}"
if [ $two = yes ]; then
    together 110 tp2 pp2 $([ $with_te = no ] || echo te_tp2)
    together 110 pp2-vpp2 $([ $with_te = no ] || echo te_dp2 te_cp2)
    together 110 ep2 $([ $with_te = no ] || echo te_ep2)
fi
alone units 60
[ "$DEVICE" = cuda ] && [ $with_te = no ] || alone price 200
alone decode 120
if [ -n "$building" ] && [ $with_te = no ]; then
    STEPS+=(te)
    printf 'te\tTransformer Engine was not installed (te_build.log)\t\t-\n' >"$OUT/te.rows"
fi

{
    echo "| step | figure | bound | ok |"
    echo "|---|---|---|---|"
    for name in "${STEPS[@]}"; do
        awk -F '\t' '{ printf "| %s | %s | %s | %s |\n", $1, $2, $3, $4 }' "$OUT/$name.rows"
    done
} | tee "$OUT/table.md"
echo "$(( SECONDS - began )) s; $OUT/table.md" >&2
! grep -q '| no |$' "$OUT/table.md"
