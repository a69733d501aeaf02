"""What may be left out of an installation: the rest works without it, and says what is missing in one line."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from monitor.commands.extras import EXTRAS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# An importer that behaves as if packages were not installed.
WITHOUT = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Without())
{code}
"""
MODULES = {"common-expression-language": "cel", "kafka-python": "kafka", "scikit-learn": "sklearn"}


def run(missing: set[str], code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing=missing, code=code)], capture_output=True, text=True, cwd=ROOT, timeout=120
    )


def command(*words: str) -> str:
    return f"sys.argv = {['barograph', *words]!r}\nfrom monitor.commands.cli import main\nmain()"


def module(requirement: str) -> str:
    name = re.split(r"[\[<>=!]", requirement)[0].strip()
    return MODULES.get(name, name.replace("-", "_"))


def test_every_extra_of_the_table_brings_what_it_says() -> None:
    extras = PROJECT["optional-dependencies"]
    for package, extra in EXTRAS.items():
        brought = {module(each) for each in extras[extra]} | {each.split("_")[0] for each in map(module, extras[extra])}
        assert package in brought, f"[{extra}] does not bring {package}"


def test_no_extra_of_a_sidecar_brings_torch() -> None:
    extras = PROJECT["optional-dependencies"]
    brought = {module(each) for extra in ("sidecar", "audit", "otel") for each in extras[extra]} | {
        module(each) for each in PROJECT["dependencies"]
    }
    assert not brought & {"torch", "transformers", "nnsight", "vllm"}


def test_an_environment_of_vllm_needs_nnsight_only() -> None:
    """The plugin, the command that starts vLLM, the configuration and a bank: without everything that any extra brings."""
    missing = set(EXTRAS) - {"torch", "transformers", "nnsight", "opentelemetry"}
    code = "import monitor.engine.vllm_plugin as p; p.register()\nfrom monitor.config import Config; Config.load(None).load_bank(); print('read')"
    done = run(missing, code)
    assert (done.returncode, done.stdout) == (0, "read\n"), done.stderr
    done = run(missing, command("engine", "--help"))
    assert (done.returncode, "vllm" in done.stdout) == (0, True), done.stderr


def test_a_sidecar_runs_without_what_only_its_options_need() -> None:
    missing = set(EXTRAS) - {name for name, extra in EXTRAS.items() if extra == "sidecar"}
    done = run(missing, "import monitor.sidecar; print('imported')")
    assert (done.returncode, done.stdout) == (0, "imported\n"), done.stderr


@pytest.mark.parametrize(
    ("missing", "words", "expected"),
    [
        ("aiolimiter", ["sidecar"], "barograph[sidecar]"), ("rfc8785", ["sidecar"], "barograph[sidecar]"), ("torch", ["engine"], "barograph[engine]"),
        ("cel", ["rules", "check"], "barograph[sidecar]"), ("duckdb", ["audit", "query", "SELECT 1"], "barograph[audit]"),
        ("sklearn", ["probes", "fit", "--model", "m", "--out", "x"], "barograph[fit]"),
    ],
)  # fmt: skip
def test_what_is_missing_is_one_line(missing: str, words: list[str], expected: str) -> None:
    done = run({missing}, command(*words))
    assert done.returncode == 2, done.stderr
    assert f"barograph: this needs the package '{missing}': pip install '{expected}'" in done.stderr
    assert "Traceback" not in done.stderr
