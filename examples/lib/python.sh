# Sourced. `t3s_python DIR` puts a virtual environment with the project into DIR/.venv, once, and
# sets PYTHON to its interpreter. Needs a Python 3.12 somewhere; says what to install if there is none.

t3s_is_312() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' >/dev/null 2>&1
}

t3s_find_312() {
    local candidate
    for candidate in "${T3S_PYTHON:-}" python3.12 python3 python \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12*/bin/python; do
        # A pyenv shim may exist and refuse: only an interpreter that answers counts.
        if [ -n "$candidate" ] && t3s_is_312 "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    if command -v uv >/dev/null 2>&1; then
        uv python install 3.12 >&2 && uv python find 3.12 && return
    fi
    cat >&2 <<'MESSAGE'
t3s-megatron needs Python 3.12 (megatron-core's wheels with megatron.training ask for it), and none
was found on PATH, among pyenv's versions or through uv. Install one of:
    uv:      curl -LsSf https://astral.sh/uv/install.sh | sh      (then start this script again)
    pyenv:   pyenv install 3.12
    system:  apt-get install python3.12 python3.12-venv
or name it: T3S_PYTHON=/path/to/python3.12
MESSAGE
    return 1
}

t3s_python() {
    local root=$1 stamp base
    PYTHON="$root/.venv/bin/python"
    # Reinstall when what is to be installed has changed.
    stamp=$(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum)
    if [ "$(cat "$root/.venv/.t3s-installed" 2>/dev/null)" = "$stamp" ]; then
        return
    fi
    base=$(t3s_find_312) || return 1
    echo "installing into $root/.venv (a few minutes the first time) ..."
    "$base" -m venv "$root/.venv"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check \
        -c "$root/constraints.txt" -e "$root[test]" || return 1
    echo "$stamp" >"$root/.venv/.t3s-installed"
}
