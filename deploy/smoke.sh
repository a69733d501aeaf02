#!/bin/sh
# Run the smoke tests against the built wheel, outside the repository. The wheel is unpacked into a folder that comes
# before the editable install on Python's path; its dependencies are those of .venv.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

.venv/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --target "$place/site" dist/barograph-*.whl
cp -r tests benchmarks docs deploy helm README.md CONTRIBUTING.md SECURITY.md CHANGELOG.md constraints.txt "$place"
cp pyproject.toml "$place/pyproject.toml"
cd "$place"
export PYTHONPATH="$place/site"
"$root/.venv/bin/python" -c "import monitor; assert monitor.__file__.startswith('$place'), monitor.__file__; print('testing', monitor.__file__)"
"$root/.venv/bin/python" -m pytest -p no:cacheprovider -m smoke tests
