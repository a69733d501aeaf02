"""Makes all that a release has: python -m deploy.release FOLDER

Sdist and wheel, the chart's archive, the dashboards with their alerting rules, a CycloneDX list of what a sidecar is made of, and SHA256SUMS over all. From a clean copy of the tree, with the times of the last commit, so that two
makings of one commit are the same to the byte, but for the chart: Helm puts the time of packing into it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import helm_python
import yaml

from monitor import __version__

ROOT = Path(__file__).parents[1]
SOURCES = ("monitor", "probes", "rules", "pyproject.toml", "README.md", "LICENSE")
PICTURES = ("deploy/grafana", "deploy/prometheus", "docs/runbooks", "docs/grafana.md")


def release(out: Path) -> list[Path]:
    """The files, SHA256SUMS last. Raises ReleaseError for versions that differ, CalledProcessError when a tool fails."""
    check_versions()
    out.mkdir(parents=True, exist_ok=True)
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct") or "1767225600")
    made = [*packages(out, epoch), chart(out), bundle(out, epoch), materials(out)]
    sums = out / "SHA256SUMS"
    sums.write_text("".join(f"{hashlib.sha256(each.read_bytes()).hexdigest()}  {each.name}\n" for each in sorted(made)))
    return [*sorted(made), sums]


class ReleaseError(Exception):
    """What must be the same is not."""


def check_versions() -> None:
    """monitor.__version__ is the one; the chart and the changelog follow it."""
    chart = yaml.safe_load((ROOT / "helm/barograph/Chart.yaml").read_text())
    for where in ("version", "appVersion"):
        if chart[where] != __version__:
            raise ReleaseError(
                f"helm/barograph/Chart.yaml: {where} is {chart[where]}; expected {__version__}, as monitor/__init__.py has it"
            )


def packages(out: Path, epoch: int) -> list[Path]:
    with tempfile.TemporaryDirectory() as folder:
        for name in SOURCES:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
            else:
                shutil.copy(source, folder)
        subprocess.run(
            [sys.executable, "-m", "build", "--outdir", out, folder], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
            env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
        )  # fmt: skip
    sdist = out / f"barograph-{__version__}.tar.gz"
    _plain(sdist, epoch)
    return [sdist, out / f"barograph-{__version__}-py3-none-any.whl"]


def _plain(archive: Path, epoch: int) -> None:
    """The same files with one time, one owner and in order: setuptools keeps those of the machine."""
    with tarfile.open(archive) as given:
        files = {each.name: given.extractfile(each).read() for each in given if each.isfile()}  # type: ignore[union-attr]
    archive.write_bytes(_tar(files, epoch))


def _tar(files: dict[str, bytes], epoch: int) -> bytes:
    raw = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=raw, mode="wb", mtime=epoch, filename="") as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, content in sorted(files.items()):
            about = tarfile.TarInfo(name)
            about.size, about.mtime, about.mode = len(content), epoch, 0o644
            tar.addfile(about, io.BytesIO(content))
    return raw.getvalue()


def chart(out: Path) -> Path:
    return Path(helm_python.package(ROOT / "helm/barograph", destination=out))


def bundle(out: Path, epoch: int) -> Path:
    """For those who have a Grafana and a Prometheus and no use for our commands."""
    files = {}
    for name in PICTURES:
        source = ROOT / name
        for file in (source,) if source.is_file() else sorted(source.rglob("*")):
            if file.is_file() and file.suffix in (".json", ".yaml", ".md"):
                files[f"barograph-dashboards-{__version__}/{file.relative_to(ROOT)}"] = file.read_bytes()
    path = out / f"barograph-dashboards-{__version__}.tar.gz"
    path.write_bytes(_tar(files, epoch))
    return path


def materials(out: Path) -> Path:
    """What a sidecar is made of, as its lock pins it."""
    path = out / f"barograph-sidecar-{__version__}.cdx.json"
    command = [
        "cyclonedx-py",
        "requirements",
        "--pyproject",
        ROOT / "pyproject.toml",
        "--output-reproducible",
        "-o",
        path,
        ROOT / "deploy/images/sidecar.lock",
    ]
    subprocess.run([Path(sys.executable).with_name("cyclonedx-py"), *command[1:]], check=True, stderr=subprocess.DEVNULL)
    return path


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    for each in release(Path(sys.argv[1]).resolve()):
        print(f"{each.stat().st_size:>10,}  {each}")
