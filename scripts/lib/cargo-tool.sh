# shellcheck shell=bash
# Sourced by scripts that need a cargo subcommand which is no part of Rust: kept under target/, in one version.

TOOLS_BIN=${root:?}/target/tools/bin

# cargo_tool NAME VERSION: installs it, unless SETUP=never forbids.
cargo_tool() {
    local name=$1 version=$2
    if [ "$("$TOOLS_BIN/$name" "${name#cargo-}" --version 2>/dev/null)" = "$name ${version}" ]; then return; fi
    [ "${SETUP:-}" != never ] ||
        die "needs $name $version: cargo install --locked --root target/tools $name@$version"
    echo "installing $name $version into target/tools"
    PATH=$HOST_BIN:$PATH "$HOST_BIN/cargo" install --quiet --locked --root "$root/target/tools" "$name@$version"
}
