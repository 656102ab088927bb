#!/usr/bin/env bash
# Add T3S's callback seam to the source of Megatron, in place of the one installed at run time.
#
#   bash patches/apply.sh [--check | --reverse] [TARGET]
#
# TARGET   a Megatron-LM checkout, or a site-packages folder: what holds megatron/training.
#          Default: the megatron that $PYTHON (or python) imports.
# --check    say whether TARGET is original or patched, and change nothing
# --reverse  take the patch out again
#
# Nothing is touched unless the release is known and training.py is, byte for byte, what it was
# released as (or, with --reverse, what this patch makes of it).
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

fail() {
    echo "apply.sh: $*" >&2
    exit 1
}

action=apply target=
for argument in "$@"; do
    case $argument in
        --check) action=check ;;
        --reverse) action=reverse ;;
        --help | -h) sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;;
        -*) fail "unknown option $argument (--check or --reverse)" ;;
        *) [ -z "$target" ] || fail "one TARGET only" && target=$argument ;;
    esac
done
for tool in patch sha256sum; do
    command -v "$tool" >/dev/null || fail "$tool is not installed"
done

if [ -z "$target" ]; then
    # Without importing it: that would take CUDA. megatron is a namespace of several folders.
    target=$("${PYTHON:-python}" - <<'FIND'
import importlib.util, os
spec = importlib.util.find_spec("megatron")
for folder in spec.submodule_search_locations if spec else []:
    if os.path.isfile(os.path.join(folder, "training", "training.py")):
        print(os.path.dirname(folder))
        break
FIND
    ) || fail "${PYTHON:-python} cannot be run; name a TARGET"
    [ -n "$target" ] || fail "${PYTHON:-python} finds no megatron.training; name a TARGET"
fi
[ -f "$target/megatron/training/training.py" ] ||
    fail "$target: no megatron/training/training.py in it; TARGET is a Megatron-LM checkout or a site-packages folder"
cd "$target"
target=$PWD

[ -f megatron/core/package_info.py ] || fail "$target: no megatron/core/package_info.py that tells the release"
release=$(sed -nE 's/^(MAJOR|MINOR|PATCH|PRE_RELEASE) *= *["'\'']?([^"'\'' ]*)["'\'']?.*$/\2/p' \
    megatron/core/package_info.py | paste -sd. | sed 's/\.$//')
patch=$HERE/core_v$release
if [ ! -d "$patch" ]; then
    known=$(cd "$HERE" && echo core_v*/ | sed 's/core_v//g; s#/##g')
    fail "$target is Megatron $release; there are patches for: $known"
fi

if sha256sum --check --status "$patch/patched.sha256" 2>/dev/null; then
    state=patched
elif [ ! -e megatron/training/callbacks.py ] && sha256sum --check --status "$patch/original.sha256"; then
    state=original
else
    state=modified
fi
[ "$state" != modified ] ||
    fail "$target: megatron/training/training.py (or callbacks.py) is neither what Megatron $release was released with nor what this patch makes of it. T3S runs without a patch, on a changed training.py too as long as its functions take the same parameters; or apply $patch/callbacks.patch by hand"

case $action:$state in
    check:*) echo "$target: Megatron $release, $state" ;;
    apply:patched) fail "$target is patched already (Megatron $release)" ;;
    reverse:original) fail "$target is not patched (Megatron $release)" ;;
    apply:original)
        patch --quiet --forward --no-backup-if-mismatch -p1 <"$patch/callbacks.patch"
        sha256sum --check --status "$patch/patched.sha256" || fail "$target: patch did not do what it should"
        echo "$target: Megatron $release, patched"
        ;;
    reverse:patched)
        patch --quiet --reverse --no-backup-if-mismatch -p1 <"$patch/callbacks.patch"
        sha256sum --check --status "$patch/original.sha256" || fail "$target: patch did not do what it should"
        echo "$target: Megatron $release, original again"
        ;;
esac
