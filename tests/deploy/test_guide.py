"""deploy/README.md: its figures are those of the benchmarks' files, and what it names is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deploy" / "README.md").read_text()
ROWS = re.findall(r"^\| (.+?) \| ([\d.]+) \| (\w+) \| ([\w.]+) \| (.+?) \|$", TEXT, re.MULTILINE)


def test_there_are_figures() -> None:
    table = TEXT.partition("## Sizing")[2].partition("\n## ")[0]
    assert len(ROWS) == len([line for line in table.splitlines() if line.startswith("| ")]) - 2 > 8


@pytest.mark.parametrize(("what", "figure", "file", "key", "machine"), ROWS, ids=[row[0][:40] for row in ROWS])
def test_each_figure_is_the_files(what: str, figure: str, file: str, key: str, machine: str) -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / f"{file}.json").read_text())
    value: Any = found
    for name in key.split("."):
        value = value[int(name) if isinstance(value, list) else name]
    assert float(figure) == value
    said = f"{found['machine']}, {found.get('device', '')}"
    assert all(part in said for part in machine.split(", "))


def test_links_lead_somewhere() -> None:
    headings = {re.sub(r"[^a-z0-9 -]", "", each.lower()).replace(" ", "-") for each in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXT):
        path, _, anchor = target.partition("#")
        assert (ROOT / "deploy" / path).exists() if path else anchor in headings, target
    for path in re.findall(r"\b(deploy/[\w./-]+\.\w+)", TEXT):
        assert (ROOT / path).exists(), path
