"""The failure modes: failures.yaml is the table, for people and for code."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from monitor.config import Fail, GatewayConfig

# Those for which a setting decides.
Condition = Literal["no_tap", "missing_score", "nan_score", "wrong_count", "ledger"]


@cache
def table() -> tuple[dict[str, Any], ...]:
    """A row a condition: condition, when, setting, default, closed, open, client."""
    return tuple(yaml.safe_load(Path(__file__).with_name("failures.yaml").read_text("utf-8")))


@cache
def _settings() -> dict[str, str]:
    return {row["condition"]: row["setting"].removeprefix("gateway.") for row in table()}


def decision(config: GatewayConfig, condition: Condition) -> Fail:
    """What the configuration says of a condition."""
    chosen: Fail = getattr(config, _settings()[condition])
    return chosen
