"""What whoever runs the rules can do about them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from rules.nearest import unknown
from rules.schema import Rule, Steer


@dataclass(frozen=True)
class Doses:
    """How far rules may steer: along which probes, the largest dose either way, and for how many tokens."""

    probes: Collection[str]
    largest: float
    tokens: int

    def objection(self, steer: Steer) -> str:
        if steer.probe not in self.probes:
            return f"steers along '{steer.probe}'; tap.steer.probes has: {', '.join(self.probes)}"
        if abs(steer.dose) > self.largest:
            return f"steers with a dose of {steer.dose:g}; tap.steer.max_dose is {self.largest:g}"
        if steer.span.tokens > self.tokens:
            return f"steers for {steer.span.tokens} tokens; tap.steer.max_tokens is {self.tokens}"
        return ""


@dataclass(frozen=True)
class Abilities:
    """`targets`: where replies may be re-routed to, by name; `tenants`: whether requests name their tenant; `doses`: how far replies may be steered,
    False for not at all. None: nobody knows yet.
    """

    targets: Collection[str] | None = None
    tenants: bool | None = None
    doses: Doses | Literal[False] | None = None

    def objection(self, rule: Rule) -> str:
        """Why the rule must not be armed here; empty when it may."""
        if rule.maturity == "sandbox":
            return f"rule '{rule.rule}' has maturity: sandbox and cannot be armed"
        reroute, throttle, steer = rule.do.turning, rule.do.throttle, rule.do.steer
        if reroute is not None and self.targets is not None and reroute.to not in self.targets:
            if not self.targets:
                return f"rule '{rule.rule}' re-routes to '{reroute.to}'; expected gateway.targets with that name"
            return f"rule '{rule.rule}': {unknown('target', reroute.to, self.targets)}"
        if throttle is not None and throttle.tenant is not None and self.tenants is False:
            return f"rule '{rule.rule}' throttles tenants; expected gateway.tenant_header, by which requests name theirs"
        if steer is not None and self.doses is not None:
            if self.doses is False:
                return f"rule '{rule.rule}' steers along '{steer.probe}'; expected tap.steer, which allows it"
            if objection := self.doses.objection(steer):
                return f"rule '{rule.rule}' {objection}"
        return ""
