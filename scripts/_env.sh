# Sourced by the scripts beside it: finds Python and uv, and makes a virtual environment.
# shellcheck shell=bash

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# Bytecode is kept. Else each process of the tests would compile them all, and each server the
# package: 0.13 s of a start.
unset PYTHONDONTWRITEBYTECODE

say() { printf '%s\n' "$*" >&2; }
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

version_of() { # PYTHON: its version as "3.13", nothing if it does not run
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

# Print the path of an interpreter. $1: a version ("3.14"), a path, or nothing for any that will do.
find_python() {
    local wanted candidate
    case ${1:-} in
    */*)
        [ -n "$(version_of "$1")" ] || die "$1 is not a Python that runs"
        printf '%s\n' "$1"
        return
        ;;
    esac
    for wanted in ${1:-3.13 3.14}; do
        for candidate in \
            "python$wanted" python3 \
            ~/.pyenv/versions/"$wanted".*/bin/python \
            "/opt/python$wanted/bin/python$wanted"; do
            if [ "$(version_of "$candidate")" = "$wanted" ]; then
                "$candidate" -c 'import sys; print(sys.executable)'
                return
            fi
        done
    done
    # uv knows more places, and can fetch an interpreter where the network lets it.
    find_uv >/dev/null
    for wanted in ${1:-3.13 3.14}; do
        if "$(find_uv)" python install --quiet --no-bin "$wanted" >&2 &&
            "$(find_uv)" python find --no-project "$wanted"; then
            return
        fi
    done
    die "needs Python ${1:-3.13 or newer}: not on PATH, not in ~/.pyenv/versions, and uv could not fetch it"
}

# Print the path of uv, installing it into a virtual environment of its own if there is none.
find_uv() {
    local own=$repo/.venv-uv candidate python
    # A pyenv shim is on PATH even where the chosen Python has no uv, so ask it to run.
    for candidate in uv "$own/bin/uv" ~/.local/bin/uv; do
        if "$candidate" --version >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    say "uv is missing: installing it into ${own#"$repo"/}"
    for python in python3 python3.13 python3.14 ~/.pyenv/versions/3.1*/bin/python; do
        [ -n "$(version_of "$python")" ] || continue
        rm -rf "$own"
        if "$python" -m venv "$own" >/dev/null 2>&1 &&
            "$own/bin/python" -m pip install --quiet uv >&2; then
            printf '%s\n' "$own/bin/uv"
            return
        fi
        if "$python" -m pip install --quiet --user uv >&2 && ~/.local/bin/uv --version >/dev/null 2>&1; then
            printf '%s\n' ~/.local/bin/uv
            return
        fi
    done
    die "needs uv, and could not install it: there is no Python 3 with pip, or no package index to reach"
}

# make_venv DIR PYTHON ARGUMENTS...: a virtual environment at DIR with what `uv pip install
# ARGUMENTS` brings. Left alone if it was made like this before: remove DIR to renew it.
make_venv() {
    local dir=$1 python=$2 uv stamp
    shift 2
    stamp="$dir $("$python" -c 'import sys; print(sys.base_prefix)') $* $(cksum <"$repo/pyproject.toml")"
    if [ -n "$(version_of "$dir/bin/python")" ] &&
        [ "$(cat "$dir/.stamp" 2>/dev/null)" = "$stamp" ]; then
        return
    fi
    say "setting up ${dir#"$repo"/} ($(version_of "$python"))"
    uv=$(find_uv)
    rm -rf "$dir"
    "$uv" venv --quiet --no-project --python "$python" "$dir"
    (cd "$repo" && "$uv" pip install --quiet --python "$dir/bin/python" "$@")
    printf '%s\n' "$stamp" >"$dir/.stamp"
}
