"""The architecture, asserted: imports go down only, and the sidecar never loads torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import monitor
import probes
import rules

ROOMS = {"monitor": Path(monitor.__file__).parent, "probes": Path(probes.__file__).parent, "rules": Path(rules.__file__).parent}
MAY_IMPORT = {"monitor": {"rules", "probes"}, "probes": set(), "rules": set()}
# The rooms of monitor/, highest first. Rooms on one line know nothing of each other.
ORDER = (
    ("commands",), ("sidecar",), ("admin",), ("gateway",), ("pipeline",), ("sinks", "engine"), ("tap",), ("config",), ("http", "audit"), ("wire", "models", "grafana"),
    ("packaged", "errors"),
)  # fmt: skip
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
TAP_MAY_IMPORT = ("probes.bank", "probes.passport", "probes.nn", "probes.layers", "monitor.wire", "monitor.tap", "monitor.errors")
# Rules are pure: no I/O, no clock, no network, no torch.
RULES_MAY_NOT = {"os", "io", "time", "datetime", "socket", "asyncio", "threading", "random", "torch", "pathlib", "subprocess", "logging"}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(room: str) -> list[Path]:
    found = sorted(ROOMS[room].rglob("*.py"))
    assert found
    return found


@pytest.mark.smoke
@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_down_only(room: str) -> None:
    for path in sources(room):
        for name in imports(path):
            other = name.split(".")[0]
            assert other == room or other not in ROOMS or other in MAY_IMPORT[room], f"{path} imports {name}"


def test_rooms_import_lower_rooms_only() -> None:
    home = ROOMS["monitor"]
    for path in sources("monitor"):
        room = path.relative_to(home).parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue
        assert room in LEVEL, f"{path}: a room that ORDER does not know"
        for name in imports(path):
            other = name.split(".")[1] if name.startswith("monitor.") else ""
            if other and other != "__version__" and other != room:
                assert LEVEL[other] > LEVEL[room], f"{path} imports {name}: up, or a neighbour"


def test_the_tap_imports_only_bank_and_wire() -> None:
    for path in (ROOMS["monitor"] / "tap").glob("*.py"):
        for name in imports(path):
            assert name.split(".")[0] not in ROOMS or name.startswith(TAP_MAY_IMPORT), f"{path} imports {name}"


def test_rules_are_pure() -> None:
    for path in sources("rules"):
        assert not RULES_MAY_NOT & {name.split(".")[0] for name in imports(path)}, path
        assert not any(
            isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("eval", "exec", "open")
            for node in ast.walk(ast.parse(path.read_text()))
        ), path


@pytest.mark.smoke
def test_the_sidecar_never_loads_torch() -> None:
    program = "import monitor.sidecar, monitor.commands.cli, monitor.commands.watch, monitor.commands.demo, monitor.commands.doctor, monitor.commands.up, sys; print(*sorted({'torch', 'transformers', 'nnsight', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_nnsight_is_imported_in_one_place_only() -> None:
    users = [path for room in ROOMS for path in sources(room) if any(name.split(".")[0] == "nnsight" for name in imports(path))]
    assert [path.name for path in users] == ["nn.py"]
