"""A pipeline with fake taps, without a socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from prometheus_client import CollectorRegistry

from monitor import wire
from monitor.audit.levels import Levels
from monitor.config import SidecarConfig
from monitor.pipeline.pipeline import Parts, Pipeline
from monitor.pipeline.rulefiles import facts
from monitor.pipeline.source import Source
from monitor.sinks.prometheus import Metrics
from probes.bank import Bank
from probes.drift import Drift
from rules.engine import RuleEngine
from tests import ledgers

RULES = "rules:\n- {rule: high, desc: d, when: panic.last > 3, do: halt, mode: armed}\n- {rule: look, desc: d, when: panic.last > 2, do: alert, mode: shadow}\n"


class Rig:
    """A pipeline and one connected source."""

    def __init__(self, bank: Bank, path: Path, rules: str = RULES, **sidecar: Any) -> None:
        self.registry = CollectorRegistry()
        levels, followers = sidecar.pop("levels", Levels()), sidecar.pop("followers", ())
        self.ledger = ledgers.ledger(path)
        drift = Drift(bank, 1000)
        metrics = Metrics(self.registry, bank.names, drift)
        self.pipeline = Pipeline(
            Parts(
                bank,
                RuleEngine.from_text(rules, facts(bank)),
                self.ledger,
                metrics,
                drift,
                SidecarConfig(**sidecar),
                levels=levels,
                followers=followers,
            )
        )
        self.hello = wire.Hello(wire.VERSION, "s", 1, "e", "m", "d", bank.digest, list(bank.names), list(bank.layers))
        self.source = self.tap()
        self.seq = 0

    def tap(self, **changes: Any) -> Source:
        """A tap that connects and has proved itself."""
        source = self.pipeline.connect(msgspec.structs.replace(self.hello, **changes))
        self.pipeline.take(source, wire.encode(wire.Check(True, 8, 0.0)))
        return source

    def frame(
        self, rows: list[tuple[int, int, float]] = (), begins: Any = (), ends: Any = (), source: Source | None = None, **more: Any
    ) -> None:
        self.seq += 1
        scores = np.zeros((len(rows), len(self.pipeline.bank.names)), "<f4")
        scores[:, 1] = [value for _, _, value in rows]
        streams, positions = (np.array([row[i] for row in rows], "<u4") for i in (0, 1))
        frame = wire.Frame(
            more.pop("seq", self.seq),
            0,
            0,
            streams.tobytes(),
            positions.tobytes(),
            scores.tobytes(),
            [wire.Begin(*b) for b in begins],
            [wire.End(*e) for e in ends],
            **more,
        )
        self.pipeline.take(source or self.source, wire.encode(frame))

    def records(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in ledgers.records(self.ledger.path, self.ledger) if record["kind"] == kind]

    def said(self) -> str:
        """All that the ledger holds, as text."""
        return ledgers.said(self.ledger.path, self.ledger)

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)
