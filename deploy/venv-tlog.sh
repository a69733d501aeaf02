#!/bin/sh
# Make the environment with a verifier and a witness that others wrote, for tests: deploy/venv-tlog.sh FOLDER
# Both need Python 3.12; where there is none, the tests that use them are skipped and say so.
set -eu
venv=$1 deploy=$(dirname "$0")
. "$deploy/environment.sh"

for python in python3.13 python3.12 "${HOME:-}"/.pyenv/versions/3.1[23]*/bin/python; do
    if "$python" -c 'import ensurepip, venv, sys; sys.exit(not (3, 12) <= sys.version_info < (3, 14))' 2>/dev/null; then
        environment "$python" "$venv"
        $pip install aics-tlog==0.2.1 aics-witness==0.1.0
        touch "$venv/.ready"
        exit 0
    fi
done
echo "no Python 3.12 or 3.13: the ledger is not checked by a foreign verifier" >&2
rm -rf "$venv"
mkdir -p "$venv"
touch "$venv/.ready"
