#!/bin/sh
# Make the environment with a verifier and a witness that others wrote, for tests: deploy/venv-tlog.sh FOLDER
# Both need Python 3.12; where there is none, the tests that use them are skipped and say so.
set -eu
venv=$1
rm -rf "$venv"
for python in python3.14 python3.13 python3.12 "$HOME"/.pyenv/versions/3.1[2-9]*/bin/python; do
    if "$python" -c 'import ensurepip, venv, sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then
        "$python" -m venv "$venv"
        "$venv/bin/python" -m pip --disable-pip-version-check --quiet install aics-tlog==0.2.1 aics-witness==0.1.0
        touch "$venv/.ready"
        exit 0
    fi
done
echo "no Python 3.12 or later: the ledger is not checked by a foreign verifier" >&2
mkdir -p "$venv"
touch "$venv/.ready"
