# Runs what it reads from descriptor $1 in this shell, and says on descriptor $2 when a run has ended. See `bash.py` and `script.py`.

exec {__requests}<&"$1" {__messages}>&"$2"
eval "exec $1<&- $2>&-"
set --
declare -A __sandbox=()

__is_name() { [[ $1 =~ ^[a-zA-Z_][a-zA-Z0-9_]*$ ]]; }

# A trap returns from the function that runs the code, so that an interrupt ends the run and not the shell. The descriptors are not
# inherited by what the code starts.
__run() {
    trap 'return 130' INT
    eval "$1" {__requests}<&- {__messages}>&-
}

while IFS= read -r -d '' -u "$__requests" __count; do
    declare -A __wanted=() __former=()
    for ((__i = 0; __i < __count; __i++)); do
        IFS= read -r -d '' -u "$__requests" __pair
        __is_name "${__pair%%=*}" && __wanted[${__pair%%=*}]=${__pair#*=}
    done
    for __name in "${!__sandbox[@]}"; do
        [[ -v __wanted[$__name] ]] || { unset "$__name"; unset "__sandbox[$__name]"; }
    done
    for __name in "${!__wanted[@]}"; do
        if [[ ! -v __sandbox[$__name] || ${__sandbox[$__name]} != "${__wanted[$__name]}" ]]; then
            export "$__name=${__wanted[$__name]}"
            __sandbox[$__name]=${__wanted[$__name]}
        fi
    done
    IFS= read -r -d '' -u "$__requests" __count
    declare -a __unset=()
    for ((__i = 0; __i < __count; __i++)); do
        IFS= read -r -d '' -u "$__requests" __pair
        __name=${__pair%%=*}
        __is_name "$__name" || continue
        if [[ -v $__name ]]; then __former[$__name]=${!__name}; else __unset+=("$__name"); fi
        export "$__pair"
    done
    IFS= read -r -d '' -u "$__requests" __code
    __run "$__code"
    trap : INT
    for __name in "${__unset[@]}"; do unset "$__name"; done
    for __name in "${!__former[@]}"; do export "$__name=${__former[$__name]}"; done
    printf '{"type": "end"}\n' >&"$__messages"
done
