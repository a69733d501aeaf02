"""Rule files on disk: packs by name, includes beside the file that names them, and a bank's facts for them."""

from __future__ import annotations

import os
import posixpath
from hashlib import sha256
from pathlib import Path
from typing import Literal

from monitor.audit.manifest import Trust, note_of
from monitor.config import PACKS, Config, read_text
from monitor.errors import ConfigError
from probes.bank import Bank, Threshold
from rules.abilities import Abilities, Doses
from rules.facts import ProbeFacts
from rules.ruleset import RuleSet

SOOTHING = ("calm",)  # safety probes of something good: rules may push towards them
SUFFIXES = (".yaml", ".yml")

State = tuple[int, int, int]


class Reading:
    """Reads a rule file and what it includes. `seen`: every file that was looked for, with its state just before, there or not.

    `signer`: the key that vouches for them all, where `trust` wants one.
    """

    def __init__(self, path: Path, trust: Trust = Trust()) -> None:  # noqa: B008  # it is frozen
        self._main = find(str(path))
        self._folder = self._main.parent.resolve()
        self.seen: dict[str, State] = {}
        self.signer = ""
        self._trust = trust
        self._files: dict[str, str] = {}  # that have to be vouched for, with their digests

    def ruleset(self) -> RuleSet:
        """Raises DocumentError, ConfigError and TrustError."""
        found = RuleSet.from_text(self._read(self._main, Path(os.path.realpath(self._main))), str(self._main), self._included)
        if self._trust.keys and self._files:
            note = note_of(self._main)
            self.seen[str(note)] = state(note)
            self.signer = self._trust.check(note, self._files)
        return found

    @property
    def files(self) -> dict[str, str]:
        """What was read beside the shipped packs: names from the rule file's folder, and the sha256 of each."""
        return dict(self._files)

    def _read(self, path: Path, real: Path) -> str:
        """`real`: where the links of `path` led when it was looked at. That is read, as they may lead elsewhere by now."""
        self.seen[str(path)] = state(path)
        text = read_text(real)
        if real.parent != PACKS.resolve():
            name = posixpath.normpath(os.path.relpath(path, self._main.parent))
            self._files[name] = sha256(text.encode()).hexdigest()
        return text

    def _included(self, name: str, by: str) -> tuple[str, str]:
        path = find(name, by)
        self.seen[str(path)] = state(path)
        # What lies elsewhere is not read at all: a message about it would show some of it. `..` and links are followed first.
        try:
            real = path.resolve()
        except (OSError, RuntimeError, ValueError):
            raise ConfigError(f"{by}: cannot include {name!r}: it leads nowhere; expected the path of a file, or a pack's name") from None
        if not (real.parent == PACKS.resolve() or real.is_relative_to(self._folder)):
            raise ConfigError(f"{by}: cannot include '{name}': it lies outside {self._folder}, the folder of the rules")
        if not os.path.isfile(path):  # unlike Path.is_file, it takes names that are too long
            raise ConfigError(f"{by}: cannot include '{name}': expected a file at {path}, or one of the packs {', '.join(packs())}")
        return self._read(path, real), str(path)


def load(path: Path, trust: Trust = Trust()) -> RuleSet:  # noqa: B008  # it is frozen
    """A rule file with all that it includes. `path` may be the name of a shipped pack. Raises DocumentError, ConfigError and TrustError."""
    return Reading(path, trust).ruleset()


def find(name: str, by: str | None = None) -> Path:
    """The file that `name` means: a shipped pack, or a path, which is relative to the file `by`."""
    if not name.endswith(SUFFIXES) and Path(name).name == name and os.path.isfile(pack := PACKS / f"{name}.yaml"):
        return pack
    path = Path(name)
    return Path(by).parent / path if by is not None and not path.is_absolute() else path


def state(path: Path) -> State:
    """What changes when a file does: time, size and place. Zeros for one that is not there."""
    try:
        about = path.stat()
    except (OSError, ValueError):
        return 0, 0, 0
    return about.st_mtime_ns, about.st_size, about.st_ino


def packs() -> list[str]:
    """The shipped packs by name."""
    return sorted(path.stem for path in PACKS.glob("*.yaml") if not path.stem.endswith(".test"))


def facts(bank: Bank) -> tuple[ProbeFacts, ...]:
    """What rules may know of a bank's probes."""
    return tuple(
        ProbeFacts(
            card.name,
            _by_rate(card.thresholds),
            card.causal,
            card.worthwhile,
            card.cause.beats if card.cause is not None else ProbeFacts.beats,
            card.group == "safety" and card.name not in SOOTHING,
            _by_rate(card.reply_thresholds),
        )
        for card in bank.card.probes
    )


def _by_rate(thresholds: dict[str, list[Threshold]]) -> dict[str, dict[float, float]]:
    return {window: {each.rate: each.value for each in found} for window, found in thresholds.items()}


def abilities(config: Config) -> Abilities:
    """What can be done about rules with this configuration."""
    steer = config.tap.steer
    doses: Doses | Literal[False] = Doses(steer.probes, steer.max_dose, steer.max_tokens) if steer is not None else False
    return Abilities(frozenset(config.gateway.targets), config.gateway.tenant_header is not None, doses)
