"""The table of wheels: whole, and made by the script that says so. What the index has is not asked here."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from deploy import wheels

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "compatibility.md").read_text()


def rows() -> dict[str, list[str]]:
    head = f"| {' | '.join(wheels.TITLE)} |\n"
    assert head in PAGE
    lines = PAGE.partition(head)[2].split("\n\n")[0].splitlines()[1:]
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.strip("| ").split("|")] for line in lines)}


def test_the_page_names_every_dependency_with_its_extras_and_its_version() -> None:
    found = rows()
    assert {name: cells[0] for name, cells in found.items()} == {name: ", ".join(parts) for name, parts in wheels.wanted().items()}
    pinned = dict(line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    assert {name: cells[1] for name, cells in found.items() if name in pinned and pinned[name] != cells[1]} == {}


def test_every_dependency_of_the_project_is_asked_about() -> None:
    """Read in another way than the script does."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    every = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    names = {re.split(r"[^\w.-]", each)[0].lower().replace("_", "-") for each in every} - {"barograph"}
    assert names <= set(wheels.wanted())


def test_the_pythons_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    classifiers = [each.rpartition(" ")[2] for each in project["classifiers"] if "Python ::" in each]
    assert tuple(classifiers) == wheels.PYTHONS
    first, last = wheels.PYTHONS[0], wheels.PYTHONS[-1].split(".")
    assert project["requires-python"] == f">={first},<{last[0]}.{int(last[1]) + 1}"


def package(*names: str, **more: Any) -> dict[str, Any]:
    return {"wheels": [{"url": f"https://index.example/{name}"} for name in names], **more}


def test_a_cell_says_what_fits() -> None:
    each = package(
        "x-1-cp311-cp311-manylinux_2_28_x86_64.whl",
        "x-1-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "x-1-cp313-cp313-win_amd64.whl",
    )
    assert wheels.cell(each | {"sdist": {}}, "x86_64") == "3.11, 3.12; from source: 3.13"
    assert wheels.cell(each, "aarch64") == "none: 3.11, 3.12, 3.13"
    assert wheels.cell(package("x-1-cp39-abi3-manylinux_2_39_x86_64.whl"), "x86_64") == "none: 3.11, 3.12, 3.13", "for a newer glibc"
    for name in ("x-1%2Bcpu-py3-none-any.whl", "x-1-cp38-abi3-manylinux_2_28_aarch64.whl"):
        assert wheels.cell(package(name), "aarch64") == "3.11, 3.12, 3.13"


def test_what_another_system_needs_is_not_missed_here() -> None:
    assert not wheels.applies(package(marker="sys_platform == 'win32'"), "3.13", "x86_64")
    assert not wheels.applies(package(marker="python_full_version < '3.12'"), "3.12", "x86_64")
    assert wheels.applies(package(marker="platform_machine == 'aarch64' and python_version >= '3.12'"), "3.12", "aarch64")
