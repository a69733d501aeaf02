"""Any life of a ledger: written, sealed, closed, killed, robbed of its power, purged, proved and verified, in any order."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from monitor.audit import proof, verifier
from monitor.audit.custody import Custody
from monitor.audit.ledger import Ledger
from monitor.audit.retention import Retention
from monitor.audit.tiles import kept_from
from tests.ledgers import SIGNER, records
from tests.monitor.audit.test_power import KEY, Machine, Recorded, Step


class Lives(RuleBasedStateMachine):
    """`told` are the numbers that were acknowledged; each must be found for good."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="lives-"))
        self.turn = 0
        self.root = self.home / "0"
        self.root.mkdir()
        self.told: set[int] = set()
        self.first = 0  # the first that was not purged
        self.checkpoints: list[bytes] = []
        self.steps: list[Step] = []
        self.machine, self.done = Machine(), 0
        self.open()

    def open(self) -> None:
        self.kept = Ledger(self.root / "l", [SIGNER], checkpoint_s=600, disk=Recorded(self.root, self.steps))

    def teardown(self) -> None:
        self.kept.close()
        shutil.rmtree(self.home)

    @rule(count=st.integers(1, 300), size=st.integers(0, 400))
    def append(self, count: int, size: int) -> None:
        for _ in range(count):
            self.kept.append("x", filler="y" * size)

    @rule()
    def acknowledge(self) -> None:
        assert self.kept.flush(30)
        self.told.update(range(self.kept.newest + 1))

    @rule()
    def seal(self) -> None:
        self.kept.seal()
        self.told.update(range(self.kept.newest + 1))
        self.checkpoints.append((self.kept.path / "checkpoint").read_bytes())

    @rule()
    def restart(self) -> None:
        self.kept.close()
        self.told.update(range(self.kept.newest + 1))
        self.open()

    @rule()
    def kill(self) -> None:
        """What lies in the folder at some moment is what a killed process leaves, after a segment that may have been removed meanwhile."""
        self.kept.flush(30)
        self.told.update(range(self.kept.newest + 1))
        self._go_on_in(lambda new: shutil.copytree(self.root, new))

    @rule(how=st.sampled_from(["all", "names", "torn"]))
    def lose_power(self, how: str) -> None:
        """Of a writer that stands still: what it asked of the disk so far."""
        self.kept.flush(30)
        self.told.update(range(self.kept.newest + 1))
        self._catch_up()
        self._go_on_in(lambda new: self.machine.lost(new, how))

    def _catch_up(self) -> None:
        for step in self.steps[self.done :]:
            self.machine.do(step)
        self.done = len(self.steps)

    def _go_on_in(self, make: object) -> None:
        self.turn += 1
        new = self.home / str(self.turn)
        make(new)  # type: ignore[operator]
        self.kept.close()
        self.root, self.steps, self.machine, self.done = new, [], Machine(), 0
        for path in sorted(new.rglob("*")):  # what came through is durable
            name = str(path.relative_to(new))
            if path.is_dir():
                self.machine.names[name] = self.machine.durable[name] = None
            else:
                self.machine.files.append(bytearray(path.read_bytes()))
                self.machine.kept.append(path.read_bytes())
                self.machine.names[name] = self.machine.durable[name] = len(self.machine.files) - 1
        self.open()

    @rule()
    def purge(self) -> None:
        """All that is old enough, which is all but the unfinished bundle."""
        custody = Custody(self.kept, Retention(days=1e-9, basis="a test"))
        custody.act("purge", "ann", "old")
        self.first = max(self.first, kept_from(self.kept.path, self.kept.checkpoint.size))
        self.told.update(range(self.kept.newest + 1))

    @precondition(lambda self: self.told)
    @rule(data=st.data())
    def prove(self, data: st.DataObject) -> None:
        self.kept.seal()
        number = data.draw(st.sampled_from(sorted(number for number in self.told if number >= self.first)))
        entry, said = proof.prove(self.kept.path, number)
        assert f'"seq":{number},'.encode() in entry
        assert said.startswith("c2sp.org/tlog-proof@v1\nindex ")

    @invariant()
    def nothing_told_is_missing(self) -> None:
        found = [record["seq"] for record in records(self.kept.path)]
        assert found == list(range(self.first, self.first + len(found)))
        assert {number for number in self.told if number >= self.first} <= set(found)

    @invariant()
    def it_verifies_since_every_checkpoint(self) -> None:
        assert verifier.verify(self.kept.path, [KEY], since=self.checkpoints).problems == []


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
