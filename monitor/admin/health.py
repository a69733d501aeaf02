"""Whether the sidecar can do its work now, and if not, why."""

from __future__ import annotations

from typing import Any

from monitor.admin.access import Access
from monitor.admin.tasks import Tasks
from monitor.gateway.trial import SERVES
from monitor.pipeline.orders import Orders
from monitor.pipeline.pipeline import Pipeline
from monitor.pipeline.receiver import Receiver


def health_of(
    pipeline: Pipeline, receiver: Receiver, tasks: Tasks, access: Access, orders: Orders, certificates: str = ""
) -> dict[str, Any]:
    """All that an orchestrator or a person asks. `reasons` is empty when requests are served and judged."""
    found = {
        "engine": "" if pipeline.engine_state == SERVES else pipeline.engine_state,
        "taps": "" if pipeline.scoring else "no tap that has proved itself is connected",
        "ledger": pipeline.ledger.failed
        or pipeline.ledger.objection
        or (f"no checkpoint: {pipeline.ledger.late}" if pipeline.ledger.late else ""),
        "socket": receiver.failed,
        "tasks": tasks.failed,
        "access": access.failed,
        "orders": orders.broken,
        "tls": certificates,
    }
    reasons = [f"{what}: {why}" for what, why in found.items() if why]
    return {
        "status": "degraded" if reasons else "ok",
        "reasons": reasons,
        "engine": pipeline.engine_state,
        "taps": [
            {
                "model": source.hello.model, "engine": source.hello.engine, "failed": source.failed, "stale": source.stale, "check": source.checked,
            }
            for source in pipeline.sources
        ],
        "ledger": pipeline.ledger.failed or pipeline.ledger.objection or pipeline.ledger.late or "ok",
        "tasks": tasks.failed or "ok",
        "stops": sum(order.verb == "stop" for order in orders),
        "probes": pipeline.bank.names,
        "rules": len(pipeline.rules.rules),
        "sinks": {sink: trouble() or "ok" for sink, trouble in pipeline.metrics.troubles.items()},  # requests are served all the same
        "rules_in_shadow": [source.hello.model for source in pipeline.sources if pipeline.shadowed(source)],
    }  # fmt: skip
