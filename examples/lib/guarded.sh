# Sourced. `t3s_guarded COMMAND ...`: run it so that the end of time reaches it. SIGTERM, SIGINT and
# SIGURG (docs/cluster.md: Slurm's, to every process of the job) become one SIGTERM to it alone, and it
# is waited for, since it saves before it leaves. Its status is returned; T3S_TOLD is 1 where a signal
# came.
t3s_guarded() {
    local child="" status=0
    T3S_TOLD=0
    # Before it is started: what comes in between is handed on as soon as there is whom to tell.
    trap 'T3S_TOLD=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true' TERM INT URG
    "$@" &
    child=$!
    (( ! T3S_TOLD )) || kill -TERM "$child" 2>/dev/null || true
    while kill -0 "$child" 2>/dev/null; do wait "$child" || true; done
    wait "$child" || status=$?
    trap - TERM INT URG
    return "$status"
}
