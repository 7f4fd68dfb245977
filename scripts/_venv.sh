# Sourced by the other scripts, from the root of the checkout: makes .venv once and mends it
# if a first run was interrupted. Needs Python >= 3.11 with pip; no root, no HOME.

find_python() {
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "tsstream needs Python 3.11 or newer; no python3 on the PATH is that new." >&2
    return 1
}

venv_works() {
    [ ! -e .venv/unfinished ] &&
        .venv/bin/python -c 'import sys; sys.exit(sys.prefix == sys.base_prefix)' 2>/dev/null &&
        .venv/bin/python -m pip --version >/dev/null 2>&1
}

make_venv() {
    venv_works && return
    python=$(find_python)
    echo "Making .venv with $("$python" --version)..." >&2
    rm -rf .venv
    mkdir .venv
    : >.venv/unfinished
    # Debian keeps ensurepip in a package of its own; but any pip can install one into the venv.
    "$python" -m venv .venv >/dev/null 2>&1 || {
        "$python" -m venv --without-pip .venv
        "$python" -m pip --python .venv/bin/python install --quiet pip
    }
    rm .venv/unfinished
}

# venv_install NAME REQUIREMENT...: pip install, once. The file .venv/installed-NAME is empty while
# pip runs and holds the requirements afterwards; other ones, or a newer pyproject.toml, are
# installed again, and after an interruption from scratch.
venv_install() {
    make_venv
    mark=.venv/installed-$1
    shift
    if [ "$(cat "$mark" 2>/dev/null)" = "$*" ] && ! [ pyproject.toml -nt "$mark" ]; then
        return
    fi
    echo "Installing what it needs into .venv..." >&2
    force=
    if [ -e "$mark" ] && ! [ -s "$mark" ]; then
        force=--force-reinstall
    fi
    : >"$mark"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check $force "$@"
    echo "$*" >"$mark"
}
