"""No file that a user names keeps its reader waiting, or fills the memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from monitor.audit.recordings import RecordingError, recordings
from monitor.commands.explain import find
from monitor.config import Config
from monitor.errors import BarographError, ConfigError
from monitor.pipeline.proof import Proof
from probes.bank import ARRAYS, CARD, Bank, BankError


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_named_file_that_is_no_plain_one_hangs_nobody(tmp_path: Path, kind: str) -> None:
    odd = {"pipe": tmp_path / "pipe", "device": Path("/dev/zero"), "folder": tmp_path}[kind]
    if kind == "pipe":
        os.mkfifo(odd)
    bank = tmp_path / "bank"
    bank.mkdir()
    for name in (ARRAYS, CARD):
        (bank / name).symlink_to(odd)
    with pytest.raises(BankError, match="no plain file"):
        Bank.load(bank)
    with pytest.raises(RecordingError, match="expected the folder of a ledger"):
        recordings(str(odd), ("panic",))
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    (ledger / "checkpoint").symlink_to(odd)
    for place in (odd, ledger):
        with pytest.raises(BarographError, match="expected the folder of a ledger"):
            find("last", place)
    with pytest.raises(ConfigError, match="no plain file"):
        Proof.load(odd)
    with pytest.raises(ConfigError, match="no plain file"):
        Config.load(odd)


@pytest.mark.parametrize("name", [ARRAYS, CARD])
def test_a_bank_of_any_size_is_not_read(tmp_path: Path, name: str) -> None:
    for each in (ARRAYS, CARD):
        (tmp_path / each).write_bytes(b"")
    with (tmp_path / name).open("wb") as file:
        file.truncate(1 << 42)  # a hole: it takes no room
    with pytest.raises(BankError, match="expected at most"):
        Bank.load(tmp_path)
