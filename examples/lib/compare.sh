# Sourced. `t3s_compare OUT`: each of METHODS, one after the other, from the same theta_0, data and
# seeds, under OUT/<method>; then the report over all of them. What they have in common is computed
# once, and is the same bit for bit as in a run of its own (docs/report.md):
#   - the first of METHODS that has a profile makes it, t3s where it is among them;
#   - other masking methods take their selection out of its log-probs;
#   - sft goes on from the last checkpoint of its profile.
# The others, rrt and own among them, have everything to themselves. The same command again goes on where it was killed.
#
# The script that sources this has sourced guarded.sh and defined, with PYTHON set:
#   t3s_one NAME METHOD DATA [argument ...]   one run, into OUT/NAME
#   t3s_own_data                              prints the data of `own`, after making it

# Those of the package's methods that need no argument of their own, in two lists: T3S_MASKING takes
# its selection from log-probs that another method's run has left, T3S_ALONE has all to itself.
t3s_list_methods() {
    local listed
    mapfile -t listed < <("$PYTHON" - <<'LIST'
from t3s_megatron.method.selection import ANCHORS, METHODS
free = [method for method in METHODS.values() if not method.requires]
masking = [m.name for m in free if m.selects and {*m.reads(None)} <= {*ANCHORS}]
print(*masking)
print(*(method.name for method in free if method.name not in masking))
LIST
    )
    T3S_MASKING=${listed[0]} T3S_ALONE="${listed[1]} own"
}

t3s_check_methods() {
    local method seen=" "
    t3s_list_methods
    for method in $METHODS; do
        case " $T3S_MASKING $T3S_ALONE " in
            *" $method "*) ;;
            *) t3s_refuse "METHODS: $method has to be one of $T3S_MASKING $T3S_ALONE" ;;
        esac
        [[ "$seen" != *" $method "* ]] || t3s_refuse "METHODS: $method stands there twice"
        seen+="$method "
    done
}

# In the order in which they are run: who makes the profile comes first.
t3s_in_order() {
    local method first=""
    for method in $METHODS; do
        [[ " $T3S_MASKING " == *" $method "* ]] || continue
        [ -n "$first" ] && [ "$method" != t3s ] || first=$method
    done
    echo $first
    for method in $METHODS; do [ "$method" = "$first" ] || echo "$method"; done
}

# t3s_summary FOLDER EXPRESSION: of `summary`; nothing where there is none.
t3s_summary() {
    "$PYTHON" - "$1/t3s/summary.json" "$2" <<'LOOK'
import json, sys
try:
    summary = json.load(open(sys.argv[1]))
except (OSError, ValueError):
    sys.exit()
print(eval(sys.argv[2]))
LOOK
}

# t3s_share FIRST METHOD FOLDER: what FOLDER's run takes from FIRST's. Decided once, by the first node,
# and written into FOLDER/shared: the run's further arguments, one a line. Where nothing can be taken
# the run trains from the start, and why is said.
t3s_share() {
    local first=$1 method=$2 folder=$3 said arguments=()
    [ ! -e "$folder/shared" ] || return 0
    mkdir -p "$folder"
    if [ -z "$first" ] || [ -e "$folder/checkpoints" ]; then
        :
    elif [ "$method" = sft ]; then
        said=$("$PYTHON" -m t3s_megatron.cli branch "$first/checkpoints" "$folder/checkpoints" \
            --t3s-dir "$first/t3s" --to-t3s-dir "$folder/t3s" 2>&1) || true
        echo "  $said"
    elif [[ " $T3S_MASKING " == *" $method "* ]]; then
        if said=$("$PYTHON" -m t3s_megatron.cli selection from-stores "$first/t3s" \
            --method "$method" --to "$folder/selection.safetensors" \
            --tau "$(t3s_summary "$first" 'summary["arguments"]["anchor_threshold"]')" 2>&1); then
            echo "  its selection is made of the log-probs in $first/t3s"
            arguments=(--t3s-selection-load "$folder/selection.safetensors")
        else
            echo "  $said"
        fi
    fi
    printf '%s\n' ${arguments[@]+"${arguments[@]}"} >"$folder/shared.tmp"
    mv "$folder/shared.tmp" "$folder/shared"
}

t3s_compare() {
    local out=$1 first="" method data number=${NUMBER:-1}
    for method in $(t3s_in_order); do
        local folder="$out/$method" arguments=() runs=$method
        if [ "$(t3s_summary "$folder" 'summary["finished"]')" = True ]; then
            echo "$number. $method: $folder is finished"
        else
            echo "$number. $method: $folder"
            data=""
            if [ "$method" = own ]; then
                runs=sft
                data=$(t3s_own_data) || exit 2
            fi
            if [ "${DRY_RUN:-0}" != 1 ]; then
                if [ "${NODE_RANK:-0}" = 0 ]; then
                    t3s_share "$first" "$method" "$folder"
                else
                    until [ -e "$folder/shared" ]; do sleep 2; done
                fi
                mapfile -t arguments < <(grep . "$folder/shared" || true)
            fi
            local status=0
            t3s_guarded t3s_one "$method" "$runs" "$data" ${arguments[@]+"${arguments[@]}"} \
                || status=$?
            (( ! status )) || exit "$status"
            (( ! T3S_TOLD )) && { [ "${DRY_RUN:-0}" = 1 ] \
                || [ "$(t3s_summary "$folder" 'summary["finished"]')" = True ]; } \
                || { echo "$method has stopped; the same command goes on from there"; exit 0; }
        fi
        number=$(( number + 1 ))
        [ -n "$first" ] || [[ " $T3S_MASKING " != *" $method "* ]] || first=$folder
    done
    [ "${DRY_RUN:-0}" != 1 ] && [ "${NODE_RANK:-0}" = 0 ] || return 0
    echo "$number. report: $out/report.html"
    local inorder=()
    for method in $METHODS; do
        [ "$method" = own ] && data=own= || data=""  # to its run it is plain fine-tuning
        inorder+=("$data$out/$method/t3s/summary.json")
    done
    "$PYTHON" -m t3s_megatron.cli report "${inorder[@]}" --html "$out/report.html" \
        --json "$out/comparison.json" ${REPORT_ARGS:-}
}
