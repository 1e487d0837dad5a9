# shellcheck shell=bash
# Sourced by the scripts that run checks one after the other, up to the first that fails.

step=set-up
count=0
run=$(basename "$0")
trap '[ $? = 0 ] || echo "$run: FAILED at: $step (after $SECONDS s)" >&2' EXIT
trap 'exit 130' INT TERM

# check NAME COMMAND...
check() {
    step=$1
    shift
    count=$((count + 1))
    printf '\n== %s (%s s)\n' "$step" "$SECONDS"
    "$@" || exit 1
}

all_passed() { printf '\n%s: all %s steps passed in %s s\n' "$run" "$count" "$SECONDS"; }
