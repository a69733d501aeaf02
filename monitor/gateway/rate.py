"""How fast requests may come, in all, by tenant or by address: a leaky bucket each."""

from __future__ import annotations

import ipaddress
import math
import time

from aiolimiter import AsyncLimiter
from starlette.requests import Request

from monitor.config import RateConfig
from monitor.http.openai import OpenAIError

MOST = 10_000  # buckets; those who come when all are in use share one
LOOK_S = 1.0  # a full table is looked through at most so often


class Rate:
    """Refuses what comes too fast."""

    def __init__(self, config: RateConfig, tenant_header: str | None) -> None:
        self._config = config
        self._tenant_header = tenant_header or ""
        self._buckets: dict[str, AsyncLimiter] = {}
        self._others = self._bucket()
        self._looked = 0.0

    async def admit(self, request: Request) -> None:
        """Raises OpenAIError 429 when the request comes too fast."""
        bucket = self._of(self._whose(request))
        if not bucket.has_capacity():
            wait = math.ceil(1 / self._config.requests_per_s)
            raise OpenAIError(
                429, f"more than {self._config.requests_per_s:g} requests a second ({self._config.by}); try again in {wait} s",
                kind="rate_limit_error", code="rate_limit_exceeded", retry_after=wait,
            )  # fmt: skip
        await bucket.acquire()  # there is room, so it waits for nothing

    def _whose(self, request: Request) -> str:
        by = self._config.by
        if by == "tenant":
            return request.headers.get(self._tenant_header, "")[:256]
        return _network(request.client.host) if by == "address" and request.client is not None else ""

    def _of(self, whose: str) -> AsyncLimiter:
        if (bucket := self._buckets.get(whose)) is not None:
            return bucket
        if len(self._buckets) >= MOST and time.monotonic() - self._looked > LOOK_S:
            self._looked = time.monotonic()  # a bucket that is empty again says no more than a new one
            self._buckets = {name: each for name, each in self._buckets.items() if not each.has_capacity(self._config.burst)}
        if len(self._buckets) >= MOST:
            return self._others
        return self._buckets.setdefault(whose, self._bucket())

    def _bucket(self) -> AsyncLimiter:
        return AsyncLimiter(self._config.burst, self._config.burst / self._config.requests_per_s)


def _network(address: str) -> str:
    """Whoever has one address of IPv6 has 2^64 of them: they share a bucket. A listener on [::] names clients of IPv4 as ::ffff:a.b.c.d."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))
