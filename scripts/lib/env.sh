# shellcheck shell=bash
# What every script here wants of its environment. Sourced; $root is the repository.

# rustup's cargo is often not on the PATH of shells that are no login shells.
PATH=$PATH:${CARGO_HOME:-${HOME:-}/.cargo}/bin
# Artifacts have fixed places (target/...), wherever a developer's other projects build.
export CARGO_TARGET_DIR="${root:?}/target"
unset CARGO_BUILD_TARGET CARGO_BUILD_TARGET_DIR
