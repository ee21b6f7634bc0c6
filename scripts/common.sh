# Sourced by the other scripts, never run: keeps .venv filled with the pinned versions.
#
#   install_package         what the package needs to run
#   install_package test    the test tools too
#
# The first call downloads and installs; later ones compare one file and return. After
# either, the working directory is the project's root and $VENV_PYTHON the interpreter.
# Set PYTHON to choose the Python that .venv is made with.

root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
VENV_PYTHON="$root/.venv/bin/python"
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}"

die() {
    printf '%s\n' "$*" >&2
    exit 1
}

# A Python that can make our .venv: 3.10 to 3.13, with the venv and ensurepip modules.
is_usable_python() {
    "$1" -c 'import sys, venv, ensurepip
version = sys.version_info[:2]
sys.exit(None if (3, 10) <= version <= (3, 13) else "it is Python %d.%d" % version)'
}

# Prints the last line of what one that is not has to say.
reason_against() {
    local said
    if said="$(is_usable_python "$1" 2>&1)"; then return; fi
    said="${said##*$'\n'}"
    printf '%s\n' "${said:-it does not start}"
}

# Under pyenv `python3.12` is a script that fails unless that version is switched on, though it may
# be installed: prints the path of the newest one that is, or what came.
beyond_pyenv() {
    local version
    if is_usable_python "$1" >/dev/null 2>&1 || ! command -v pyenv >/dev/null; then
        printf '%s\n' "$1"
        return
    fi
    version="$(pyenv whence "$1" 2>/dev/null || true)"
    version="${version##*$'\n'}"
    if [ -n "$version" ] && [ -x "$(pyenv root)/versions/$version/bin/$1" ]; then
        printf '%s\n' "$(pyenv root)/versions/$version/bin/$1"
    else
        printf '%s\n' "$1"
    fi
}

find_python() {
    local candidate reason
    # Not the Python of the .venv that is to be replaced, where that is activated.
    local own=":$root/.venv/bin:" PATH=":$PATH:"
    PATH=${PATH//"$own"/:}
    PATH="${PATH#:}"
    PATH="${PATH%:}"
    if [ -n "${PYTHON:-}" ]; then
        candidate="$(beyond_pyenv "$PYTHON")"
        reason="$(reason_against "$candidate")"
        [ -z "$reason" ] || die "PYTHON=$PYTHON is not a Python 3.10 to 3.13 with the venv module" \
            "($reason): set PYTHON to one that is, or unset it."
        command -v "$candidate"
        return
    fi
    for candidate in python3 python3.12 python3.13 python3.11 python3.10 python; do
        if is_usable_python "$candidate" >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    die "No Python 3.10 to 3.13 with the venv module is on the PATH: install one (on Debian and" \
        "Ubuntu: apt install python3-venv), or name it: PYTHON=/path/to/python3 $0"
}

# Puts the tests of an installed wheel, and what they read and import, into a folder without the
# sources.
copy_wheel_tests() {
    mkdir -p "$1/tests/docs"
    cp "$root/README.md" "$1"
    cp "$root/tests/project.py" "$1/tests"
    cp "$root"/tests/docs/{pages,test_readme,test_wheel}.py "$1/tests/docs"
}

version_of() {
    "$1" -c 'import sys; print(sys.version)' 2>/dev/null
}

# What .venv depends on: when this text changes, pip runs again.
describe_install() {
    printf '%s\n' "$1" "$root"
    version_of "$VENV_PYTHON"
    cat pyproject.toml requirements/*.txt
}

is_installed() {
    [ -f "$1" ] && [ "$(describe_install "$2")" = "$(cat "$1")" ]
}

# Turns pip's output into a line that shows where it is; all of it goes to the log.
show_progress() {
    local line count=0
    while IFS= read -r line; do
        printf '%s\n' "$line" >>"$1"
        case "$line" in
        Collecting*)
            count=$((count + 1))
            line="${line#Collecting }"
            if [ -t 1 ]; then
                printf '\r\033[K  %d packages found: %s' "$count" "${line%%[<>=!~;( ]*}"
            elif [ $((count % 10)) -eq 0 ]; then
                printf '  %d packages found\n' "$count"
            fi
            ;;
        "Installing collected packages"*)
            [ "$count" -ge 10 ] || continue
            if [ -t 1 ]; then printf '\r\033[K'; fi
            printf '  unpacking (a minute or two)\n'
            ;;
        esac
    done
}

run_pip() {
    local log="$root/.venv/install.log"
    "$VENV_PYTHON" -m pip install --disable-pip-version-check --no-color --progress-bar off "$@" \
        2>&1 | show_progress "$log" ||
        die "The install failed (is the network there?), run the same command again to start" \
            "anew; $(grep '^ERROR' "$log" | tail -n 1 || true) All of it is in $log"
}

# Whether .venv was made here: it bears a mark from its first moment on. An empty one, which a
# kill before that leaves, holds nothing.
is_made_here() {
    local mark
    for mark in .made-by-scripts .unfinished .installed-run .installed-test; do
        if [ -e "$root/.venv/$mark" ]; then
            return
        fi
    done
    [ -d "$root/.venv" ] && [ -z "$(ls -A "$root/.venv")" ]
}

install_package() {
    local kind="${1:-run}" python="" wanted_version=""
    local unfinished="$root/.venv/.unfinished" stamp="$root/.venv/.installed-$kind"
    cd "$root"

    if [ -n "${PYTHON:-}" ]; then
        python="$(find_python)" || exit 1
        wanted_version="$(version_of "$python")"
    fi
    # Two scripts at once: the second waits. pip inherits the lock, so that it stays held
    # as long as anything writes into .venv, even after this shell was killed.
    if command -v flock >/dev/null; then
        exec 9>"$root/.venv.lock"
        flock 9
    fi

    # Nothing is installed into someone's own environment, let alone removed.
    if { [ -e "$root/.venv" ] || [ -L "$root/.venv" ]; } && ! is_made_here; then
        die "Expected no $root/.venv or one that these scripts made, found another: move it away," \
            "and run the same command again to make one with the pinned versions."
    fi
    # pip cannot repair what it was killed in; what is unfinished or of another Python goes.
    if [ -e "$unfinished" ] || ! is_usable_python "$VENV_PYTHON" >/dev/null 2>&1 ||
        { [ -n "$python" ] && [ "$wanted_version" != "$(version_of "$VENV_PYTHON")" ]; }; then
        # Whatever can still be used stays until it is known that another can be made.
        [ -n "$python" ] || python="$(find_python)" || exit 1
        rm -rf "$root/.venv"
    fi

    # The test install holds all that running needs.
    if ! is_installed "$stamp" "$kind" && ! is_installed "$root/.venv/.installed-test" test; then
        if [ ! -d "$root/.venv" ]; then
            [ -n "$python" ] || python="$(find_python)" || exit 1
            mkdir "$root/.venv"
            touch "$unfinished"
            printf 'Making .venv with %s\n' "$("$python" --version)"
            "$python" -m venv "$root/.venv" || die "$python could not make a virtual environment."
        fi
        touch "$unfinished" "$root/.venv/.made-by-scripts"
        : >"$root/.venv/install.log"
        printf 'Installing the pinned versions into .venv (once; about 3 GB on disk)\n'
        # Nothing is taken whose hash is not in the lists. The pinned setuptools that is installed
        # first builds what has no wheel, and not one that pip would fetch for it.
        run_pip --require-hashes --requirement requirements/build.txt
        run_pip --require-hashes --no-build-isolation --requirement "requirements/$kind.txt"
        # The lists hold all that the package needs: pip refuses to hash what is editable.
        run_pip --no-deps --no-build-isolation --editable .
        rm -f "$root"/.venv/.installed-*
        describe_install "$kind" >"$stamp"
        rm -f "$unfinished"
        printf 'Installed.\n'
    fi
    exec 9>&-
}
