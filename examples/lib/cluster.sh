# Sourced by examples/run_t3s.sh, which sets the layout (NNODES, TP, PP, CP, EP, ETP, PIPELINE_ARGS).
# `t3s_cluster` starts the run on this node; every knob is an environment variable. The same command again goes on from the last checkpoint.

source "$ROOT/examples/lib/checks.sh"
source "$ROOT/examples/lib/serve.sh"
source "$ROOT/examples/lib/colocate.sh"
source "$ROOT/examples/lib/guarded.sh"

# The modules of $@ that $PYTHON does not have.
t3s_lacks() {
    "$PYTHON" - "$@" <<'PROBE'
import importlib.util, sys
print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name) is None))
PROBE
}

t3s_cluster() {
    # --- what to train, on what; OUT has to be one folder for all nodes
    [ -n "${HF_MODEL:-}" ] || t3s_refuse "HF_MODEL is not set: the student's Hugging Face folder, or OWNER/NAME on the hub"
    [ -n "${DATA:-}" ] || t3s_refuse "DATA is not set: the traces (.jsonl, .parquet or a dataset)"
    local traces=("$DATA")
    [ -e "$DATA" ] || traces=($DATA)  # a file for each of several teachers
    [ -n "${OUT:-}" ] || t3s_refuse "OUT is not set: the folder for everything the run writes"
    local METHOD=${METHOD:-t3s}              # any of --t3s-method
    local T3S_SIMPLE=${T3S_SIMPLE:-0}        # 1: step 10 is theta_b, nothing is generated
    local VERIFIER=${VERIFIER:-math}         # exact, numeric, choice, math, code, ..., yours
    local TEMPERATURE=${TEMPERATURE:-0.6}    # the paper's
    # Who answers (docs/generation.md). colocate: vLLM on these GPUs, asleep while they train; URLs,
    # "http://HOST:PORT ...": servers elsewhere, which OUT is shared with; live: the training ranks.
    t3s_default_serve
    local SERVER_RELOAD=${SERVER_RELOAD:-vllm}  # of servers elsewhere
    local SERVE_TP=${SERVE_TP:-$TP}          # GPUs of a server
    local SERVE_MEMORY=${SERVE_MEMORY:-0.45} # share of a GPU's memory that it has while awake
    local SERVE_PORT=${SERVE_PORT:-8100}     # of a node's first server
    local VLLM=${VLLM:-vllm}                 # the command: of an environment of its own
    local NODES=${NODES:-}                   # names of all nodes, in the order of NODE_RANK
    # Prompts answered together on a data-parallel rank: their keys and values at SEQ_LENGTH have to
    # fit beside weights, gradients and optimizer.
    local GENERATION_BATCH=${GENERATION_BATCH:-32}
    local PROMPTS=${PROMPTS:-0}              # measure accuracy on the first N prompts; 0: all
    # Measure in the targeted phase every so many steps; 0: at its end only. Nothing is decided by
    # these, and at every step they would be three quarters of all measurements.
    local TARGETED_INTERVAL=${TARGETED_INTERVAL:-0}
    # --- the paper's recipe (Appendix I)
    local GBS=${GBS:-64}                     # samples a step
    local LR=${LR:-1e-5}
    local STEPS=${STEPS:-50}
    local SEQ_LENGTH=${SEQ_LENGTH:-32768}    # bound of a sample; each has its own length
    local SAVE_INTERVAL=${SAVE_INTERVAL:-10}
    local KEEP_CHECKPOINTS=${KEEP_CHECKPOINTS:-2}  # of those that the run saves; 0: all
    # --- where: NNODES x NPROC_PER_NODE processes
    local NPROC_PER_NODE=${NPROC_PER_NODE:-8}
    local NODE_RANK=${NODE_RANK:-0}
    local MASTER_ADDR=${MASTER_ADDR:-localhost}
    local MASTER_PORT=${MASTER_PORT:-29500}
    local NOTICE=${NOTICE:-1800}             # seconds from SIGTERM to SIGKILL
    local DETERMINISTIC=${DETERMINISTIC:-0}  # 1: equal bits from equal steps, and slower ones
    local RECOMPUTE=${RECOMPUTE:-1}          # 0: activations are kept (docs/cluster.md)
    local RESTARTS=${RESTARTS:-0}            # > 0: torchrun starts a run that died again
    local MODULE=${MODULE:-t3s_megatron.pretrain}  # what is started: another kind of run
    local DEVICE=${DEVICE:-cuda}             # cpu: to try the script with a tiny student
    local PYTHON=${PYTHON:-python}
    local EXTRA_ARGS=${EXTRA_ARGS:-}         # appended
    local PLAN_ARGS=${PLAN_ARGS:-}           # for DRY_RUN=1: options of t3s-megatron plan

    t3s_check_knobs
    "$PYTHON" -c 'import t3s_megatron' 2>/dev/null || t3s_refuse \
        "t3s_megatron is not installed for $PYTHON: pip install --no-build-isolation 't3s-megatron[gpu,verification]'"
    local model  # Megatron's arguments for it, which the run takes from the folder by itself
    model=$("$PYTHON" -m t3s_megatron.cli arguments "$HF_MODEL") || exit 2
    local world=$(( NNODES * NPROC_PER_NODE ))
    (( world % (TP * PP * CP) == 0 )) || t3s_refuse \
        "$world processes are not a multiple of TP*PP*CP = $(( TP * PP * CP ))"
    if [ "$SERVE" = colocate ]; then
        (( NPROC_PER_NODE % SERVE_TP == 0 )) || t3s_refuse \
            "SERVE_TP=$SERVE_TP: the $NPROC_PER_NODE GPUs of a node are no multiple of it"
        [ "$NNODES" != 1 ] || NODES=localhost  # where they listen then
        [ -n "$NODES" ] || [ "${DRY_RUN:-0}" != 1 ] \
            || NODES=$(seq -s ' ' -f 'node%g' 0 $(( NNODES - 1 )))
        (( $(wc -w <<<"$NODES") == NNODES )) || t3s_refuse \
            "NODES='$NODES': has to name the $NNODES nodes, in the order of NODE_RANK: their servers are asked by one of the ranks"
    fi

    local args=(
        --tensor-model-parallel-size "$TP"
        --pipeline-model-parallel-size "$PP" "${PIPELINE_ARGS[@]}"
        --context-parallel-size "$CP"
        --bf16
        --micro-batch-size 1 --global-batch-size "$GBS" --seq-length "$SEQ_LENGTH"
        --train-iters "$STEPS" --lr "$LR"
        # The paper names neither; constant and none keep the profile and the targeted phase alike.
        --lr-decay-style constant --weight-decay 0
        # A masked loss is normalised by the tokens that are kept.
        --calculate-per-token-loss
        # Optimizer state spread over the data-parallel ranks, its traffic behind the computation.
        --use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather
        # A checkpoint can be resumed in another layout.
        --dist-ckpt-optim-fully-reshardable
        # SIGTERM (Slurm's end of time) saves and leaves, after the step or measurement under way.
        --exit-signal-handler
        # Python collects its garbage on all ranks in the same step, and not whenever one has some:
        # every other rank would wait for it.
        --manual-gc --manual-gc-interval 10
        # Ranks wait for each other while answers are generated and verified.
        --distributed-timeout-minutes 90
        --load "$OUT/checkpoints" --save "$OUT/checkpoints" --save-interval "$SAVE_INTERVAL"
        --tensorboard-dir "$OUT/tensorboard" --log-interval 1 --eval-iters 0 --num-workers 0
        --t3s --t3s-method "$METHOD" --t3s-dir "$OUT/t3s" --t3s-data "${traces[@]}"
        --t3s-hf-model "$HF_MODEL" --t3s-hf-export "$OUT/hf"
        # Every sample at its own length: no padding, and GBS counts samples.
        --t3s-arrangement own
        --t3s-verifier "$VERIFIER" --t3s-temperature "$TEMPERATURE"
        --t3s-accuracy-prompts "$PROMPTS" --t3s-generation-batch-size "$GENERATION_BATCH"
        --t3s-targeted-accuracy-interval "$TARGETED_INTERVAL"
    )
    # Activations between the tensor-parallel parts are kept once, not TP times.
    (( TP > 1 )) && args+=(--sequence-parallel)
    if [[ "$model" == *--num-experts* ]]; then
        args+=(--expert-model-parallel-size "$EP" --expert-tensor-parallel-size "$ETP")
    fi
    # At 32k tokens a layer's activations cost more than computing them again.
    [ "$RECOMPUTE" = 0 ] \
        || args+=(--recompute-granularity full --recompute-method uniform --recompute-num-layers 1)
    if [ "$DETERMINISTIC" = 1 ]; then
        # A rewind, a resume and a retry then repeat what was computed before, bit for bit. Megatron
        # refuses the fused loss with it and wants these said to every process.
        args+=(--deterministic-mode)
        export NCCL_ALGO=Ring NVTE_ALLOW_NONDETERMINISTIC_ALGO=0 CUBLAS_WORKSPACE_CONFIG=:4096:8
    else
        # 151,936 logits a token: do not keep them twice.
        args+=(--cross-entropy-loss-fusion)
    fi
    [ "$KEEP_CHECKPOINTS" = 0 ] || args+=(--t3s-keep-checkpoints "$KEEP_CHECKPOINTS")
    [ "$T3S_SIMPLE" = 1 ] && args+=(--t3s-simple)
    local planned=()  # options of the plan
    case "$SERVE" in
    colocate)
        # Weights go through the memory of each node; one folder for each OUT, on all of them.
        local memory="/dev/shm/t3s-$(cksum <<<"$OUT" | cut -d ' ' -f 1)"
        args+=(--t3s-generation server --t3s-server-url $(t3s_colocated_urls)
            --t3s-server-reload vllm --t3s-server-colocated --t3s-server-weights "$memory"
            # vLLM takes as many together as its memory holds, and lets the others wait.
            --t3s-server-concurrency 256)
        planned+=(--server-gpus "$SERVE_TP" --server-memory "$SERVE_MEMORY")
        ;;
    http*)
        args+=(--t3s-generation server --t3s-server-url $SERVE
            --t3s-server-reload "$SERVER_RELOAD" --t3s-server-weights "$OUT/weights")
        ;;
    esac
    # An answer of 32k tokens takes its time; a measurement has to end before ranks that wait for it
    # give up.
    [ "$SERVE" = live ] || args+=(--t3s-server-timeout 3000 --t3s-generation-timeout 3300)
    if [ "$DEVICE" = cpu ]; then
        source "$ROOT/examples/lib/cpu.sh"
        args+=("${CPU_ARGS[@]}" --attention-softmax-in-fp32)
    else
        # Transformer Engine; cuDNN's fused attention is the fast one for long rows on Hopper.
        # Decoding steps use torch's own, which needs no plan for each number of keys.
        args+=(--transformer-impl transformer_engine --attention-backend fused)
        # On by default, and only Apex has the kernel: without it Megatron stops at the first layer.
        [ -z "$(t3s_lacks fused_weight_gradient_mlp_cuda)" ] \
            || args+=(--no-gradient-accumulation-fusion)
        # Every row has another length: memory that grows in place is not left in pieces.
        export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}
        local wanted=(transformer_engine)
        [ "$VERIFIER" != math ] || wanted+=(math_verify)
        local lacking no_vllm
        lacking=$(t3s_lacks "${wanted[@]}")
        lacking=${lacking% }
        [ "$SERVE" != colocate ] || command -v "$VLLM" >/dev/null \
            || no_vllm="there is no $VLLM to start for SERVE=colocate: name the vllm of its environment, VLLM=/opt/vllm/bin/vllm, or choose SERVE=live or the URLs of servers"
        # Experts of a rank in one kernel; tokens are put in order by one as well.
        [[ "$model" == *--num-experts* ]] \
            && args+=(--moe-grouped-gemm --moe-permute-fusion)
    fi
    args+=($EXTRA_ARGS)

    local run=("$PYTHON" -m torch.distributed.run --nnodes "$NNODES"
        --nproc-per-node "$NPROC_PER_NODE" --max-restarts "$RESTARTS")
    # A checkpoint of hundreds of GiB is not written in the 30 s that torchrun gives the ranks.
    local patience=1
    if "$PYTHON" -m torch.distributed.run --help 2>/dev/null | grep -q -- --shutdown-timeout; then
        run+=(--shutdown-timeout "$NOTICE")
    else
        patience=0
    fi
    if (( RESTARTS > 0 )); then
        # A lost node can be replaced only if its agents do not share the rendezvous' store.
        export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
        run+=(--rdzv-backend c10d --rdzv-endpoint "$MASTER_ADDR:$MASTER_PORT"
            --rdzv-id "${JOB_ID:-t3s}")
    else
        run+=(--node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT")
    fi
    # One launch queue keeps the overlapped communication behind the computation (Megatron's advice
    # for tensor and context parallelism up to Hopper).
    export CUDA_DEVICE_MAX_CONNECTIONS=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

    (( patience )) || echo "$(basename "$0"): warning: this torch's torchrun has no" \
        "--shutdown-timeout: it kills the ranks 30 s after SIGTERM, saved or not" >&2

    if [ "${DRY_RUN:-0}" = 1 ]; then
        [ -z "${lacking:-}" ] || echo "$(basename "$0"): warning: a run on this machine would lack" \
            "$lacking: pip install --no-build-isolation 't3s-megatron[gpu,verification]'" >&2
        [ -z "${no_vllm:-}" ] || echo "$(basename "$0"): warning: $no_vllm" >&2
        printf '%q ' "${run[@]}" -m "$MODULE" "${args[@]}"
        if [ "$SERVE" = colocate ]; then
            local number
            for (( number = 0; number < NPROC_PER_NODE / SERVE_TP; number++ )); do
                t3s_server_command "$number"
                printf '\n# beside it, first: '
                printf '%q ' "${SERVER_COMMAND[@]}"
            done
        fi
        printf '\n\n'
        # What it will need, on the CPU of this machine; 3 when it does not fit.
        "$PYTHON" -m t3s_megatron.cli plan --world-size "$world" \
            --gpus-per-node "$NPROC_PER_NODE" "${planned[@]}" $PLAN_ARGS -- "${args[@]}"
        return
    fi
    [ -z "${lacking:-}" ] || t3s_refuse \
        "$PYTHON lacks $lacking: pip install --no-build-isolation 't3s-megatron[gpu,verification]'"
    [ -z "${no_vllm:-}" ] || t3s_refuse "$no_vllm"
    mkdir -p "$OUT"
    [ "$SERVE" != colocate ] || t3s_colocate
    # To the ranks alone, which save and leave: servers have to answer what is being measured.
    local status=0
    t3s_guarded "${run[@]}" -m "$MODULE" "${args[@]}" || status=$?
    [ "$SERVE" != colocate ] || rm -rf "$memory"
    exit "$status"
}
