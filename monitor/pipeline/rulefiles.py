"""Rule files on disk: packs by name, includes beside the file that names them, and a bank's facts for them."""

from __future__ import annotations

from pathlib import Path

from monitor.config import PACKS, read_text
from monitor.errors import ConfigError
from probes.bank import Bank
from rules.facts import ProbeFacts
from rules.ruleset import RuleSet

SUFFIXES = (".yaml", ".yml")


def load(path: Path) -> RuleSet:
    """A rule file with all that it includes. `path` may be the name of a shipped pack. Raises DocumentError and ConfigError."""
    path = find(str(path), None)
    return RuleSet.from_text(read_text(path), str(path), _included)


def find(name: str, by: str | None) -> Path:
    """The file that `name` means: a shipped pack, or a path, which is relative to the file `by`."""
    if not name.endswith(SUFFIXES) and (pack := PACKS / f"{name}.yaml").is_file():
        return pack
    path = Path(name)
    if not path.is_absolute() and by is not None:
        path = Path(by).parent / path
    if by is not None and not path.is_file():
        raise ConfigError(f"{by}: cannot include '{name}': expected a file at {path}, or one of the packs {', '.join(packs())}")
    return path


def packs() -> list[str]:
    """The shipped packs by name."""
    return sorted(path.stem for path in PACKS.glob("*.yaml") if not path.stem.endswith(".test"))


def facts(bank: Bank) -> tuple[ProbeFacts, ...]:
    """What rules may know of a bank's probes."""
    return tuple(
        ProbeFacts(
            card.name,
            {window: {each.rate: each.value for each in found} for window, found in card.thresholds.items()},
            card.causal,
        )
        for card in bank.card.probes
    )


def _included(name: str, by: str) -> tuple[str, str]:
    path = find(name, by)
    return read_text(path), str(path)
