#!/bin/sh
# Make the environment of examples/fleet_mean.py: Quix Streams pins an older pydantic than ours, so it lives apart: deploy/venv-streams.sh PYTHON FOLDER
set -eu
python=$1 venv=$2 deploy=$(dirname "$0")
. "$deploy/environment.sh"

supported "$python"
environment "$python" "$venv"
$pip install quixstreams==3.28.1
touch "$venv/.ready"
