#!/bin/sh
# Install the built wheel into an environment of its own and run the smoke tests against it, outside the repository.
set -eu
cd "$(dirname "$0")/.."
root=$PWD venv=$PWD/.venv-smoke
place=$(mktemp -d)
trap 'rm -rf "$place" "$venv"' EXIT

python3 -m venv --without-pip "$venv"
# The packages of .venv are seen through a path file, so only the wheel itself is installed here.
site=$("$venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')
.venv/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --target "$site" dist/barograph-*.whl
.venv/bin/python - "$site" <<'PY'
import pathlib, site, sys
# Without the editable install, whose finder would put the repository before the wheel.
target, source = pathlib.Path(sys.argv[1]), pathlib.Path(site.getsitepackages()[0])
for entry in source.iterdir():
    if "barograph" not in entry.name and not (target / entry.name).exists():
        (target / entry.name).symlink_to(entry)
PY
cp -r "$root/tests" "$place/tests"
cd "$place"
"$venv/bin/python" -c 'import monitor, sys; assert "site-packages" in monitor.__file__, monitor.__file__; print("testing", monitor.__file__)'
"$venv/bin/python" -m pytest -q -p no:cacheprovider -m smoke tests
