# Sourced. `t3s_serve LOG` starts `transformers serve` on this machine's CPU, waits until it answers,
# sets SERVER_URL, and ends it with the script. PORT, PYTHON: of the caller.

t3s_serve() {
    local log=$1 url="http://localhost:${PORT:-8199}" waited=0
    "$PYTHON" -c 'from transformers.cli.transformers import main; main()' serve \
        --port "${PORT:-8199}" --device cpu --log-level error >"$log" 2>&1 &
    T3S_SERVER=$!
    trap 'kill "$T3S_SERVER" 2>/dev/null || true' EXIT
    until "$PYTHON" -c "import urllib.request as r; r.urlopen('$url/health', timeout=5)" 2>/dev/null
    do
        if ! kill -0 "$T3S_SERVER" 2>/dev/null || (( ++waited > 120 )); then
            echo "transformers serve does not start; the end of $log:" >&2
            tail -n 20 "$log" >&2
            return 1
        fi
        sleep 1
    done
    SERVER_URL=$url
}
