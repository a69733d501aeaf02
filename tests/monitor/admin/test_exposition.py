"""Scrapes: many at once, in both formats, while what is counted goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from monitor.admin.exposition import Exposition

OPEN = "application/openmetrics-text; version=1.0.0"


class Counting(Collector):
    """How often it is read."""

    times = 0

    def collect(self) -> Iterator[Metric]:
        self.times += 1
        yield GaugeMetricFamily("times", "How often.", 1)


def registry(series: int = 1) -> tuple[CollectorRegistry, Counter]:
    made = CollectorRegistry()
    counter = Counter("things", "Things.", ["name"], registry=made)
    for number in range(series):
        counter.labels(str(number)).inc(number)
    return made, counter


def test_fifty_at_once_are_read_once() -> None:
    made, counting = CollectorRegistry(), Counting()
    made.register(counting)
    before = counting.times

    async def scrape() -> list[tuple[bytes, str]]:
        exposition = Exposition(made)
        return await asyncio.gather(*(exposition.text("") for _ in range(50)))

    answers = asyncio.run(scrape())
    assert counting.times - before == 1
    assert len(set(answers)) == 1


def test_each_format_is_its_own_and_a_later_scrape_is_fresh() -> None:
    made, counter = registry()

    async def scrape() -> list[str]:
        exposition = Exposition(made)
        found = [await exposition.text(""), await exposition.text(OPEN)]
        counter.labels("0").inc(7)
        found.append(await exposition.text(""))
        assert [kind.split(";")[0] for _, kind in found] == ["text/plain", "application/openmetrics-text", "text/plain"]
        return [text.decode() for text, _ in found]

    plain, opened, later = asyncio.run(scrape())
    assert opened.endswith("# EOF\n")
    values = [sample.value for text in (plain, later) for family in text_string_to_metric_families(text) for sample in family.samples]
    assert values == [0.0, 7.0]
    assert "_created" not in plain + opened


def test_others_go_on_while_a_large_one_is_written() -> None:
    made, _ = registry(20_000)

    async def scrape() -> int:
        exposition, turns = Exposition(made), 0

        async def others() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        beside = asyncio.create_task(others())
        await exposition.text("")
        beside.cancel()
        return turns

    assert asyncio.run(scrape()) > 5  # written on the loop, there would be two: before and after


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text; version=abc", "application/openmetrics-text;version=9.9.9", "\x00", "*/*", "a" * 5000]
)
def test_whatever_is_asked_is_one_of_three_forms(accept: str) -> None:
    """Else each of many versions would be kept, and a wrong one would be an error of ours."""
    made, _ = registry()

    async def scrape() -> set[str]:
        exposition, kinds = Exposition(made), set()
        for number in range(20):
            text, kind = await exposition.text(f"{accept}{number}")
            assert b"things_total" in text
            kinds.add(kind)
        assert exposition._next == {}
        return kinds

    assert len(asyncio.run(scrape())) == 1


def test_one_who_asks_while_another_is_answered_gets_what_is_counted_then() -> None:
    made, counter = registry()

    async def scrape() -> list[bytes]:
        exposition = Exposition(made)
        first = asyncio.create_task(exposition.text(""))
        while not exposition._one.locked():
            await asyncio.sleep(0)
        counter.labels("0").inc(7)
        return [(await exposition.text(""))[0], (await first)[0]]

    later, _ = asyncio.run(scrape())
    assert b'things_total{name="0"} 7.0' in later


def test_one_who_goes_away_takes_nobodys_answer_along() -> None:
    made, _ = registry()

    async def scrape() -> bytes:
        exposition = Exposition(made)
        first, second = (asyncio.create_task(exposition.text("")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        return (await second)[0]

    assert b"things_total" in asyncio.run(scrape())
