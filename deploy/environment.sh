# What the scripts venv*.sh share; read by them, not run.

# Ends with a sentence where PYTHON cannot make an environment of this project.
supported() {
    if ! "$1" -c '' 2>/dev/null; then
        echo "'$1' does not run; expected Python 3.11, 3.12 or 3.13. On Debian or Ubuntu: apt install python3 python3-venv, then: make PYTHON=python3 ..." >&2
        exit 2
    fi
    if ! "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then
        version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        case $version in
        3.1[4-9] | 3.[2-9]?) why="is newer than what Barograph is tested with" ;;
        *) why="is too old" ;;
        esac
        echo "Python $version ('$1') $why; supported are 3.11, 3.12 and 3.13: make PYTHON=python3.13 ..." >&2
        exit 2
    fi
    if ! "$1" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "'$1' has no venv; on Debian or Ubuntu: apt install python3-venv" >&2
        exit 2
    fi
}

# Makes the environment, says which index its packages come from, and sets $pip. An interrupted one has no .ready and is made anew.
environment() {
    rm -rf "$2"
    "$1" -m venv "$2"
    pip="$2/bin/python -m pip --disable-pip-version-check --quiet"
    "$2/bin/python" "$deploy/index.py"
}

# Installs torch $1; further words go to pip. Without an NVIDIA driver the build for CPUs is enough and several gigabytes smaller, but package
# registries have only the one for CUDA, which runs on a processor as well and brings NVIDIA's libraries: 6 to 7 GB an environment.
torch() {
    torch=$1 needs=8.5
    shift
    index=""
    if ! command -v nvidia-smi >/dev/null 2>&1; then
        index=$("$venv/bin/python" "$deploy/index.py" torch "$torch")
        if [ -n "$index" ]; then
            echo "      the build for CPUs"
            needs=4
        else
            echo "      the build for CUDA, 6 to 7 GB with what it brings; TORCH_INDEX=URL names an index that has torch $torch+cpu"
        fi
    fi
    "$venv/bin/python" "$deploy/room.py" "$venv" $needs
    $pip install ${index:+--extra-index-url "$index"} "$@" "torch==$torch${index:++cpu}"
}
