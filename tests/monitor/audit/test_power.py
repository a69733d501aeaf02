"""The power goes at every point of a writer's life: what it had acknowledged is there afterwards.

A simulated machine keeps of a file only what was synced, and of a folder only the names it had when the folder was synced; the rest comes back whole, in part or not at all.
That is stricter than most file systems. `tests/e2e/test_power.py` does the same on a real one.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from monitor.audit import verifier
from monitor.audit.disk import Disk
from monitor.audit.ledger import Ledger
from monitor.errors import BarographError
from tests.ledgers import KEY, SIGNER, records

Step = tuple[str, Any, Any]


class Recorded(Disk):
    """Notes what was asked of the disk, in its order. Paths are told from the root of what is lost."""

    def __init__(self, root: Path, steps: list[Step]) -> None:
        self.root, self.steps = root, steps
        self._names: dict[int, str] = {}

    def _note(self, what: str, path: Path | int, more: Any = None) -> None:
        name = self._names[path] if isinstance(path, int) else str(path.relative_to(self.root))
        self.steps.append((what, name, more))

    def create(self, path: Path) -> int:
        file = super().create(path)
        self._names[file] = str(path.relative_to(self.root))
        self._note("create", path)
        return file

    def overwrite(self, path: Path) -> int:
        file = super().overwrite(path)
        self._names[file] = str(path.relative_to(self.root))
        self._note("create", path)
        return file

    def make(self, folder: Path) -> None:
        super().make(folder)
        self._note("make", folder)

    def append(self, file: int, data: bytes) -> None:
        super().append(file, data)
        self._note("append", file, data)

    def sync(self, file: int) -> None:
        super().sync(file)
        self._note("sync", file)

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self._note("sync_folder", path)

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self._note("rename", old, str(new.relative_to(self.root)))
        self._names = {
            file: str(new.relative_to(self.root)) if name == str(old.relative_to(self.root)) else name for file, name in self._names.items()
        }

    def remove(self, path: Path) -> None:
        super().remove(path)
        self._note("remove", path)


class NoSync(Recorded):
    def sync(self, file: int) -> None:
        pass


class NoFolderSync(Recorded):
    def sync_folder(self, path: Path) -> None:
        pass


class Machine:
    """Files by number; names in memory and on the disk; of each file its bytes in memory and how many of them the disk has."""

    def __init__(self) -> None:
        self.files: list[bytearray] = []
        self.kept: list[bytes] = []
        self.names: dict[str, int | None] = {".": None}  # None: a folder
        self.durable: dict[str, int | None] = {".": None}

    def do(self, step: Step) -> None:
        what, name, more = step
        if what == "create":
            self.files.append(bytearray())
            self.kept.append(b"")
            self.names[name] = len(self.files) - 1
        elif what == "make":
            self.names[name] = None
        elif what == "append":
            self._file(name).extend(more)
        elif what == "sync":
            number = self.names[name]
            assert number is not None
            self.kept[number] = bytes(self.files[number])
        elif what == "rename":
            self.names[more] = self.names.pop(name)
        elif what == "remove":
            self.names.pop(name, None)
        elif what == "sync_folder":
            here = {each for each in self.names.keys() | self.durable.keys() if each != "." and (os.path.dirname(each) or ".") == name}
            for each in here:
                if each in self.names:
                    self.durable[each] = self.names[each]
                else:
                    self.durable.pop(each, None)

    def _file(self, name: str) -> bytearray:
        number = self.names[name]
        assert number is not None
        return self.files[number]

    def lost(self, folder: Path, how: str) -> None:
        """What the disk has when the power goes now. `names`: names that were not synced came through, and their bytes did not; `torn`: half of the bytes did too."""
        shutil.rmtree(folder, ignore_errors=True)
        names = self.durable if how == "all" else self.names
        for name in sorted(names):
            number, above = names[name], os.path.dirname(name) or "."
            if above not in names:
                continue  # its folder is gone, and it with it
            if number is None:
                (folder / name).mkdir(parents=True, exist_ok=True)
                continue
            kept, whole = self.kept[number], bytes(self.files[number])
            (folder / name).write_bytes(kept if how != "torn" else whole[: len(kept) + (len(whole) - len(kept)) // 2])


def life(root: Path, kind: type[Recorded], early: bool = False) -> list[Step]:
    """A ledger is written, closed, opened and written again. Gives the steps, and among them what was acknowledged when."""
    steps: list[Step] = []
    for turn in range(2):
        kept = Ledger(root / "l", [SIGNER], checkpoint_s=600, disk=kind(root, steps))
        for i in range(5):
            before = len(steps)
            number = kept.append("x", turn=turn, i=i)
            assert kept.flush()
            # A writer that acknowledges before it syncs would say so where nothing was written yet.
            steps.insert(before if early else len(steps), ("acknowledged", number, None))
            if i == 2:
                kept.seal()
        kept.close()
    return steps


def losses(tmp_path: Path, kind: type[Recorded], early: bool = False) -> tuple[int, list[str]]:
    """At how many points the power was lost, and what was wrong afterwards."""
    (tmp_path / "before").mkdir()
    steps = life(tmp_path / "before", kind, early)
    machine, acknowledged, points = Machine(), list[int](), 0
    wrong: list[str] = []
    after = tmp_path / "after"
    for place, step in enumerate(steps):
        if step[0] == "acknowledged":
            acknowledged.append(step[1])
        else:
            machine.do(step)
        for how in ("all", "names", "torn"):
            machine.lost(after, how)
            points += 1
            try:
                Ledger(after / "l", [SIGNER]).close()
                found = [each["seq"] for each in records(after / "l")]
                problems = verifier.verify(after / "l", [KEY]).problems
            except (BarographError, verifier.Wrong) as error:
                found, problems = [], [str(error)]
            if problems or not set(acknowledged) <= set(found):
                wrong.append(f"step {place} {step[:2]}, {how}: {sorted(set(acknowledged) - set(found))} {problems}")
    assert len(acknowledged) == 10
    return points, wrong


def test_nothing_acknowledged_is_lost_with_the_power(tmp_path: Path) -> None:
    points, wrong = losses(tmp_path, Recorded)
    assert wrong == []
    assert points > 300


@pytest.mark.parametrize("mutant", ["no sync", "acknowledge first", "no folder sync"])
def test_a_writer_that_does_not_sync_is_found_out(tmp_path: Path, mutant: str) -> None:
    kind = {"no sync": NoSync, "no folder sync": NoFolderSync}.get(mutant, Recorded)
    _, wrong = losses(tmp_path, kind, early=mutant == "acknowledge first")
    assert wrong
