# Sourced. Servers that a script starts, waits for and ends. PYTHON: of the caller.

T3S_SERVERS=()  # process groups

# t3s_start_server LOG COMMAND ...: in a process group of its own, which ends with the script.
t3s_start_server() {
    local log=$1
    shift
    setsid "$@" >"$log" 2>&1 &
    T3S_SERVERS+=($!)
    trap t3s_end_servers EXIT
}

t3s_answers() {
    "$PYTHON" -c "import urllib.request as r; r.urlopen('$1/health', timeout=5)" 2>/dev/null
}

# t3s_wait_for_server SECONDS URL PID LOG
t3s_wait_for_server() {
    local until=$(( SECONDS + $1 )) url=$2 server=$3 log=$4
    until t3s_answers "$url"; do
        if ! kill -0 "$server" 2>/dev/null || (( SECONDS > until )); then
            echo "the server at $url does not start; the end of $log:" >&2
            tail -n 20 "$log" >&2
            return 1
        fi
        sleep 1
    done
}

t3s_end_servers() {
    local server waited=0
    for server in "${T3S_SERVERS[@]}"; do kill -TERM -- "-$server" 2>/dev/null || true; done
    for server in "${T3S_SERVERS[@]}"; do
        while kill -0 -- "-$server" 2>/dev/null && (( waited++ < 30 )); do sleep 1; done
        kill -KILL -- "-$server" 2>/dev/null || true
    done
    T3S_SERVERS=()
}

# `t3s_serve LOG` starts `transformers serve` on this machine's CPU, waits until it answers and sets
# SERVER_URL. PORT: of the caller.
t3s_serve() {
    SERVER_URL="http://localhost:${PORT:-8199}"
    t3s_start_server "$1" "$PYTHON" -c \
        'from transformers.cli.transformers import main; main()' serve \
        --port "${PORT:-8199}" --device cpu --log-level error
    t3s_wait_for_server 120 "$SERVER_URL" "${T3S_SERVERS[0]}" "$1"
}
