# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # say.sh and setup share their variables with this
# Debian and Ubuntu packages: which ones, may we install them, and the installing. Sourced by scripts/setup.

may=        # answer of may_install, once known: 0 yes, 1 no
updated=    # non-empty once the package lists are fresh

have() { command -v "$1" >/dev/null 2>&1; }
under_ci() { [ -n "${CI:-}" ] && [ "${CI:-}" != false ]; }

# May this run install packages? Root and CI: yes. A person is asked, once.
may_install() {
    [ -z "$may" ] || return "$may"
    may=1
    if [ "$(id -u)" = 0 ]; then
        may=0
    elif ! have sudo; then
        complain "not root, and there is no sudo"
    elif [ -t 0 ] && [ -t 1 ] && ! under_ci; then
        local answer
        printf 'setup: install them now with sudo? [Y/n] '
        read -r answer || answer=n
        case $answer in
        '' | [yY]*) sudo -v && may=0 ;;
        esac
    elif sudo -n true 2>/dev/null; then
        may=0
    else
        complain "not root, and sudo wants a password but there is no terminal to ask on"
    fi
    if [ "$may" = 0 ] && [ "$(id -u)" != 0 ]; then sudo="sudo -n"; fi
    return "$may"
}

apt() {
    # shellcheck disable=SC2086  # $sudo is empty or two words
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=2 \
        -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30 "$@"
}

apt_knows() {
    local package
    for package; do
        case $package in -*) continue ;; esac
        apt-cache show --no-all-versions "$package" >/dev/null 2>&1 || return 1
    done
}

apt_update() {
    updated=1
    step "asking the package mirror for its lists" apt update || { show_log; return 1; }
    # For apt that is a warning: the old lists may do.
    if grep -q '^W: Some index files failed' "$log"; then show_log; fi
}

# apt_install PACKAGE...: downloads first, which Ctrl-C may cut short, then unpacks, which nothing should.
apt_install() {
    local install=(install --no-install-recommends --no-remove) status=0
    if ! step "downloading packages" apt "${install[@]}" --download-only "$@"; then
        # Old lists name files that the mirror no longer has.
        if [ -n "$updated" ]; then show_log; return 1; fi
        apt_update || return 1
        step "downloading packages" apt "${install[@]}" --download-only "$@" || { show_log; return 1; }
    fi
    hold=dpkg
    step "installing packages" apt "${install[@]}" "$@" || { show_log; status=1; }
    hold=
    return $status
}

candidate() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: *//p'; }

# QEMU, and beside it the qemu-utils of the same version where one from elsewhere (backports, say) would have to
# go for it: apt would remove that without a replacement.
debian_qemu() {
    packages+=(qemu-system-arm)
    if apt-get -s install --no-install-recommends qemu-system-arm 2>/dev/null | grep -q '^Remv qemu-utils '; then
        packages+=(--allow-downgrades "qemu-utils=$(candidate qemu-system-arm)")
    fi
}

# The distribution's Rust, as the packages "compiler cargo source clippy rustfmt". Debian keeps one that is
# new enough for its browsers (-web) beside the one of its release. With no package lists yet: a guess.
debian_rust() {
    local web="rustc-web cargo-web rust-web-src rust-web-clippy rustfmt-web" set
    have apt-get || return 1
    for set in "$web" "rustc cargo rust-src rust-clippy rustfmt"; do
        if new_enough "$(candidate "${set%% *}")"; then
            echo "$set"
            return
        fi
    done
    [ -z "$updated" ] && ! apt_knows rustc && echo "$web"
}
