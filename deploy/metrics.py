"""Writes docs/metrics.md from the metrics themselves: python -m deploy.metrics"""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry

from monitor.config import Config
from monitor.sinks.prometheus import Metrics, StreamGauges
from probes.drift import Drift

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
HEAD = """# Metrics

What `/metrics` on the admin address says. Made by `python -m deploy.metrics` from the metrics themselves; a test checks that it is current.

Labels come from fixed sets, so that no client can make series without end: probes, rules, actions and conditions as they are configured; the first sixteen models by name and `other` for those behind them; tenants of `gateway.tenants`, and `other`.

| metric | type | labels | what it is |
| --- | --- | --- | --- |
"""


def page() -> str:
    bank = Config().load_bank()
    registry = CollectorRegistry()
    metrics = Metrics(registry, bank.names, Drift(bank, 1000))
    metrics.bank_info.info({"digest": "", "model": "", "probes": ""})
    metrics.rules_info.info({"digest": ""})
    registry.register(StreamGauges(dict))
    rows = []
    for collector in list(registry._collector_to_names):  # there is no public way to ask for labels of a family without samples
        for family in collector.collect():
            labels = getattr(collector, "_labelnames", ()) or sorted({name for sample in family.samples for name in sample.labels} - {"le"})
            if not labels and family.name.startswith("barograph_streams_"):
                labels = {"running": ("model",), "state": ("state", "model"), "firing": ("rule", "model"), "peak": ("probe", "model")}[
                    family.name.rpartition("_")[2]
                ]
            name = f"{family.name}_total" if family.type == "counter" else f"{family.name}_info" if family.type == "info" else family.name
            rows.append(f"| `{name}` | {family.type} | {', '.join(labels)} | {family.documentation} |")
    return HEAD + "\n".join(sorted(rows)) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
