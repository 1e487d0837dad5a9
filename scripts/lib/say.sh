# shellcheck shell=bash
# shellcheck disable=SC2154  # setup sets $result
# Talking to the person who waits: messages, and long steps with a heartbeat that Ctrl-C can stop.
# Sourced by scripts/setup.

say() { printf 'setup: %s\n' "$*"; }
complain() { printf 'setup: %s\n' "$*" >&2; }

log=$(mktemp "${TMPDIR:-/tmp}/setup.XXXXXX") || exit 1
job=        # process group of the step that runs
hold=       # who runs, where stopping it half-way would leave things worse than finishing
stopped=    # Ctrl-C came during such a step
sudo=       # how to become root: empty, or "sudo -n" once that is known to work

# step WHAT COMMAND...: runs COMMAND with its output in a log. Says WHAT at once, then how far it is at least
# every two seconds. The command gets a process group of its own, so that it can be stopped with all its
# children, whatever they think of SIGINT.
step() {
    local what=$1 start=$SECONDS ticks=0 status=0
    shift
    say "$what ..."
    set -m
    "$@" </dev/null >"$log" 2>&1 &
    job=$!
    set +m
    while kill -0 "$job" 2>/dev/null; do
        sleep 0.2
        ticks=$((ticks + 1))
        if [ $((ticks % 8)) = 0 ]; then
            say "  $((SECONDS - start)) s: $(last_line)"
        fi
    done
    wait "$job" 2>/dev/null || status=$?
    job=
    [ -z "$stopped" ] || exit 130
    return "$status"
}

# What the running command said last, cut to fit a terminal; a progress bar is one line with many returns.
last_line() {
    tail -n 5 "$log" | tr '\r' '\n' | sed '/^ *$/d' | tail -n 1 | tr -cd '[:print:]' | cut -c 1-90
}

# Shows why the last step failed.
show_log() {
    sed -e '/^[[:space:]]*$/d' -e 's/^/    | /' "$log" | tail -n 12 | cut -c 1-300 >&2
}

# rustup cut short while it unpacks has files that it later refuses to overwrite. The download is safe to cut.
downloading() {
    [ "$hold" = rustup ] && compgen -G "${RUSTUP_HOME:-${HOME:-}/.rustup}/downloads/*.partial" >/dev/null
}

stop() {
    if [ -n "$job" ]; then
        if [ -n "$hold" ] && ! downloading; then
            stopped=1
            complain "stopping as soon as $hold is through (cut short, it would leave a mess)"
            return
        fi
        # shellcheck disable=SC2086  # $sudo is empty or two words
        $sudo kill -TERM -- "-$job" 2>/dev/null
        local i=0
        while kill -0 "$job" 2>/dev/null && [ $i -lt 30 ]; do
            sleep 0.1
            i=$((i + 1))
        done
        # shellcheck disable=SC2086
        $sudo kill -KILL -- "-$job" 2>/dev/null
    fi
    complain "stopped; nothing was left half done"
    exit 130
}

trap stop INT TERM HUP
trap 'rm -f "$log" "${result:?}.$$"' EXIT
