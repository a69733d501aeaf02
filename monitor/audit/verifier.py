"""Checks a ledger from its files alone. It shares no code with what writes them: standard library and one package for Ed25519.

Every entry is hashed anew, all tiles are compared, the root must be the one that the checkpoint's signature covers, the numbers of the records must follow each
other, and each loss must be named. Checkpoints that somebody kept show that nothing before them was changed; cosignatures show that nobody was shown another history.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class Wrong(Exception):
    """What was found instead of what was expected."""


@dataclass
class Report:
    """What was seen. `silence`: the longest time between two records, in seconds. `unwitnessed`: records behind the last checkpoint with a quorum. `purged`: old records whose hashes alone are left."""

    origin: str
    records: int
    root: str
    unwitnessed: int = 0
    lost: int = 0
    purged: int = 0
    first: float = 0.0
    last: float = 0.0
    silence: float = 0.0
    problems: list[str] = field(default_factory=list)

    def wrong(self, what: str) -> None:
        self.problems.append(what)
        if len(self.problems) == 20:
            raise Wrong("there is more, which is not told")


@dataclass(frozen=True)
class Key:
    name: str
    kind: int
    raw: bytes

    @classmethod
    def read(cls, vkey: str) -> Key:
        try:
            name, number, coded = vkey.strip().split("+", 2)
            data = base64.b64decode(coded, validate=True)
            key = cls(name, data[0], data[1:])
        except (ValueError, IndexError):
            raise Wrong(f"'{vkey[:80]}' is no vkey; expected NAME+ID+BASE64") from None
        if key.id.hex() != number or key.kind not in (1, 4) or len(key.raw) != 32:
            raise Wrong(f"vkey of {name}: expected an Ed25519 key (1) or an Ed25519 cosigner's (4) with the id {key.id.hex()}")
        return key

    @property
    def id(self) -> bytes:
        return sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.raw).digest()[:4]


@dataclass
class Policy:
    """c2sp.org/tlog-policy: known logs, witnesses, and the quorum of them."""

    logs: list[Key] = field(default_factory=list)
    witnesses: dict[str, Key] = field(default_factory=dict)
    groups: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    quorum: str = "none"

    @classmethod
    def read(cls, text: str) -> Policy:
        policy, quorums, members = cls(), [], set[str]()
        for number, line in enumerate(text.split("\n"), 1):
            match [] if line.strip().startswith("#") else re.findall(r"[^ \t]+", line):
                case []:
                    pass
                case ["log", vkey, *url] if len(url) < 2 and (key := Key.read(vkey)).kind == 1 and policy.new(key, ""):
                    policy.logs.append(key)
                case ["witness", name, vkey, *url] if len(url) < 2 and (key := Key.read(vkey)).kind == 4 and policy.new(key, name):
                    policy.witnesses[name] = key
                case ["group", name, count, *names] if policy.new(None, name) and policy.known(names) and not members & set(names):
                    least = {"any": "1", "all": str(len(names))}.get(count, count)
                    if not least.isdigit() or not 1 <= int(least) <= len(names) == len(set(names)):
                        raise Wrong(f"policy, line {number}: '{count}' of {len(names)} is no group")
                    policy.groups[name] = int(least), names
                    members.update(names)
                case ["quorum", name] if name == "none" or policy.known([name]):
                    quorums.append(name)
                case _:
                    raise Wrong(f"policy, line {number}: '{line[:80]}' is not understood; see c2sp.org/tlog-policy")
        if len(quorums) != 1:
            raise Wrong(f"policy: {len(quorums)} quorum lines; expected one")
        policy.quorum = quorums[0]
        return policy

    def known(self, names: list[str]) -> bool:
        return set(names) <= self.witnesses.keys() | self.groups.keys()

    def new(self, key: Key | None, name: str) -> bool:
        keys = {other.raw for other in (*self.logs, *self.witnesses.values())}
        return not self.known([name]) and name != "none" and (key is None or key.raw not in keys)

    def met(self, by: set[str], name: str | None = None) -> bool:
        name = name or self.quorum
        if name in self.groups:
            count, names = self.groups[name]
            return sum(self.met(by, each) for each in names) >= count
        return name == "none" or name in by


@dataclass(frozen=True)
class Head:
    origin: str
    size: int
    root: bytes
    witnesses: frozenset[str]


def opened(note: bytes, logs: list[Key], policy: Policy) -> Head:
    """A checkpoint with a log's signature and the cosignatures of known witnesses. Raises Wrong."""
    text, _, below = note.decode("utf-8", "replace").rpartition("\n\n")
    text += "\n"
    try:
        origin, size, root = text.split("\n")[:3]
        head = origin, int(size), base64.b64decode(root, validate=True)
        lines = [(name, base64.b64decode(coded, validate=True)) for _, name, coded in map(str.split, below.splitlines())]
        if below != "".join(f"— {name} {base64.b64encode(raw).decode()}\n" for name, raw in lines):
            raise ValueError
    except ValueError:
        raise Wrong("no checkpoint: expected origin, size, root, an empty line and signatures") from None
    signed, witnessed = False, set()
    for name, raw in lines:
        for label, key in [("", key) for key in logs] + list(policy.witnesses.items()):
            if (key.name, key.id) != (name, raw[:4]):
                continue
            message, signature = text.encode(), raw[4:]
            if key.kind == 4:
                message = f"cosignature/v1\ntime {int.from_bytes(signature[:8])}\n".encode() + message
                signature = signature[8:]
            try:
                Ed25519PublicKey.from_public_bytes(key.raw).verify(signature, message)
            except InvalidSignature:
                raise Wrong(f"the signature by {name}+{raw[:4].hex()} on the checkpoint of {head[1]} records does not verify") from None
            witnessed.add(label)
            signed = signed or (not label and key.name == head[0])
    if not signed:
        raise Wrong(f"the checkpoint of {head[1]} records is not signed by a given key of the log '{head[0]}'")
    return Head(*head, frozenset(witnessed - {""}))


def plain(path: Path) -> bytes:
    if not path.is_file() or path.stat().st_size > 1 << 25:
        raise Wrong(f"{path}: missing, no plain file, or too large")
    return path.read_bytes()


def joined(hashes: list[bytes]) -> list[bytes]:
    """The root over them: pairs become one, level by level, and a last one without a neighbour goes up as it is."""
    while len(hashes) > 1:
        pairs = zip(hashes[::2], hashes[1::2], strict=False)
        hashes = [sha256(b"\1" + left + right).digest() for left, right in pairs] + hashes[-1:] * (len(hashes) % 2)
    return hashes


class Ledger:
    """One pass over the files of a ledger, from the first record to the last."""

    def __init__(self, folder: Path, head: Head, earlier: list[Head], report: Report) -> None:
        self.folder, self.head, self.report = folder, head, report
        self._earlier = sorted((each for each in earlier if each.size), key=lambda each: each.size)
        self._rows: list[list[bytes]] = [[]]  # per level: hashes of its unfinished tile
        self._size, self._number, self._time, self._said_purged, self._held = 0, -1, 0.0, 0, set[str]()

    def walk(self) -> None:
        """Raises Wrong for a file that is missing or torn: what lies behind it can't be told apart."""
        size = self.head.size
        for index in range(-(-size // 256)):
            width = min(256, size - index * 256)
            if self.report.purged == index * 256 and width == 256 and not self._path("entries", index).exists():
                self._purged(index)
                continue
            (bundle, held), at = self._read("entries", index, width), 0
            while at < len(bundle) and (end := at + 2 + int.from_bytes(bundle[at : at + 2])) <= len(bundle):
                if len(self._rows[0]) < width:
                    self._record(bundle[at + 2 : end])
                    self._leaf(sha256(b"\0" + bundle[at + 2 : end]).digest())
                at, held = end, held - 1
            if at != len(bundle) or held:
                raise Wrong(f"bundle {index} does not hold as many records as its name says, or more than records")
        for level, row in [each for each in enumerate(self._rows) if each[1]]:
            self._tile(level, size // 256 ** (level + 1), row)
        if self.report.purged > self._said_purged:
            self.report.wrong(f"the first {self.report.purged} records are missing, and no record says that they were purged")
        if self._root() != self.head.root:
            self.report.wrong("the records are not those that the checkpoint's signature covers: something was changed")

    def _purged(self, index: int) -> None:
        """Of a bundle that is gone only the hashes are left, which the tree vouches for."""
        tile, _ = self._read("0", index, 256)
        for at in range(0, 256 * 32, 32):
            self._leaf(tile[at : at + 32])
        self.report.purged, self._number = index * 256 + 256, -2

    def _leaf(self, digest: bytes) -> None:
        self._rows[0].append(digest)
        self._size += 1
        while self._earlier and self._earlier[0].size <= self._size:
            if self._earlier.pop(0).root != self._root():
                self.report.wrong(f"the first {self._size} records are not those of an earlier checkpoint: changed, or forked")
        if len(self._rows[0]) == 256:
            self._full(0, self._size // 256 - 1)

    def _root(self) -> bytes:
        """Of the records so far: at each level the unfinished tile, behind it the root of what lies below."""
        below: list[bytes] = []
        for row in self._rows:
            below = joined(row + below)
        return below[0] if below else sha256(b"").digest()

    def _record(self, entry: bytes) -> None:
        """Numbers follow each other, and a hole is named by the record behind it."""
        where, report = self._size, self.report
        try:
            number, at = int((record := json.loads(entry))["seq"]), float(record["time"])
            what = record["kind"], record.get("event")
            if what == ("custody", "purged"):
                self._said_purged = max(self._said_purged, int(record["before"]))
                if self._held:
                    report.wrong(f"record {where} says that records were purged, while the hold '{min(self._held)}' stood")
            elif what == ("custody", "held"):
                self._held.add(str(record["name"]))
            elif what == ("custody", "released"):
                self._held.discard(str(record["name"]))
        except (ValueError, KeyError, TypeError):
            report.wrong(f"record {where} is no JSON object with seq, time and kind")
            return
        if number <= self._number:
            report.wrong(f"record {where} has the number {number} after {self._number}")
        elif number > self._number + 1 and self._number > -2:
            hole = ("ledger", "lost", self._number + 1, number - 1)
            if tuple(record.get(name) for name in ("kind", "event", "first", "last")) != hole:
                report.wrong(f"numbers {hole[2]} to {hole[3]} are missing before record {where}, which does not say that they were lost")
            report.lost += number - self._number - 1
        report.first, report.silence = report.first or at, max(report.silence, at - (self._time or at))
        self._number, self._time, report.last = number, at, at

    def _full(self, level: int, index: int) -> None:
        """A tile is full: its root goes into the level above."""
        row, self._rows[level] = self._rows[level], []
        self._tile(level, index, row)
        if level + 1 == len(self._rows):
            self._rows.append([])
        self._rows[level + 1] += joined(row)
        if len(self._rows[level + 1]) == 256:
            self._full(level + 1, index // 256)

    def _tile(self, level: int, index: int, row: list[bytes]) -> None:
        tile, _ = self._read(str(level), index, len(row))
        if tile[: len(row) * 32] != b"".join(row) or len(tile) not in (len(row) * 32, 256 * 32):
            bad = next((i for i, digest in enumerate(row) if tile[i * 32 : i * 32 + 32] != digest), 0)
            what = f"record {index * 256 + bad}" if level == 0 else f"tile {index * 256 + bad} of level {level - 1}"
            self.report.wrong(f"{what} is not what the tile above it says")

    def _read(self, level: str, index: int, width: int) -> tuple[bytes, int]:
        """A tile or bundle and how much is in it: the partial one of this width, or the full one that has taken its place."""
        full = self._path(level, index)
        part = full.with_name(f"{full.name}.p") / str(width)
        return (plain(part), width) if width < 256 and (part.exists() or not full.exists()) else (plain(full), 256)

    def _path(self, level: str, index: int) -> Path:
        parts = f"{index:,}".split(",")
        return self.folder.joinpath("tile", level, *(f"x{part:0>3}" for part in parts[:-1]), f"{parts[-1]:0>3}")


def verify(folder: Path, keys: list[Key], policy: Policy | None = None, since: list[bytes] | None = None) -> Report:
    """Everything that the files of a ledger can show. Raises Wrong when there is no checkpoint to hold them against."""
    logs = keys + (policy := policy or Policy()).logs
    head = witnessed = opened(plain(folder / "checkpoint"), logs, policy)
    earlier = [opened(note, logs, policy) for note in since or []]
    if (folder / "witnessed").exists():
        earlier.append(opened(plain(folder / "witnessed"), logs, policy))
        witnessed = head if policy.met(set(head.witnesses)) else earlier[-1]
    report = Report(head.origin, head.size, base64.b64encode(head.root).decode(), head.size - witnessed.size)
    if not policy.met(set(witnessed.witnesses)):
        report.wrong(f"no checkpoint has the quorum '{policy.quorum}'; cosigned by: {', '.join(sorted(witnessed.witnesses)) or 'nobody'}")
    for each in earlier:
        if each.origin != head.origin or each.size > head.size:
            report.wrong(f"an earlier checkpoint has {each.size} records of {each.origin}, the newest has {head.size}: rolled back")
    try:
        Ledger(folder, head, earlier, report).walk()
    except Wrong as error:
        report.problems.append(str(error))
    return report
