#!/bin/sh
# Make the environment of examples/fleet_mean.py: Quix Streams pins an older pydantic than ours, so it lives apart: deploy/venv-streams.sh PYTHON FOLDER
set -eu
python=$1 venv=$2
rm -rf "$venv"
"$python" -m venv "$venv"
"$venv/bin/python" -m pip --disable-pip-version-check --quiet install quixstreams==3.28.1
touch "$venv/.ready"
