# Sourced by scripts/train, scripts/test, scripts/docs, scripts/benchmark and .ci/run: `ensure_venv` makes .venv ready, once.
#
# It says what it does in a line on stderr; every failure is one sentence with its remedy, exit
# code 2 (6: storage). Needs bash and Debian's essential tools. Its files in .venv:
#   looplab.made         this .venv is ours, from its first moment; no other is ever emptied
#   looplab.lock         one install at a time
#   looplab.stamp        what is installed, written last: an install that was cut short has none
#   looplab-install.log  all that venv and pip said
#
# LOOPLAB_PYTHON names the interpreter to make .venv with (delete .venv to change it later).

here=$(readlink -f "${BASH_SOURCE[0]}")
root=${here%/scripts/*}
venv=$root/.venv
log=$venv/looplab-install.log
supported="3.11, 3.12 or 3.13"

say() { printf 'looplab: %s\n' "$*" >&2; }

die() { # CODE SENTENCE
    say "$2"
    exit "$1"
}

# The place and the interpreter belong to the state: .venv cannot be moved, and a system upgrade
# can put another Python behind the same link.
place() { printf '%s\n' "$root" "$(readlink -f "$venv/bin/python")"; }

wanted() { place && cat "$root/requirements.lock" "$root/pyproject.toml"; }

is_ready() { [ -x "$venv/bin/python" ] && wanted | cmp -s - "$venv/looplab.stamp"; }

ensure_venv() {
    if is_ready; then return; fi
    local error
    error=$({ mkdir -p "$venv" && : >>"$venv/looplab.lock"; } 2>&1) ||
        die 6 "cannot write to $venv (${error##*: }): make room or give the right to write, and start again"
    exec 9>>"$venv/looplab.lock"
    if ! flock -n 9; then
        say "another start is installing into .venv; waiting for it ..."
        flock 9 || say "cannot lock on this file system: start one command at a time until .venv is ready"
    fi
    if ! is_ready; then
        trap 'die 130 "interrupted: the next start begins the installation again"' INT
        trap 'die 143 "terminated: the next start begins the installation again"' TERM
        install
        trap - INT TERM
    fi
    exec 9>&-
}

install() {
    local output="" version="" made_at packages
    packages=$(sed -n 's/^\([A-Za-z0-9._-]*\)==.*/\1/p' "$root/requirements.lock" | sort -u | wc -l)
    local what="requirements.lock ($packages packages; once, about a minute; log: $log) ..."

    if is_ours && made_at=$(head -n 2 "$venv/looplab.stamp" 2>&1) &&
        [ -x "$venv/bin/python" ] && [ "$made_at" = "$(place)" ]; then
        say "requirements.lock or pyproject.toml has changed: updating .venv (log: $log) ..."
    elif is_ours || is_empty; then
        choose_python
        [ -L "$venv" ] || : >"$venv/looplab.made"
        find "$venv/" -mindepth 1 ! -name looplab.made ! -name looplab.lock -delete
        say "creating .venv with Python $version and installing $what"
        attempt "$python" -I -m venv "$(readlink -f "$venv")" || explain "python -m venv failed"
    else
        version=$(probe "$venv/bin/python") ||
            die 2 "$venv was not made by looplab and has no Python $supported: move it away, and start again"
        version=${version% *}
        say "using the .venv that is already here (Python $version) and installing $what"
        "$venv/bin/python" -I -m pip --version >/dev/null 2>&1 ||
            attempt "$venv/bin/python" -I -m ensurepip || explain "python -m ensurepip failed"
    fi

    # From here until the end there is no stamp; pip that merely fails (no network) leaves the
    # old packages as they were, and so the old stamp comes back.
    rm -f "$venv/looplab.stamp.old"
    [ ! -e "$venv/looplab.stamp" ] || mv "$venv/looplab.stamp" "$venv/looplab.stamp.old"
    wanted >"$venv/looplab.stamp.new" || is_full
    if ! install_packages; then
        [ ! -e "$venv/looplab.stamp.old" ] || mv "$venv/looplab.stamp.old" "$venv/looplab.stamp"
        explain "pip failed"
    fi
    mv "$venv/looplab.stamp.new" "$venv/looplab.stamp" || is_full
}

# Nothing is downloaded that the lock does not name: what builds source packages (antlr4's Python
# runtime has no wheel) comes from the lock too, and first.
install_packages() {
    local builders=$venv/looplab-builders.txt
    awk '/^[^ #]/ { on = /^(packaging|setuptools|wheel)==/ } on' "$root/requirements.lock" >"$builders"
    if [ -s "$builders" ]; then
        pip_install --require-hashes -r "$builders" || return 1
    fi
    pip_install --require-hashes --no-build-isolation -r "$root/requirements.lock" &&
        pip_install --no-deps --no-build-isolation --no-index -e "$root"
}

pip_install() {
    attempt "$venv/bin/python" -I -m pip install \
        --disable-pip-version-check --no-input --progress-bar off "$@"
}

# Runs a command; what it says goes to the log and to $output (a full disk takes no log).
attempt() { output=$("$@" 2>&1 </dev/null | tee -a "$log" 2>&1); }

is_empty() {
    [ -z "$(find "$venv/" -mindepth 1 ! -name looplab.lock ! -name looplab-install.log -print -quit)" ]
}

# A link is the user's own arrangement: never ours to empty.
is_ours() { [ ! -L "$venv" ] && [ -e "$venv/looplab.made" ]; }

# Prints "VERSION CAN_MAKE_VENV" of a Python that runs and is supported; otherwise its version
# alone, or nothing, and fails (pyenv leaves shims on PATH that do not run).
probe() {
    "$1" -I -c '
import sys
from importlib.util import find_spec
version = "%d.%d.%d" % sys.version_info[:3]
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit(print(version) or 1)
print(version, "yes" if find_spec("venv") and find_spec("ensurepip") else "no")
' 2>/dev/null </dev/null
}

# Sets $python and $version.
choose_python() {
    local candidate answer refused="" without_venv=""
    local candidates=(python3 python3.13 python3.12 python3.11)
    [ -z "${LOOPLAB_PYTHON:-}" ] || candidates=("$LOOPLAB_PYTHON")
    for candidate in "${candidates[@]}"; do
        if ! answer=$(probe "$candidate"); then
            refused=${refused:-${answer:+$candidate is Python $answer}}
        elif [ "${answer#* }" = no ]; then
            without_venv=${without_venv:-$candidate (Python ${answer% *})}
        else
            python=$candidate version=${answer% *}
            return
        fi
    done
    [ -z "$without_venv" ] ||
        die 2 "$without_venv has no venv and ensurepip modules: install them (Debian: apt install python3-venv), and start again"
    [ -z "$refused" ] ||
        die 2 "$refused, and looplab needs $supported: install one, or name it in LOOPLAB_PYTHON"
    [ -z "${LOOPLAB_PYTHON:-}" ] ||
        die 2 "LOOPLAB_PYTHON=$LOOPLAB_PYTHON does not run: give it the path of a Python $supported"
    die 2 "no python3 was found that runs: install Python $supported (Debian: apt install python3 python3-venv), or name one in LOOPLAB_PYTHON"
}

# Says why `attempt` failed, and ends.
explain() { # WHAT_FAILED
    local last
    case $output in
        *"No space left on device"* | *"Disk quota exceeded"*)
            is_full ;;
        *"DO NOT MATCH THE HASHES"*)
            die 2 "a downloaded package is not the one that requirements.lock names: start again, and if that does not help, ask whoever runs your package index or proxy (log: $log)" ;;
        *"connection broken by"* | *"Failed to establish a new connection"* | *"Could not fetch URL"* | \
            *ConnectionError* | *ProxyError* | *SSLError* | *"timed out"* | *"name resolution"*)
            die 2 "pip could not reach the package index: connect this machine to the network, or give pip its proxy (HTTPS_PROXY) or mirror (PIP_INDEX_URL), and start again (log: $log)" ;;
    esac
    # A step of venv can hide what its own child said: try the disk itself.
    head -c 2000000 /dev/zero 2>/dev/null >"$venv/looplab.probe" || is_full
    rm -f "$venv/looplab.probe"
    last=$(printf '%s\n' "$output" | grep -i '^error' | tail -n 1)
    die 2 "$1${last:+ ($last)}: the log, $log, says why; mend it, and start again"
}

is_full() {
    rm -f "$venv/looplab.probe"
    die 6 "the disk is full: make room for about 3 GB in $venv, and for 1 GB in ${TMPDIR:-/tmp}, where pip unpacks, and start again (log: $log)"
}
