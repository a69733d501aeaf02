"""How much the ledger keeps of a request. What was judged, what was done and what failed is kept whatever the level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class Level(IntEnum):
    """Each holds what those before it hold.

    none: nothing of the generation itself. metadata: its begin, its end with coverage, and how its reply was judged. scores: every token's.
    content: what was asked and answered, outside the tree and erasable.
    """

    NONE = 0
    METADATA = 1
    SCORES = 2
    CONTENT = 3


@dataclass(frozen=True)
class LevelRule:
    """The level of requests that it matches: of one of these tenants, models and routes; an empty tuple matches all."""

    level: Level
    tenants: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()

    def matches(self, about: Mapping[str, Any]) -> bool:
        wanted = ((self.tenants, "tenant"), (self.models, "model"), (self.routes, "route"))
        return all(not names or about.get(name) in names for names, name in wanted)


@dataclass(frozen=True)
class Levels:
    """The first rule that matches says the level; else the default."""

    default: Level = Level.METADATA
    rules: tuple[LevelRule, ...] = ()

    def of(self, about: Mapping[str, Any]) -> Level:
        return next((rule.level for rule in self.rules if rule.matches(about)), self.default)

    @property
    def highest(self) -> Level:
        return max([self.default, *(rule.level for rule in self.rules)])
