"""The power goes on a real ext4: every prefix of what the writer's disk was told is mounted, and what was acknowledged by then is there.

QEMU's storage daemon logs each write of a disk that the kernel sees through FUSE. Needs root, loop devices and the daemon; where they are not to be had, the simulated
machine of `tests/monitor/audit/test_power.py` stands in.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from monitor.audit import verifier
from monitor.audit.ledger import Ledger
from monitor.errors import BarographError
from tests.ledgers import KEY, SIGNER, records
from tests.stack import PATIENCE_S, eventually

TOOLS = ("qemu-storage-daemon", "mkfs.ext4", "losetup", "mount", "umount")
SECTOR, SIZE = 512, 12 << 20
FLUSH, DISCARD = 1, 4

WRITER = """
import os, sys
from pathlib import Path
from monitor.audit.disk import Disk
from monitor.audit.ledger import Ledger
from tests.ledgers import SIGNER
folder, log, mutant = sys.argv[1:]
class NoSync(Disk):
    def sync(self, file): pass
    def sync_folder(self, path): pass
kept = Ledger(Path(folder), [SIGNER], checkpoint_s=600, disk=NoSync() if mutant == "no sync" else Disk())
for i in range(14):
    early = os.stat(log).st_size  # a writer that acknowledges first would have said so here
    number = kept.append("x", i=i, filler="y" * 700)
    assert kept.flush()
    print(number, early if mutant == "acknowledge first" else os.stat(log).st_size, flush=True)
    if i % 6 == 5:
        kept.seal()
if mutant == "none":
    kept.close()
os._exit(0)
"""


def possible() -> bool:
    if os.getuid() != 0 or any(shutil.which(tool) is None for tool in TOOLS) or not Path("/dev/fuse").exists():
        return False
    return subprocess.run(["losetup", "-f"], capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.skipif(not possible(), reason="needs root, loop devices, FUSE and qemu-storage-daemon"),
    pytest.mark.timeout(600),
]


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[None]:
    device = subprocess.run(["losetup", "-f", "--show", image], capture_output=True, text=True, check=True).stdout.strip()
    try:
        subprocess.run(["mount", "-t", "ext4", device, at], check=True, capture_output=True)
        try:
            yield
        finally:
            subprocess.run(["umount", at], check=True, capture_output=True)
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


@contextmanager
def logged(disk: Path, log: Path, at: Path) -> Iterator[None]:
    """`at` is the disk, as a file; everything that is written to it is in the log too."""
    log.touch()
    at.touch()
    command = [
        "qemu-storage-daemon", "--blockdev", f"driver=file,node-name=disk,filename={disk}", "--blockdev", f"driver=file,node-name=log,filename={log}",
        "--blockdev", f"driver=blklogwrites,node-name=both,file=disk,log=log,log-sector-size={SECTOR}",
        "--export", f"type=fuse,id=export,node-name=both,mountpoint={at},writable=on",
    ]  # fmt: skip
    daemon = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        eventually(lambda: at.stat().st_size == SIZE, "the disk is there")
        yield
    finally:
        daemon.terminate()
        daemon.wait(timeout=PATIENCE_S)


def entries(log: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Of dm-log-writes' format: where the entry ends in the log, its flags, where it goes on the disk, its bytes."""
    at = SECTOR
    while at + SECTOR <= len(log):
        sector, count, flags, _ = struct.unpack_from("<4Q", log, at)
        size = 0 if flags & DISCARD else count * SECTOR
        if not count and not flags:
            return
        yield at + SECTOR + size, flags, sector * SECTOR, log[at + SECTOR : at + SECTOR + size]
        at += SECTOR + size


def losses(folder: Path, mutant: str) -> tuple[int, list[str]]:
    """At how many points the power was lost, and what was wrong afterwards; of a mutant only the first."""
    disk, log, export, place = (folder / name for name in ("disk", "log", "export", "place"))
    place.mkdir()
    with disk.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "1024", "-J", "size=1", disk], check=True, capture_output=True)
    before = folder / "before"
    shutil.copy(disk, before)
    with logged(disk, log, export), mounted(export, place):
        done = subprocess.run(
            [sys.executable, "-c", WRITER, place / "l", log, mutant], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        acknowledged = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
        assert len(acknowledged) == 14
        told = log.read_bytes()  # what the unmounting writes is not the writer's
    points, wrong = 0, []
    with before.open("r+b") as image:
        for end, _, where, data in entries(told):
            image.seek(where)
            image.write(data)
            image.flush()
            points += 1
            shutil.copy(before, folder / "after")
            promised = {number for number, size in acknowledged if size <= end}
            with mounted(folder / "after", place):
                try:
                    Ledger(place / "l", [SIGNER]).close()
                    found = {each["seq"] for each in records(place / "l")}
                    problems = verifier.verify(place / "l", [KEY]).problems
                except (BarographError, verifier.Wrong) as error:
                    found, problems = set(), [str(error)]
            if problems or not promised <= found:
                wrong.append(f"write {points}: {sorted(promised - found)} {problems}")
                if mutant != "none":
                    break
    return points, wrong


def test_nothing_acknowledged_is_lost_with_the_power(tmp_path: Path) -> None:
    started = time.monotonic()
    points, wrong = losses(tmp_path, "none")
    print(f"{points} prefixes in {time.monotonic() - started:.0f} s")
    assert wrong == []
    assert points > 100


@pytest.mark.parametrize("mutant", ["no sync", "acknowledge first"])
def test_a_writer_that_does_not_sync_is_found_out(tmp_path: Path, mutant: str) -> None:
    """A missing sync of a folder is none of them: ext4 keeps names and bytes in one journal, so it forgives that. The simulated machine does not."""
    _, wrong = losses(tmp_path, mutant)
    assert wrong
