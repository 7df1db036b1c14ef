#!/bin/sh
# Prepares a checkout: system packages (tools/packages.txt), the virtual environment .venv, anyarch itself.
#
#   tools/setup.sh base|demo|test|nightly|lint|bench
#
# Says what it installs and why, does nothing twice, and with nothing to do takes a few hundredths of a second.
set -eu

purpose=${1:-base}
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export LC_ALL=C.UTF-8
log=.cache/setup.log
mkdir -p .cache

say() { printf '%s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
# Run a command with its output in the log; on failure show the end of it.
quietly() {
    if ! "$@" </dev/null >>"$log" 2>&1; then
        tail -n 30 "$log" >&2
        fail "'$*' failed (whole output: $log)"
    fi
}

# --- Python ---

find_python() {
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is needed, and no python3 here is one (set PYTHON=... to name it; Debian: apt-get install python3)"
}

# --- System packages ---

is_there() { # package, program
    case $2 in
        -) [ -x .venv/bin/python ] || "$(find_python)" -c 'import ensurepip, venv' </dev/null 2>/dev/null ;;
        *) command -v "$2" >/dev/null ;;
    esac
}

# A package's service must not start, now or at the next boot, because a program of it is wanted. Debian asks policy-rc.d
# before any start. One that stands there and says no is left as it is; any other is put back afterwards.
policy=/usr/sbin/policy-rc.d
forbid_services() {
    if [ -x "$policy" ] && ! grep -q 'anyarch set-up' "$policy"; then
        status=0
        "$policy" docker-registry start >/dev/null 2>&1 || status=$?
        [ "$status" != 101 ] || return 0
        mv "$policy" "$policy.before-anyarch"
    fi
    trap allow_services EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\n# anyarch set-up: no service starts while packages are installed\nexit 101\n' >"$policy"
    chmod 755 "$policy"
}
allow_services() {
    if grep -q 'anyarch set-up' "$policy" 2>/dev/null; then rm "$policy"; fi
    if [ -e "$policy.before-anyarch" ]; then mv "$policy.before-anyarch" "$policy"; fi
    trap - EXIT INT TERM HUP
}

install_packages() { # packages...
    if [ "$(id -u)" != 0 ]; then
        fail "not root, so this has to be done by hand:  sudo apt-get install --no-install-recommends $*"
    fi
    command -v apt-get >/dev/null || fail "no apt-get here: install the programs named above by other means, then run this again"
    export DEBIAN_FRONTEND=noninteractive
    set -- apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 install "$@"
    forbid_services
    # Fresh lists are fetched only where there are none, or the ones there are name files that are gone.
    if ! "$@" </dev/null >>"$log" 2>&1; then
        say "  refreshing the package lists (apt-get update)"
        quietly apt-get -q -o DPkg::Lock::Timeout=300 update
        quietly "$@"
    fi
    if command -v systemctl >/dev/null; then
        case " $* " in
            *" docker-registry "*) quietly systemctl disable docker-registry.service ;;
        esac
    fi
    allow_services
}

system_packages() {
    missing=
    while IFS='|' read -r package program purposes why; do
        package=$(echo $package) program=$(echo $program)
        case $package in '#'* | '') continue ;; esac
        case " $purposes " in *" $purpose "* | *" base "*) ;; *) continue ;; esac
        if ! is_there "$package" "$program"; then
            [ -n "$missing" ] || say "Installing Debian packages:"
            say "  $package:$why"
            missing="$missing $package"
        fi
    done <tools/packages.txt
    if [ -n "$missing" ]; then install_packages $missing; fi
}

# --- The virtual environment ---

# A stamp holds what the environment was made from; another content, or a moved checkout, makes it anew.
stamp_of() { { cat pyproject.toml tools/setup.sh; pwd; echo "$1"; } | sha256sum | cut -d ' ' -f 1; }
is_stamped() { [ "$(cat ".venv/stamp-$1" 2>/dev/null)" = "$(stamp_of "$1")" ]; }

environment() { # extras: nothing, or dev
    if is_stamped dev || { [ -z "$1" ] && is_stamped runtime; }; then return; fi
    python=$(find_python)
    # A checkout that was moved or copied has scripts that name the old place.
    if ! .venv/bin/python -c 'import pip' 2>/dev/null || ! head -n 1 .venv/bin/pip | grep -qF "#!$(pwd)/.venv/"; then
        say "Making the virtual environment .venv ($("$python" --version))"
        rm -rf .venv
        quietly "$python" -m venv .venv
    fi
    if [ -n "$1" ]; then
        say "Installing anyarch with its Python dependencies and the development tools into .venv"
        .venv/bin/python tools/dev_requirements.py >.cache/dev-requirements.txt
        quietly .venv/bin/python -m pip install --disable-pip-version-check -q -e . -r .cache/dev-requirements.txt
        stamp_of dev >.venv/stamp-dev
    else
        say "Installing anyarch with its Python dependencies into .venv"
        quietly .venv/bin/python -m pip install --disable-pip-version-check -q -e .
        stamp_of runtime >.venv/stamp-runtime
    fi
    # BuildKit's clients and tests look for this name. Only here: an installed package shadows no daemon of that name.
    ln -sf anyarchd .venv/bin/buildkitd
}

case $purpose in
    base) system_packages; environment "" ;;
    demo | bench) system_packages; environment "" ;;
    test | nightly | lint) system_packages; environment dev ;;
    *) fail "unknown purpose '$purpose' (base, demo, test, nightly, lint, bench)" ;;
esac
