"""The sidecar's image, built once for all tests here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.images.archive import Archive

ROOT = Path(__file__).parents[2]
TOOLS = ("buildah", "mmdebstrap", "runc")


@pytest.fixture(scope="session", autouse=True)
def needed() -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    assert not missing, f"needs {', '.join(missing)}; on Debian: apt install {' '.join(TOOLS)}"
    assert os.getuid() == 0, "images are built and run as root"


def build(folder: Path) -> Archive:
    done = subprocess.run(
        [ROOT / "deploy" / "images.sh", "sidecar", folder], env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    (archive,) = folder.glob("*.oci.tar")
    return Archive(archive)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return build(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="session")
def root(image: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image.unpack(tmp_path_factory.mktemp("root"))
