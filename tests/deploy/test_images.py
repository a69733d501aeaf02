"""What the images are built from: linted files, and versions that are those of the tests. The images themselves: make test-images."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

from deploy import dashboards
from deploy.images.archive import Archive
from deploy.images.requirements import TAP, TORCH, VLLM, locked

FOLDER = Path(dashboards.__file__).parent / "images"
ROOT = FOLDER.parents[1]


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


def test_the_files_are_linted() -> None:
    files = sorted(FOLDER.glob("*.Containerfile"))
    assert len(files) == 2
    done = subprocess.run([Path(sys.executable).with_name("hadolint"), "--no-color", *files], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_lock_is_what_is_tested() -> None:
    """Every version as in constraints.txt, each with its hashes; everything that the sidecar asks for, and no torch."""
    entries = re.findall(
        r"^(\S+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", (FOLDER / "sidecar.lock").read_text(), re.MULTILINE
    )
    text = (FOLDER / "sidecar.lock").read_text()
    assert sum(line.startswith("    --hash") for line in text.splitlines()) == sum(hashes.count("--hash") for _, _, hashes in entries)
    versions = {name_of(line): line.strip().split("==")[1] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {name: version for name, version, _ in entries if versions.get(name) != version} == {}
    names = {name for name, _, _ in entries}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = {name_of(each) for each in (*project["dependencies"], *extras["sidecar"], *extras["audit"], *extras["otel"])}
    assert asked <= names
    assert not names & {"torch", "transformers", "nnsight", "vllm"}


def test_the_engines_versions_are_those_of_the_tests() -> None:
    script = (ROOT / "deploy" / "venv-vllm.sh").read_text()
    assert f"version={VLLM}\n" in script
    assert f"torch=={TORCH}\n" in script
    assert TAP[0] in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["vllm"]
    for each in TAP[1:]:
        assert f'"{each}"' in script


def test_what_was_fetched_is_locked_by_its_hash(tmp_path: Path) -> None:
    (tmp_path / "Some_Thing-1.2-py3-none-any.whl").write_bytes(b"x")
    assert locked(tmp_path) == [f"some-thing==1.2 --hash=sha256:{hashlib.sha256(b'x').hexdigest()}"]


def archive(path: Path, names: tuple[str, ...], spoilt: bool = False) -> Path:
    """An image of one layer, written by hand."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as layer:
        for name in names:
            layer.addfile(tarfile.TarInfo(name))
    blobs = {}

    def blob(body: bytes) -> str:
        digest = hashlib.sha256(body).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = body
        return f"sha256:{digest}"

    layers = [{"digest": blob(raw.getvalue()), "size": len(raw.getvalue())}]
    manifest = blob(json.dumps({"config": {"digest": blob(b"{}")}, "layers": layers}).encode())
    if spoilt:
        blobs[f"blobs/{manifest.replace(':', '/')}"] += b" "
    with tarfile.open(path, "w") as whole:
        for name, body in {"index.json": json.dumps({"manifests": [{"digest": manifest}]}).encode(), **blobs}.items():
            about = tarfile.TarInfo(name)
            about.size = len(body)
            whole.addfile(about, io.BytesIO(body))
    return path


def test_an_archive_is_read(tmp_path: Path) -> None:
    assert archive_files(tmp_path, "usr/bin/python3") == {"/usr/bin/python3"}
    with pytest.raises(ValueError, match="takes files away"):
        archive_files(tmp_path, "usr/.wh.bin")
    with pytest.raises(ValueError, match="a blob hashes to"):
        Archive(archive(tmp_path / "spoilt.tar", ("a",), spoilt=True))


def archive_files(folder: Path, *names: str) -> set[str]:
    return set(Archive(archive(folder / "image.tar", names)).files())
