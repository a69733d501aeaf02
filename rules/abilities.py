"""What whoever runs the rules can do about them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rules.nearest import unknown
from rules.schema import Rule


@dataclass(frozen=True)
class Abilities:
    """`targets`: where replies may be re-routed to, by name; `tenants`: whether requests name their tenant. None: nobody knows yet."""

    targets: Collection[str] | None = None
    tenants: bool | None = None

    def objection(self, rule: Rule) -> str:
        """Why the rule must not be armed here; empty when it may."""
        if rule.maturity == "sandbox":
            return f"rule '{rule.rule}' has maturity: sandbox and cannot be armed"
        reroute, throttle = rule.do.reroute, rule.do.throttle
        if reroute is not None and self.targets is not None and reroute.to not in self.targets:
            if not self.targets:
                return f"rule '{rule.rule}' re-routes to '{reroute.to}'; expected gateway.targets with that name"
            return f"rule '{rule.rule}': {unknown('target', reroute.to, self.targets)}"
        if throttle is not None and throttle.tenant is not None and self.tenants is False:
            return f"rule '{rule.rule}' throttles tenants; expected gateway.tenant_header, by which requests name theirs"
        return ""
