"""Throttling: how fast a reply's tokens leave, and how much a tenant may still ask for."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from aiolimiter import AsyncLimiter

from monitor.audit.ledger import Ledger
from monitor.http.openai import OpenAIError
from monitor.pipeline.orders import Order, Orders
from monitor.pipeline.streams import Stream, StreamTable
from rules.schema import TenantLimit, Throttle
from rules.verdict import Verdict

LOOK_S = 1.0
SLICE_S = 0.25  # a reply that waits looks so often whether it still has to
BURST_S = 10.0  # a tenant may ask at once for what it may ask for in this time
MOST = 10_000  # tenants
BY_HAND = ""  # stands in a rule's place for an order


class Pace:
    """Lets the tokens of one choice leave at the rate of the rules that fire in its stream."""

    def __init__(self) -> None:
        self._last = time.monotonic()  # when a token was last due

    async def keep(self, stream: Stream | None, tokens: int) -> None:
        """Wait until `tokens` more may leave; not at all while nothing throttles the stream."""
        while tokens > 0 and stream is not None and stream.acting is None and (rate := rate_of(stream)) is not None:
            due = self._last + 1 / rate
            left = due - time.monotonic()
            if left > SLICE_S:
                await asyncio.sleep(SLICE_S)
                continue
            if left > 0:
                await asyncio.sleep(left)
            self._last = max(due, time.monotonic() - SLICE_S)  # what a late timer cost is made up for, an idle time is not
            tokens -= 1


def rate_of(stream: Stream | None) -> float | None:
    """Tokens a second that the strictest of a stream's throttles lets through; None when none is on."""
    if stream is None or not stream.throttles:
        return None
    return min(
        (rate for verdict in stream.throttles.values() if (rate := throttle_of(verdict).tokens_per_second) is not None), default=None
    )


def throttle_of(verdict: Verdict) -> Throttle:
    """What a verdict's throttle asks for; the default where a rule's limit weakened another action to it."""
    return verdict.rule.do.throttle or Throttle(tokens_per_second=5.0)


@dataclass
class Throttled:
    """One tenant under the limits of one rule, or of an order. `calm`: since when nothing of the tenant has fired the rule."""

    tenant: str
    rule: str
    why: str
    limits: TenantLimit
    since: float = field(default_factory=time.time)
    calm: float = field(default_factory=time.monotonic)
    refused: int = 0
    bucket: AsyncLimiter | None = None

    def __post_init__(self) -> None:
        if (rate := self.limits.requests_per_minute) is not None:
            burst = max(1.0, rate * BURST_S / 60)
            self.bucket = AsyncLimiter(burst, 60 * burst / rate)

    def refusal(self, running: int) -> tuple[str, int] | None:
        """Why one more request must wait, and for how many seconds; None when it may run."""
        limits = self.limits
        if limits.concurrency is not None and running >= limits.concurrency:
            return f"{limits.concurrency} requests at a time", 1
        if self.bucket is not None and limits.requests_per_minute and not self.bucket.has_capacity():
            return f"{limits.requests_per_minute:g} requests a minute", math.ceil(60 / limits.requests_per_minute)
        return None


class Throttles:
    """The tenants that are throttled in this replica: by rules until they are calm again, and by orders until those are taken back."""

    def __init__(self, streams: StreamTable, orders: Orders, ledger: Ledger) -> None:
        self._streams = streams
        self._orders = orders
        self._ledger = ledger
        self._tenants: dict[str, dict[str, Throttled]] = {}  # by tenant and rule
        self.overflow = 0  # tenants that were not throttled because too many are
        self.ordered()

    def __len__(self) -> int:
        return len(self._tenants)

    def verdict(self, verdict: Verdict, stream: Stream) -> None:
        """A throttle rule fires in a stream."""
        limits, tenant, rule = throttle_of(verdict).tenant, str(stream.about.get("tenant", "")), verdict.rule.rule
        if limits is None:
            return
        under = self._tenants.get(tenant, {})
        if (known := under.get(rule)) is not None:
            known.calm = time.monotonic()
        elif under or len(self._tenants) < MOST:
            self._throttle(Throttled(tenant, rule, verdict.rule.desc, limits), stream=stream.name)
        else:
            self.overflow += 1

    def ordered(self) -> None:
        """Follow the orders that stand now."""
        wanted = {order.name: order for order in self._orders if order.verb == "throttle" and order.limits is not None}
        for tenant in [tenant for tenant, under in self._tenants.items() if BY_HAND in under and tenant not in wanted]:
            self._lift(tenant, BY_HAND, "the order was taken back")
        for tenant, order in wanted.items():
            present = self._tenants.get(tenant, {}).get(BY_HAND)
            if order.limits is not None and (present is None or present.limits != order.limits):
                self._throttle(Throttled(tenant, BY_HAND, _said(order), order.limits))

    async def admit(self, tenant: str, running: Callable[[], int]) -> None:
        """One request of a tenant wants to run. Raises OpenAIError 429 when it must wait."""
        under = self._tenants.get(tenant)
        if not under:
            return
        count = running()
        for each in under.values():
            if (refusal := each.refusal(count)) is not None:
                each.refused += 1
                limit, seconds = refusal
                raise OpenAIError(
                    429, f"this tenant is throttled to {limit}; try again in {seconds} s", kind="rate_limit_error", code="tenant_throttled",
                    retry_after=seconds,
                )  # fmt: skip
        for each in under.values():
            if each.bucket is not None:
                await each.bucket.acquire()  # there is room, so it waits for nothing

    def lift(self, tenant: str, why: str) -> int:
        """Take all limits of rules off a tenant. Returns how many there were; a rule that fires again sets them again."""
        rules = [rule for rule in self._tenants.get(tenant, {}) if rule != BY_HAND]
        for rule in rules:
            self._lift(tenant, rule, why)
        return len(rules)

    def describe(self) -> list[dict[str, Any]]:
        return [
            {
                "tenant": each.tenant, "by": each.rule or "order", "why": each.why, "since": each.since, "refused": each.refused,
                **each.limits.model_dump(mode="json", include={"requests_per_minute", "concurrency"}),
            }
            for under in self._tenants.values() for each in under.values()
        ]  # fmt: skip

    def count(self, tenant: str, named: Collection[str]) -> int:
        """How many are throttled of those that metrics show as `tenant`: one that is named, or all others."""
        return sum((each if each in named else "other") == tenant for each in self._tenants)

    async def watch(self) -> None:
        """Lift the limits of tenants that have been calm for long enough."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look(time.monotonic())

    def look(self, now: float) -> None:
        if not self._tenants:
            return
        firing = {
            (str(stream.about.get("tenant", "")), rule)
            for slot, stream in self._streams.by_slot.items() if not self._streams.ended[slot] for rule in stream.throttles
        }  # fmt: skip
        for each in [each for under in self._tenants.values() for each in under.values() if each.rule != BY_HAND]:
            if (each.tenant, each.rule) in firing:
                each.calm = now
            elif now - each.calm >= each.limits.recover.seconds:
                self._lift(each.tenant, each.rule, "calm again")

    def _throttle(self, throttled: Throttled, **more: str) -> None:
        self._tenants.setdefault(throttled.tenant, {})[throttled.rule] = throttled
        self._record("throttled", throttled.tenant, throttled.rule, throttled.why, **more)

    def _lift(self, tenant: str, rule: str, why: str) -> None:
        del self._tenants[tenant][rule]
        if not self._tenants[tenant]:
            del self._tenants[tenant]
        self._record("lifted", tenant, rule, why)

    def _record(self, event: str, tenant: str, rule: str, why: str, **more: str) -> None:
        self._ledger.append("tenant", event=event, tenant=tenant, rule=rule, why=why, **more)


def _said(order: Order) -> str:
    return f"by {order.by}: {order.reason}"
