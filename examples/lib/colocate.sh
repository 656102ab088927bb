# Sourced by cluster.sh: vLLM on the GPUs that train, asleep but while accuracy is measured. Each node
# has as many servers as SERVE_TP fits into its GPUs.

# Sets SERVE where it is not set: the live weights answer shortly, or not at all.
t3s_default_serve() {
    [ -z "${SERVE:-}" ] || return 0
    if [ "${T3S_SIMPLE:-0}" = 1 ] || [ "${DEVICE:-cuda}" = cpu ] \
        || (( ${SEQ_LENGTH:-32768} <= 4096 )); then
        SERVE=live
    else
        SERVE=colocate
    fi
}

# The URLs of all servers of all nodes, in the order of NODES.
t3s_colocated_urls() {
    local node server
    for node in $NODES; do
        for (( server = 0; server < NPROC_PER_NODE / SERVE_TP; server++ )); do
            printf 'http://%s:%s ' "$node" $(( SERVE_PORT + server ))
        done
    done
}

# t3s_server_command NUMBER: the words of this node's server, into SERVER_COMMAND.
t3s_server_command() {
    local first=$(( $1 * SERVE_TP )) gpus=() gpu
    IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES:-$(seq -s, 0 $(( NPROC_PER_NODE - 1 )))}"
    gpu=$(IFS=,; echo "${gpus[*]:$first:$SERVE_TP}")
    SERVER_COMMAND=(
        # What training wants of CUDA is not for it, and memory that sleeps is no growing segment of
        # torch's. Its packages are its own.
        env -u PYTORCH_CUDA_ALLOC_CONF -u CUDA_DEVICE_MAX_CONNECTIONS -u PYTHONPATH
        # The routes of sleep and reload. They let whoever reaches the port command the server: keep
        # it inside the cluster.
        VLLM_SERVER_DEV_MODE=1 HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES="$gpu"
        "$VLLM" serve "$HF_MODEL" --served-model-name student
        --host "$([ "$NNODES" = 1 ] && echo localhost || echo 0.0.0.0)"
        --port $(( SERVE_PORT + $1 )) --tensor-parallel-size "$SERVE_TP" --dtype bfloat16
        # A prompt and its answer, and one token more than that may have.
        --max-model-len $(( SEQ_LENGTH + 2 ))
        --gpu-memory-utilization "$SERVE_MEMORY" --enable-sleep-mode
        # What shapes an answer is in the requests.
        --generation-config vllm
    )
}

# Start this node's servers and wait for them; the job puts them to sleep before it builds the model.
t3s_colocate() {
    local number count=$(( NPROC_PER_NODE / SERVE_TP )) logs="$OUT/servers"
    mkdir -p "$logs"
    for (( number = 0; number < count; number++ )); do
        ! t3s_answers "http://localhost:$(( SERVE_PORT + number ))" || t3s_refuse \
            "a server answers at port $(( SERVE_PORT + number )) already, of an earlier run perhaps, on whose GPUs there is no room: end it, or set SERVE_PORT"
        t3s_server_command "$number"
        t3s_start_server "$logs/node-$NODE_RANK-$number.log" "${SERVER_COMMAND[@]}"
    done
    for (( number = 0; number < count; number++ )); do
        t3s_wait_for_server 1800 "http://localhost:$(( SERVE_PORT + number ))" \
            "${T3S_SERVERS[number]}" "$logs/node-$NODE_RANK-$number.log"
    done
}
