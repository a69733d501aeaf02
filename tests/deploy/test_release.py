"""What a release has, and that two makings of one tree are the same."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from deploy import audit
from deploy import release as releasing
from monitor import __version__


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {each.name: each for each in releasing.release(tmp_path_factory.mktemp("release"))}


def test_all_is_there_and_the_sums_are_right(made: dict[str, Path]) -> None:
    assert set(made) == {
        f"barograph-{__version__}-py3-none-any.whl", f"barograph-{__version__}.tar.gz", f"barograph-{__version__}.tgz",
        f"barograph-dashboards-{__version__}.tar.gz", f"barograph-sidecar-{__version__}.cdx.json", "SHA256SUMS",
    }  # fmt: skip
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=made["SHA256SUMS"].parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_packages_hold_what_is_installed_and_nothing_of_this_machine(made: dict[str, Path]) -> None:
    with zipfile.ZipFile(made[f"barograph-{__version__}-py3-none-any.whl"]) as wheel:
        names = wheel.namelist()
    assert {"monitor/gateway/failures.yaml", "monitor/admin/web/page.js", "rules/packs/default.yaml", "monitor/config/config.py"} <= set(
        names
    )
    assert any(name.startswith("probes/banks/smollm2-135m-instruct/") for name in names)
    assert not [name for name in names if "__pycache__" in name or name.startswith(("tests", "deploy"))]
    with tarfile.open(made[f"barograph-{__version__}.tar.gz"]) as sdist:
        assert {(each.uid, each.uname) for each in sdist} == {(0, "")}


def test_two_makings_are_the_same(made: dict[str, Path], tmp_path: Path) -> None:
    again = [*releasing.packages(tmp_path, int(releasing._git("log", "-1", "--format=%ct"))), releasing.materials(tmp_path)]
    for each in again:
        assert hashlib.sha256(each.read_bytes()).digest() == hashlib.sha256(made[each.name].read_bytes()).digest(), each.name


def test_the_list_of_materials_names_every_locked_package(made: dict[str, Path]) -> None:
    parts = json.loads(made[f"barograph-sidecar-{__version__}.cdx.json"].read_text())["components"]
    locked = [line.split("==")[0] for line in audit.LOCK.read_text().splitlines() if "==" in line]
    assert {part["name"].lower() for part in parts} >= {name.lower() for name in locked}
    assert all("version" in part for part in parts)


def test_versions_that_differ_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releasing, "__version__", "9.9.9")
    with pytest.raises(releasing.ReleaseError, match=r"Chart.yaml: version is .*; expected 9.9.9"):
        releasing.check_versions()


@pytest.mark.parametrize(
    ("packages", "code", "line"),
    [
        ([{"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found"}], 0, "1 of 2 packages compared"),
        ([{"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1"}]}], 1, "known weaknesses: a 1: PYSEC-1"),
        ([{"name": "a", "skip_reason": "not found"}], 3, "not compared: the advisory database cannot be reached"),
    ],
)
def test_what_an_audit_says(packages: list[dict[str, object]], code: int, line: str) -> None:
    found = audit.verdict({"dependencies": packages})
    assert (found[0], line in found[1]) == (code, True), found
