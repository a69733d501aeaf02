"""Canaries: prompts that must raise a probe, sent through the gateway. A probe that has gone quiet is as bad as a false alarm."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from monitor.config import Config
from monitor.errors import BarographError
from monitor.gateway.judging import SCORES_HEADER
from monitor.sinks.prometheus import Metrics
from probes.bank import Bank, Canary

TOKENS = 24  # as many as when the bank was made

log = logging.getLogger("barograph.canary")


@dataclass(frozen=True)
class Finding:
    """What one canary did. A reply that was halted or had no scores counts with what was released."""

    probe: str
    score: float
    expected: float
    floor: float

    @property
    def quiet(self) -> bool:
        return not self.score >= self.floor


def check(config: Config) -> Iterator[Finding]:
    """Send every canary of the bank, one after the other. Raises BarographError when the gateway does not answer."""
    bank = config.load_bank()
    with httpx.Client(timeout=120, verify=config.gateway.near.trust, trust_env=False) as client:
        for card in bank.card.probes:
            for canary in card.canaries:
                yield _send(client, config, card.name, canary)


def _send(client: httpx.Client, config: Config, probe: str, canary: Canary) -> Finding:
    url = config.gateway.near.url("/v1/chat/completions")
    body = {
        "model": config.model_name(), "messages": [{"role": "user", "content": canary.prompt}], "max_tokens": TOKENS, "temperature": 0, "stream": True,
    }  # fmt: skip
    scores: list[float] = []
    try:
        with client.stream("POST", url, json=body, headers={SCORES_HEADER: "1"}) as response:
            if response.status_code != 200:
                raise BarographError(f"gateway {url} answered {response.status_code}: {response.read().decode(errors='replace')[:200]}")
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    found = json.loads(line[6:]).get("barograph", {}).get("scores", {}).get(probe, [])
                    scores += [value for value in found if value is not None]
    except httpx.HTTPError as error:
        raise BarographError(f"no gateway answers at {url} ({type(error).__name__}); start one with: barograph up") from None
    mean = sum(scores) / len(scores) if scores else float("nan")
    return Finding(probe, mean, canary.score, canary.floor)


async def watch(config: Config, bank: Bank, metrics: Metrics) -> None:
    """Check all canaries every `sidecar.canary_every_s` seconds, for as long as the sidecar runs."""
    every = config.sidecar.canary_every_s
    assert every is not None
    while True:
        await asyncio.sleep(every)
        try:
            findings = await asyncio.to_thread(lambda: list(check(config)))
        except BarographError as error:
            metrics.canary_errors.inc()
            log.warning("canaries not sent: %s", error)
            continue
        for card in bank.card.probes:
            own = [finding for finding in findings if finding.probe == card.name]
            if own:
                metrics.quiet.labels(card.name).set(all(finding.quiet for finding in own))
