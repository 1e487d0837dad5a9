# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # say.sh and setup share their variables with this
# Which Rust builds what. Sourced by scripts/setup.
#
# Two jobs: the host's (boot tester, tests, formatting) and the bare-metal target's (the kernel). The second
# needs a `core` for the target: prebuilt in the sysroot (rustup's target), or built by cargo from the library
# source that belongs to that very compiler (-Zbuild-std; rustup's rust-src, or Debian's packages).
#
# Results: HOST_BIN and BARE_BIN (directories with cargo, rustc, rustdoc ...), BARE_MODE (target or build-std),
# BARE_LINKER (empty: rustc finds its own), ASKED (the question they answer). `instead`: what would do in place of
# the Rust packages.

TARGET=aarch64-unknown-none-softfloat
MINIMUM=$(sed -n 's/^rust-version = "1\.\([0-9]*\).*/\1/p' "$root/Cargo.toml")
GET_RUST="curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y"

# new_enough 1.96.0+dfsg...: can this version build the project?
new_enough() {
    local minor=${1#1.}
    minor=${minor%%.*}
    case "$1" in
    1.[0-9]*.*) [ "$minor" -ge "$MINIMUM" ] 2>/dev/null ;;
    *) false ;;
    esac
}

version_of() {
    local line
    line=$("$1" --version 2>/dev/null) || return 1
    line=${line#rustc }
    echo "${line%% *}"
}

# The sysroot of the compiler that a plain `cargo build` would use here, if it works and is new enough.
ordinary_sysroot() {
    local sysroot
    new_enough "$(version_of rustc)" || return 1
    sysroot=$(rustc --print sysroot 2>/dev/null) || return 1
    [ -x "$sysroot/bin/cargo" ] && echo "$sysroot"
}

# Did rustup install this sysroot, and can it add to it?
by_rustup() { have rustup && [ -f "$1/lib/rustlib/multirust-channel-manifest.toml" ]; }

has_target() {
    local lib="$1/lib/rustlib/$TARGET/lib"
    compgen -G "$lib/libcore-*.rlib" >/dev/null && compgen -G "$lib/libcompiler_builtins-*.rlib" >/dev/null
}

has_source() {
    [ -f "$1/lib/rustlib/src/rust/library/Cargo.lock" ] && [ -x "$1/bin/rustc" ] && [ -x "$1/bin/cargo" ]
}

# Is what an earlier run found still there, and did it answer the same question?
rust_still_good() {
    [ "${ASKED:-}" = "$asked" ] && [ -x "${HOST_BIN:-}/cargo" ] && [ -x "${BARE_BIN:-}/cargo" ] || return 1
    case "${BARE_MODE:-}" in
    target) has_target "${BARE_BIN%/bin}" ;;
    build-std) has_source "${BARE_BIN%/bin}" && have "${BARE_LINKER:-}" ;;
    *) false ;;
    esac
}

look_for_rust() {
    rust_still_good && return
    ASKED=$asked HOST_BIN='' BARE_BIN='' BARE_MODE='' BARE_LINKER='' instead=''
    look_for_host
    [ "$route" = debian ] || look_for_target
    [ -n "$BARE_BIN" ] || look_for_source
    [ -z "$BARE_BIN" ] || return
    local command=$GET_RUST
    if have rustup; then
        command="rustup target add $TARGET"
        by_rustup "${HOST_BIN%/bin}" || command="rustup toolchain install stable && $command"
    fi
    if [ ${#packages[@]} = 0 ]; then missing "$command"; elif [ "$route" = auto ]; then instead=$command; fi
}

# Compiler and cargo for the host. That rust-toolchain.toml's channel is not installed yet is common on
# build machines.
look_for_host() {
    local sysroot
    if ! sysroot=$(ordinary_sysroot) && may_fetch && have rustup && [ "$phase" = 1 ]; then
        step "rustup: installing the stable toolchain" rustup toolchain install stable --profile default ||
            show_log
        sysroot=$(ordinary_sysroot)
    fi
    if [ -z "$sysroot" ] && new_enough "$(version_of /usr/bin/rustc)" && [ -x /usr/bin/cargo ]; then
        sysroot=/usr
    fi
    [ -z "$sysroot" ] || HOST_BIN=$sysroot/bin
}

# The target in the sysroot of the host's compiler; rustup can put it there.
look_for_target() {
    [ -n "$HOST_BIN" ] || return 1
    local sysroot=${HOST_BIN%/bin}
    if ! has_target "$sysroot" && [ "$phase" = 1 ] && may_fetch && by_rustup "$sysroot"; then
        hold=rustup
        step "rustup: adding the target $TARGET" rustup target add "$TARGET" || show_log
        hold=
    fi
    has_target "$sysroot" || return 1
    BARE_BIN=$HOST_BIN BARE_MODE=target
}

# A compiler with the source of its own library, and a linker for it.
look_for_source() {
    local set ours=${HOST_BIN%/bin}
    source_in "$ours" || source_in /usr
    # Not every release of Rust has the target prebuilt, but each has its source.
    if [ -z "$BARE_BIN" ] && [ "$route" != debian ] && [ "$phase" = 1 ] && may_fetch && by_rustup "$ours"; then
        hold=rustup
        step "rustup: adding the library's source" rustup component add rust-src || show_log
        hold=
        source_in "$ours"
    fi
    if [ -z "$BARE_BIN" ]; then
        { [ "$route" != rustup ] && set=$(debian_rust); } || return
        # shellcheck disable=SC2086  # five package names
        set -- $set
        packages+=("$1" "$2" "$3")
    fi
    look_for_linker
}

source_in() {
    case "$route $1" in
    debian\ /usr | auto\ /*) ;;
    rustup\ *) by_rustup "$1" || return 1 ;;
    *) return 1 ;;
    esac
    has_source "$1" && new_enough "$(version_of "$1/bin/rustc")" || return 1
    BARE_BIN=$1/bin BARE_MODE=build-std
}

# rustc calls its linker rust-lld: in rustup's sysroot, or on PATH. Any lld will do.
look_for_linker() {
    local lld
    for lld in "${HOST_BIN%/bin}"/lib/rustlib/*/bin/rust-lld rust-lld ld.lld; do
        if have "$lld"; then
            BARE_LINKER=$(command -v "$lld")
            return
        fi
    done
    need lld "ld.lld, LLVM's linker"
}

# What `make test` needs besides: clippy for host and target; the host's rustfmt formats everything.
look_for_lint() {
    lint "$HOST_BIN" cargo-clippy cargo-fmt
    [ "$BARE_BIN" = "$HOST_BIN" ] || lint "$BARE_BIN" cargo-clippy
}

lint() {
    local bin=$1 tool set lacking=
    shift
    for tool; do [ -x "$bin/$tool" ] || lacking=1; done
    [ -n "$lacking" ] || return 0
    # No compiler yet, and Debian's is not wanted: look_for_rust has said what to do.
    if [ -z "$bin" ] && [ "$route" = rustup ]; then return 0; fi
    if by_rustup "${bin%/bin}"; then
        if [ "$phase" = 1 ] && may_fetch; then
            step "rustup: adding clippy and rustfmt" rustup component add clippy rustfmt && return
            show_log
        fi
        missing "rustup component add clippy rustfmt"
    elif set=$(debian_rust); then
        # shellcheck disable=SC2086  # five package names
        set -- "$*" $set
        packages+=("$5")
        case $1 in *fmt*) packages+=("$6") ;; esac
    elif [ -n "$bin" ]; then
        missing "# clippy and rustfmt beside $bin/rustc"
    fi
}
