#!/bin/sh
# Make the secrets of compose.yaml, each once and random, in a folder that only you can enter: deploy/compose/secrets.sh [FOLDER]
set -eu
umask 077
folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"
cd "$folder"

random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
hash() { printf %s "$(cat "$1")" | sha256sum | cut -d' ' -f1; }

[ -e tap.env ] || echo "BAROGRAPH_TAP_KEY=$(random)" >tap.env
[ -e sidecar.env ] || echo "BAROGRAPH_ADMIN_TOKEN=$(random)" >sidecar.env
for name in prometheus.token alertmanager.token grafana.password; do
    [ -e "$name" ] || printf %s "$(random)" >"$name"
done
# The sidecar knows tokens by their hashes only. Further ones go into this file: docs/actions.md, Tokens.
[ -e access.yaml ] || cat >access.yaml <<YAML
tokens:
- {name: prometheus, role: viewer, sha256: $(hash prometheus.token)}
- {name: alertmanager, role: operator, sha256: $(hash alertmanager.token)}
YAML
# Containers read them under users of their own. The folder keeps everybody else away.
chmod 0444 access.yaml prometheus.token alertmanager.token grafana.password
echo "$(pwd): $(ls | tr '\n' ' ')"
