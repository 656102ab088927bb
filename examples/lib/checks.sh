# Sourced by the scripts: a knob takes only the values that mean something, and says so. Otherwise
# DRY_RUN=true would start the run. Each function takes names of variables; unset ones are defaults.

t3s_refuse() {
    echo "$(basename "$0"): $1" >&2
    exit 2
}

# t3s_one_of NAME VALUE ...
t3s_one_of() {
    local name=$1 value
    shift
    [ -n "${!name+set}" ] || return 0
    for value in "$@"; do
        [ "${!name}" != "$value" ] || return 0
    done
    t3s_refuse "$name=${!name}: has to be one of $*"
}

# t3s_switches NAME ...: 1 for yes, 0 for no
t3s_switches() {
    local name
    for name in "$@"; do t3s_one_of "$name" 0 1; done
}

# t3s_numbers LEAST NAME ...: whole numbers from LEAST
t3s_numbers() {
    local least=$1 name
    shift
    for name in "$@"; do
        [ -n "${!name+set}" ] || continue
        [[ "${!name}" =~ ^(0|[1-9][0-9]{0,8})$ ]] && (( ${!name} >= least )) \
            || t3s_refuse "$name=${!name}: has to be a whole number from $least"
    done
}

# Every knob that several scripts have.
t3s_check_knobs() {
    t3s_switches DRY_RUN T3S_SIMPLE RESUME DETERMINISTIC RECOMPUTE
    t3s_one_of GENERATION live server
    t3s_one_of DEVICE cuda cpu
    t3s_numbers 1 NNODES NPROC_PER_NODE NPROC TP PP CP EP ETP GBS BATCH STEPS STUDENT_STEPS \
        SEQ_LENGTH SAVE_INTERVAL GENERATION_BATCH
    t3s_numbers 1 NOTICE
    t3s_numbers 0 NODE_RANK KEEP_CHECKPOINTS PROMPTS TARGETED_INTERVAL RESTARTS MASTER_PORT PORT SEED
    t3s_numbers 1 SERVE_TP SERVE_PORT
    [[ "${SERVE:-live}" =~ ^(live|colocate|https?://.+)$ ]] || t3s_refuse \
        "SERVE=$SERVE: has to be colocate, live, or URLs of servers, http://HOST:PORT ..."
    [[ "${SERVE_MEMORY:-0.5}" =~ ^0?\.[0-9]+$ ]] || t3s_refuse \
        "SERVE_MEMORY=$SERVE_MEMORY: has to be a share of a GPU's memory, such as 0.45"
}
