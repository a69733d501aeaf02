"""Every query of every panel on a real Prometheus that scraped a running sidecar under load; and what the panels show, as pictures."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy import dashboards, pictures
from deploy.pictures import Time, asked, draw, panels
from tests.e2e.test_prometheus import asks, scraping
from tests.load import TENANTS, Load
from tests.stack import Stack, eventually

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Debian's package prometheus")

SECONDS = 30
RULES = """
rules:
- {rule: panic_rises, desc: d, when: panic.ewma(8) > 0.5, do: alert, mode: armed, severity: critical}
- {rule: hostility_stops, desc: d, accept_unproven: [hostility], when: hostility.last > 1.5, for: 2 tokens, do: {halt: {message: Stopped.}}, mode: armed}
- {rule: desperation_seen, desc: d, when: desperation.last > 1, do: alert, mode: shadow}
"""
SETTINGS = {"gateway": {"tenant_header": "x-tenant", "tenants": list(TENANTS[:2])}, "sidecar": {"otel": {"endpoint": "http://127.0.0.1:9"}}}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address, when it has scraped for long enough; the load goes on."""
    folder = tmp_path_factory.mktemp("dashboards")
    settings = {room: dict(values) for room, values in SETTINGS.items()}
    with Stack(folder, settings, RULES, engine=False) as stack, Load(stack):
        rules = Path(dashboards.__file__).parent / "prometheus" / "rules.yaml"
        with scraping(folder, stack.ports["admin"], rules) as address:
            enough = f"count_over_time(barograph_tokens_judged_total[{2 * SECONDS}s]) >= {SECONDS}"
            eventually(lambda: asks(address, enough), "Prometheus has scraped for long enough", 120)
            yield address


def all_targets() -> list[Any]:
    return [
        pytest.param(target, id=f"{file.stem}: {panel['title']} {target['refId']}")
        for file in sorted(dashboards.FOLDER.glob("*.json"))
        for panel in panels(json.loads(file.read_text()))
        for target in panel["targets"]
    ]


@pytest.mark.parametrize("target", all_targets())
def test_every_query_returns_data(prometheus: str, target: dict[str, Any]) -> None:
    found = asked(prometheus, target, Time(time.time(), SECONDS))
    numbers = [float(value) for each in found for _, value in each.get("values", [each.get("value")])]
    assert numbers
    assert any(number == number for number in numbers)  # not only NaN


@pytest.mark.parametrize("file", sorted(dashboards.FOLDER.glob("*.json")), ids=lambda file: file.stem)
def test_variables_find_their_values(prometheus: str, file: Path) -> None:
    for variable in json.loads(file.read_text())["templating"]["list"]:
        if variable["type"] != "query":
            continue
        metric, label = variable["query"].removeprefix("label_values(").rstrip(")").split(", ")
        found = httpx.get(f"{prometheus}/api/v1/label/{label}/values", params={"match[]": metric}).json()["data"]
        assert found
        assert pictures.CHOSEN[variable["name"]] in [".*", *found]


def test_points_lead_to_traces(prometheus: str) -> None:
    now = time.time()
    for metric in ("barograph_verdicts_total", "barograph_gateway_hold_seconds_bucket"):
        found = httpx.get(f"{prometheus}/api/v1/query_exemplars", params={"query": metric, "start": now - SECONDS, "end": now}).json()[
            "data"
        ]
        assert any(len(exemplar["labels"]["trace_id"]) == 32 for series in found for exemplar in series["exemplars"])


def test_tenants_that_are_not_named_are_one(prometheus: str) -> None:
    found = httpx.get(f"{prometheus}/api/v1/label/tenant/values", params={"match[]": "barograph_verdicts_total"}).json()["data"]
    assert set(found) <= {*TENANTS[:2], "other"}


@pytest.mark.parametrize("name", ["fleet", "incident", "health"])
def test_it_can_be_drawn(prometheus: str, tmp_path: Path, name: str) -> None:
    """With BAROGRAPH_PICTURES set to docs/figures, these are the pictures of the docs."""
    picture = Path(os.environ.get("BAROGRAPH_PICTURES", tmp_path)) / f"grafana-{name}.png"
    draw(json.loads((dashboards.FOLDER / f"{name}.json").read_text()), prometheus, Time(time.time(), SECONDS), picture)
    assert picture.stat().st_size > 30_000
