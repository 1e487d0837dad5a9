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

# kernel_dir: where Image and kernel.elf of the build that GRANULE and PROFILE name are.
kernel_dir() {
    local dir=target/kernel
    case ${GRANULE:-4k} in
    4k) ;;
    16k | 64k) dir=$dir/$GRANULE ;;
    *) die "GRANULE=$GRANULE: 4k, 16k or 64k is known" ;;
    esac
    case ${PROFILE:-release} in
    release) ;;
    debug) dir=$dir/debug ;;
    *) die "PROFILE=$PROFILE: release or debug is known" ;;
    esac
    echo "$dir"
}

# kernel_cpu: the CPU that boots it, unless CPU names one. Cortex-A72, as most of its time, has no 16 KiB granule.
kernel_cpu() {
    case ${GRANULE:-4k} in
    16k) echo "${CPU:-cortex-a76}" ;;
    *) echo "${CPU:-cortex-a72}" ;;
    esac
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
