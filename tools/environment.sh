# shellcheck shell=sh
# Sourced by the shell scripts of tools/, from the project's directory.

say() { printf '%s\n' "$*" >&2; }

# Installs missing Debian packages, as root; lists them for other users.
need_packages() {
    missing=
    for package in "$@"; do
        state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$state" = installed ] || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ]; then
        say "Debian packages are missing; install them as root: apt-get install$missing"
        return 1
    fi
    say "Installing$missing"
    # shellcheck disable=SC2086
    # Run level 1: no package begins to serve anything (invoke-rc.d(8)).
    { apt-get -q update && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get -q install -y --no-install-recommends $missing; } >&2
}

# The Debian packages that the tests use.
need_test_packages() {
    # Chromium shows pages; Ubuntu has it as a snap only.
    browser=chromium-headless-shell
    ! grep -q '^ID.*ubuntu' /etc/os-release || browser=

    # shellcheck disable=SC2086
    need_packages $browser e2fsprogs fish g++ make mandoc nginx-light ninja-build openssh-sftp-server \
        patch procps rsync shellcheck sshfs strace util-linux zsh
}

find_python() {
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        command -v "$candidate"
        return 0
    done
    say "Python 3.11 or newer is needed, but PATH has none."
    return 1
}

# Makes a virtual environment with this project in it, and puts its commands first in PATH.
# $1 is the extra to install ("", "[test]" or "[bench]"), $2 the directory (.venv), $3 the Python,
# and $4 a file of constraints for pip (none).
make_environment() {
    venv=${2:-.venv}
    python=${3:-$(find_python)} || return 1
    made_for="$PWD $(cat pyproject.toml "${4:-/dev/null}" | cksum) $("$python" -V)"
    made=$(cat "$venv/made-for" 2>/dev/null || true)
    if [ "$made" != "$made_for $1" ] && [ "$made" != "$made_for [test]" ]; then
        say "Setting up $venv with $("$python" -V)"
        if ! "$python" -c 'import ensurepip' 2>/dev/null; then
            version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
            need_packages "python$version-venv" || return 1
        fi
        "$python" -m venv --clear "$venv"
        "$venv/bin/python" -m pip --disable-pip-version-check install -q -c "${4:-/dev/null}" -e ".$1" >&2 || return 1
        printf '%s' "$made_for $1" >"$venv/made-for"
    fi
    PATH=$PWD/$venv/bin:$PATH
    export PATH
}
