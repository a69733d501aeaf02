#!/bin/sh
# Make a virtual environment with pinned packages and this project in it: deploy/venv.sh PYTHON FOLDER
# Pip's own settings say from where: PIP_INDEX_URL, pip.conf, HTTPS_PROXY. TORCH_INDEX=URL names an index with torch's build for CPUs.
set -eu
python=$1 venv=$2
cd "$(dirname "$0")/.."
deploy=deploy
. deploy/environment.sh

supported "$python"
echo "[1/3] virtual environment in $venv"
environment "$python" "$venv"
echo "[2/3] torch 2.13.0"
torch 2.13.0 -c constraints.txt
echo "[3/3] barograph and what it needs"
$pip install -c constraints.txt -e '.[sidecar,audit,otel,fit,grafana,dev]'
touch "$venv/.ready"
