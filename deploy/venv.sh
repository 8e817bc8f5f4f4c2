# Sourced by deploy/up and tests/run: one virtual environment for both, from a lock that pip takes as it is.
# After `use_venv LOCK` $python is that environment's; nothing is installed unless the lock has changed.

me=${0%/*}
me=${me##*/}/${0##*/}

fail() { # fail SENTENCE
    echo "$me: $1" >&2
    exit 2
}

good_python() { # good_python PROGRAM
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null
}

find_python() {
    local name
    for name in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
        [ -n "$name" ] && command -v "$name" >/dev/null || continue
        if good_python "$name"; then
            command -v "$name"
            return
        fi
    done
    fail "Python 3.11, 3.12 or 3.13 is needed and none is on PATH$(command -v python3 >/dev/null &&
        python3 -c 'import sys; print(" (python3 is %d.%d)" % sys.version_info[:2])'); name one with PYTHON=/path/to/python."
}

unless_stopped() { # unless_stopped COMMAND...   Its output goes to the log. Ctrl-C ends it, all it started, and this.
    setsid "$@" >"$root/.venv/install.log" 2>&1 9>&- &
    trap "stop_installing $!" INT TERM HUP
    local code=0
    wait $! || code=$?
    trap - INT TERM HUP
    return $code
}

stop_installing() { # stop_installing PROCESS_GROUP
    trap - INT TERM HUP
    kill -- "-$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
    echo "$me: Stopped; what is missing in .venv is installed next time." >&2
    exit 1
}

use_venv() { # use_venv LOCK
    # Every process would compile every module anew, which takes longer than most of what is done here.
    unset PYTHONDONTWRITEBYTECODE
    local lock=$1 venv=$root/.venv stamp wanted
    python=$venv/bin/python
    stamp=$venv/installed-${lock//\//-}
    wanted=$(cksum <"$root/$lock")
    [ -x "$python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && return
    [ "$(uname)" = Linux ] || fail "this runs on Linux only."
    mkdir -p "$venv" 2>/dev/null && [ -w "$venv" ] || fail "$venv can't be written; use a copy of the project that is yours."
    # Two that start at once must not install over each other.
    exec 9>"$venv/lock"
    if ! flock -n 9; then
        echo "another start is installing into .venv; waiting for it ..."
        flock 9
    fi
    [ -x "$python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exec 9>&- && return
    if [ -x "$python" ] && ! good_python "$python"; then
        fail "$venv was made with another Python than 3.11, 3.12 or 3.13; remove that folder and start again."
    fi
    if ! "$python" -c 'import pip' 2>/dev/null; then
        local base
        base=$(find_python) || exit 2
        unless_stopped "$base" -m venv "$venv" ||
            fail "$base can't make virtual environments; on Debian and Ubuntu: apt install python3-venv."
    fi
    echo "installing $lock into .venv (about 150 MB the first time) ..."
    # Everything is in the lock, so there is nothing to resolve.
    unless_stopped "$python" -m pip install --no-deps --disable-pip-version-check --quiet -r "$root/$lock" || {
        tail -n 3 "$venv/install.log" >&2
        fail "pip could not install $lock; all of its output is in $venv/install.log."
    }
    echo "$wanted" >"$stamp"
    exec 9>&-
}
