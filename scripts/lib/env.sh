# shellcheck shell=bash
# What every script here wants of its environment. Sourced, with $root the repository and the working directory.

# rustup's cargo is often not on the PATH of shells that are no login shells. In front, where rustup puts it.
case ":$PATH:" in
*":${CARGO_HOME:-${HOME:-}/.cargo}/bin:"*) ;;
*) PATH=${CARGO_HOME:-${HOME:-}/.cargo}/bin:$PATH ;;
esac
# Artifacts have fixed places (target/...), wherever a developer's other projects build.
export CARGO_TARGET_DIR="${root:?}/target"
unset CARGO_BUILD_TARGET CARGO_BUILD_TARGET_DIR

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Loads what scripts/setup found.
tools() {
    [ -f "$root/target/toolchain.sh" ] || die "nothing is set up yet; run scripts/setup"
    # shellcheck source=/dev/null
    . "$root/target/toolchain.sh"
}

# host_cargo SUBCOMMAND ARG...: cargo for what runs here. scripts/setup has fetched every crate, so no build asks
# the network.
host_cargo() {
    local subcommand=$1
    shift
    PATH=$HOST_BIN:$PATH "$HOST_BIN/cargo" "$subcommand" --locked --offline "$@"
}
