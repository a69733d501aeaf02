#!/bin/sh
# Make a virtual environment with pinned packages and this project in it: deploy/venv.sh PYTHON FOLDER
set -eu
python=$1 venv=$2
cd "$(dirname "$0")/.."

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "needs Python 3.11 or later as '$python'; on Debian or Ubuntu: apt install python3.11 python3.11-venv, then: make PYTHON=python3.11 ..." >&2
    exit 2
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "this Python has no venv; on Debian or Ubuntu: apt install python3-venv" >&2
    exit 2
fi

echo "[1/3] virtual environment in $venv"
rm -rf "$venv"
"$python" -m venv "$venv"
pip="$venv/bin/python -m pip --disable-pip-version-check --quiet"

# Without CUDA the build of torch for CPUs is enough and gigabytes smaller. Its index is asked only when it answers.
echo "[2/3] torch 2.13.0"
cpu_index=https://download.pytorch.org/whl/cpu
extra=""
if ! command -v nvidia-smi >/dev/null 2>&1 &&
    "$venv/bin/python" -c "import urllib.request as u; u.urlopen('$cpu_index/torch/', timeout=5)" >/dev/null 2>&1; then
    extra="--extra-index-url $cpu_index"
fi
$pip install $extra -c constraints.txt torch==2.13.0

echo "[3/3] barograph and what it needs"
$pip install -c constraints.txt -e '.[sidecar,audit,otel,fit,grafana,dev]'
touch "$venv/.ready"
