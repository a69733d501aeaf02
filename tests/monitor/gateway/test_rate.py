"""Requests that come too fast are refused before anything of them is read."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError
from starlette.requests import Request

from monitor.config import GatewayConfig, RateConfig
from monitor.gateway import rate
from monitor.gateway.rate import Rate
from monitor.http.openai import OpenAIError
from probes.bank import Bank
from tests.monitor.gateway.scene import ASK, CHAT, DONE, Exchange, Scene, chunk


def request(address: str = "10.0.0.1", tenant: str = "") -> Request:
    return Request({"type": "http", "method": "POST", "path": "/", "headers": [(b"x-tenant", tenant.encode())], "client": (address, 1)})


async def admitted(limits: Rate, *requests: Request) -> int:
    count = 0
    for each in requests:
        try:
            await limits.admit(each)
        except OpenAIError as error:
            assert (error.status, error.headers["retry-after"]) == (429, "2")
        else:
            count += 1
    return count


@pytest.mark.parametrize(
    ("by", "other", "shared"),
    [("all", request("10.0.0.2"), True), ("address", request("10.0.0.2"), False), ("tenant", request(tenant="b"), False)],
)
def test_who_shares_a_rate(by: str, other: Request, shared: bool) -> None:
    async def act() -> None:
        limits = Rate(RateConfig.model_validate({"requests_per_s": 0.5, "burst": 3, "by": by}), "x-tenant")
        assert await admitted(limits, *[request(tenant="a")] * 5) == 3
        assert await admitted(limits, other) == (0 if shared else 1)

    asyncio.run(act())


def test_one_network_of_ipv6_is_one_client() -> None:
    async def act() -> None:
        limits = Rate(RateConfig(requests_per_s=0.5, burst=1, by="address"), None)
        assert await admitted(limits, request("2001:db8::1"), request("2001:db8::2"), request("2001:db8:0:1::1")) == 2

    asyncio.run(act())


def test_clients_of_ipv4_that_a_listener_of_ipv6_names_are_not_one() -> None:
    async def act() -> None:
        limits = Rate(RateConfig(requests_per_s=0.5, burst=1, by="address"), None)
        first, second = request("::ffff:192.0.2.1"), request("::ffff:192.0.2.2")
        assert [await admitted(limits, first, first), await admitted(limits, second, request("192.0.2.2"))] == [1, 1]

    asyncio.run(act())


def test_the_rate_comes_back() -> None:
    async def act() -> None:
        limits = Rate(RateConfig(requests_per_s=50, burst=1), None)
        await limits.admit(request())
        await asyncio.sleep(0.1)
        await limits.admit(request())

    asyncio.run(act())


def test_a_million_names_make_no_table_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        monkeypatch.setattr(rate, "MOST", 10)
        limits = Rate(RateConfig(requests_per_s=0.5, burst=2, by="address"), None)
        count = await admitted(limits, *(request(f"10.0.1.{number}") for number in range(100)))
        assert count == 12  # ten of their own, and two of the bucket that the others share
        assert len(limits._buckets) == 10

    asyncio.run(act())


def test_a_refused_request_is_not_read_and_the_engine_hears_nothing(bank: Bank, tmp_path: Path) -> None:
    async def act() -> None:
        async def script(exchange: Exchange) -> None:
            exchange.start()
            exchange.send(chunk("a", 1), DONE)

        async with Scene(bank, tmp_path, script, rate=RateConfig(requests_per_s=0.01, burst=1)).open() as client:
            await client.post("/v1/tokenize", json={})  # whatever is asked by POST counts
            refused = await client.post(CHAT, json=ASK)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
            assert refused.headers["retry-after"] == "100"
            assert (await client.get("/v1/models")).status_code != 429

    asyncio.run(act())


def test_a_rate_by_tenant_needs_to_know_the_tenant() -> None:
    with pytest.raises(ValidationError, match="tenant_header"):
        GatewayConfig.model_validate({"rate": {"requests_per_s": 1, "by": "tenant"}})
