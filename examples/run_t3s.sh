#!/usr/bin/env bash
# T3S on any student of a supported family, from a Hugging Face folder to a Hugging Face folder. On
# every node:
#
#   HF_MODEL=DIR DATA=traces.jsonl OUT=/shared/t3s NNODES=2 TP=8 NODE_RANK=0 MASTER_ADDR=node0 \
#       bash examples/run_t3s.sh
#
# DIR may be OWNER/NAME, a student on the hub. The folder says what the student is (t3s-megatron
# arguments DIR shows it); what is set here is how it is laid out. DRY_RUN=1 prints the command and the plan (memory, disk, time) and starts nothing.
# Other knobs: examples/lib/cluster.sh. Under Slurm: examples/slurm/t3s.sbatch. The same command
# again goes on where the run was killed.
#
# METHODS="t3s sft own" runs one method after the other, each into OUT/<method>, and ends with a
# report that compares them (examples/lib/compare.sh, docs/report.md). HELDOUT=FILE: the prompts on
# which they are compared. OWN_DATA=FILE: the student's own verified answers, for `own`
# (examples/prepare_own.sh makes it).
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$ROOT/examples/lib/cluster.sh"

# Nodes of 8 GPUs; what TP x PP x CP leaves of the world is data parallel. Tensor parallelism stays
# inside a node. With context parallelism, accuracy is measured without a key-value cache (correct,
# and slow).
NNODES=${NNODES:-1}
TP=${TP:-1}
PP=${PP:-1}
CP=${CP:-1}
# Of a student with experts: these are spread over EP of the tensor- and data-parallel ranks, and cut
# in ETP.
EP=${EP:-1}
ETP=${ETP:-1}
PIPELINE_ARGS=(${PIPELINE_ARGS[@]+"${PIPELINE_ARGS[@]}"})
if [ -n "${METHODS:-}" ]; then
    source "$ROOT/examples/lib/compare.sh"
    PYTHON=${PYTHON:-python}
    t3s_check_methods
    [[ " $METHODS " != *" own "* ]] || [ "${DRY_RUN:-0}" = 1 ] || [ -e "${OWN_DATA:-}" ] || t3s_refuse \
        "METHODS has own: set OWN_DATA to the student's own verified answers (examples/prepare_own.sh)"
    [ -n "${OUT:-}" ] || t3s_refuse "OUT is not set: the folder for everything the runs write"
    # The same prompts for all; T = 0 is one answer to each, other temperatures several.
    [ -z "${HELDOUT:-}" ] || EXTRA_ARGS="${EXTRA_ARGS:-} --t3s-heldout-data $HELDOUT \
        --t3s-report-temperatures ${TEMPERATURE:-0.6}"
    # Nothing is selected by these, or the selection is there: no step has to be taken for theta_b.
    t3s_one() {
        local name=$1 METHOD=$2 DATA=${3:-$DATA} OUT=$OUT/$1 T3S_SIMPLE=${T3S_SIMPLE:-0}
        shift 3
        EXTRA_ARGS="${EXTRA_ARGS:-} $*"
        case "$METHOD $*" in sft*|dft*|*--t3s-selection-load*) T3S_SIMPLE=0 ;; esac
        t3s_cluster
    }
    t3s_own_data() { echo "${OWN_DATA:-}"; }
    t3s_compare "$OUT"
else
    t3s_cluster
fi
