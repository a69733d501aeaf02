"""Exported rules on a real Prometheus, and an alert's way through a real Alertmanager back to the rules."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from deploy import dashboards
from monitor.pipeline.rulefiles import packs
from tests.load import Load
from tests.stack import ADMIN_TOKEN, PATIENCE_S, Stack, eventually, free_port

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("prometheus", "promtool", "prometheus-alertmanager"))),
    reason="needs Debian's packages prometheus and prometheus-alertmanager",
)

RULES = """
rules:
- {rule: each, desc: Fires in every stream., when: panic.last > -99, for: 2 tokens, do: alert, mode: armed}
- {rule: stop, desc: Stops every stream., accept_unproven: [panic], when: panic.last > -99, for: 4 tokens, do: {halt: {message: Stopped.}}, mode: shadow}
fleet:
- fleet: it_spreads
  desc: It fires again and again.
  when: count(each[1m]) by model > 1
  for: 1s
  severity: critical
  arm: [stop]
"""


def export(rules: str, out: Path) -> None:
    command = [sys.executable, "-m", "monitor", "rules", "export-prometheus", "--rules", rules, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("pack", packs())
def test_prometheus_takes_what_is_exported(tmp_path: Path, pack: str) -> None:
    export(pack, tmp_path / "rules.yaml")
    promtool("check", "rules", str(tmp_path / "rules.yaml"))


def test_fleet_rules_mean_what_they_say(tmp_path: Path) -> None:
    """promtool's own tests: a tenant whose replies are halted, and a share of streams."""
    export("strict", tmp_path / "rules.yaml")
    halts = 'barograph_verdicts_total{rule="stop_panic", action="halt", mode="armed", model="m", tenant="%s"}'
    series = {
        halts % "a": "0+20x30",  # a third of a halt a second
        halts % "b": "0+1x30",
        'barograph_streams_firing{rule="stop_panic", model="m"}': "0x10 6x20",
        'barograph_streams_firing{rule="stop_panic", model="n"}': "0x10 4x20",
        'barograph_streams_running{model="m"}': "100x30",
        'barograph_streams_running{model="n"}': "100x30",
    }
    alert = {"severity": "critical", "barograph": "fleet"}
    runbook = "docs/runbooks/{}.md"
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [{
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "alert_rule_test": [
                {"eval_time": "20m", "alertname": "BarographHaltsByTenant", "exp_alerts": [{
                    "exp_labels": {**alert, "tenant": "a"},
                    "exp_annotations": {"summary": "One tenant's replies are stopped again and again.", "runbook_url": runbook.format("desperation")},
                }]},
                {"eval_time": "8m", "alertname": "BarographPanicSpreads", "exp_alerts": []},
                {"eval_time": "20m", "alertname": "BarographPanicSpreads", "exp_alerts": [{
                    "exp_labels": {**alert, "model": "m", "barograph_arm": "stop_panic"},
                    "exp_annotations": {
                        "summary": "Panic is up in more than one of twenty running replies of a model; while it is, the rule that stops them is armed.",
                        "runbook_url": runbook.format("panic"),
                    },
                }]},
            ],
        }],
    }  # fmt: skip
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    promtool("test", "rules", str(tmp_path / "test.yaml"))


@contextmanager
def running(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE_S)


@contextmanager
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its address, and the alerts that came."""
    came: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.extend(json.loads(self.rfile.read(int(self.headers["content-length"])))["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", came
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def scraping(folder: Path, admin: int, rules: Path, alertmanager: int | None = None, features: str = "exemplar-storage") -> Iterator[str]:
    """A Prometheus that scrapes the sidecar every second and evaluates `rules`. Gives its address."""
    port = free_port()
    told = [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}] if alertmanager is not None else []
    (folder / "prometheus.yaml").write_text(yaml.safe_dump({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "alerting": {"alertmanagers": told},
        "scrape_configs": [{"job_name": "barograph", "static_configs": [{"targets": [f"127.0.0.1:{admin}"]}]}],
    }))  # fmt: skip
    command = [
        "prometheus", f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}", f"--enable-feature={features}",
    ]  # fmt: skip
    with running(command, folder / "prometheus.log"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def watched(folder: Path, admin: int, rules: Path, receiver: dict[str, Any]) -> Iterator[str]:
    """The same, and an Alertmanager that tells `receiver`."""
    port = free_port()
    (folder / "alertmanager.yaml").write_text(yaml.safe_dump({
        "route": {"receiver": "barograph", "group_wait": "0s", "group_interval": "1s", "repeat_interval": "1m"},
        "receivers": [{"name": "barograph", "webhook_configs": [receiver]}],
    }))  # fmt: skip
    command = [
        "prometheus-alertmanager", f"--config.file={folder / 'alertmanager.yaml'}", f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
    ]  # fmt: skip
    with running(command, folder / "alertmanager.log"), scraping(folder, admin, rules, port) as prometheus:
        yield prometheus


def test_a_server_that_asks_gets_native_histograms(tmp_path: Path) -> None:
    """Its quantiles of the scores are those of the classic form, which another server gets, within a bucket's width."""
    (tmp_path / "none.yaml").write_text("groups: []")
    places = {name: tmp_path / name for name in ("native-histograms", "exemplar-storage")}
    for place in places.values():
        place.mkdir()
    with Stack(tmp_path, engine=False) as stack, Load(stack), ExitStack() as servers:
        found = {}
        for feature, place in places.items():
            server = servers.enter_context(scraping(place, stack.ports["admin"], tmp_path / "none.yaml", features=feature))
            found[feature] = server
        native, classic = found["native-histograms"], found["exemplar-storage"]
        eventually(
            lambda: asks(classic, "count_over_time(barograph_tokens_judged_total[1m]) > 15"), "both have scraped for long enough", 90
        )
        eventually(lambda: asks(native, "histogram_count(sum(rate(barograph_score[30s]))) > 0"), "there are native histograms")
        assert not asks(native, "barograph_score_bucket")  # it keeps one form
        assert asks(native, "barograph_gateway_hold_seconds_bucket")  # which has no native form
        for query in ("0.5", "0.9", "0.99"):
            one = value(native, f'histogram_quantile({query}, sum by (probe) (rate(barograph_score{{probe="panic"}}[30s])))')
            two = value(classic, f'histogram_quantile({query}, sum by (le) (rate(barograph_score_bucket{{probe="panic"}}[30s])))')
            assert abs(one - two) < 1.0
        average = value(
            native, 'histogram_sum(rate(barograph_score{probe="panic"}[30s])) / histogram_count(rate(barograph_score{probe="panic"}[30s]))'
        )
        assert -3 < average < 3


def value(prometheus: str, query: str) -> float:
    answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", answer
    return float(answer["data"]["result"][0]["value"][1])


def asks(prometheus: str, query: str) -> bool:
    answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": query})
    return answer.status_code == 200 and bool(answer.json()["data"]["result"])  # 503 while it starts


def test_an_alert_on_the_monitor_itself_reaches_whoever_is_on_call(tmp_path: Path) -> None:
    """The shipped rules: replies are stopped because no tap is there."""
    rules = Path(dashboards.__file__).parent / "prometheus" / "rules.yaml"
    with (
        Stack(tmp_path, engine=False) as stack,
        webhook() as (url, came),
        watched(tmp_path, stack.ports["admin"], rules, {"url": url}) as prometheus,
    ):
        eventually(lambda: asks(prometheus, 'barograph_failure_decisions_total{condition="no_tap"} == 0'), "the series is there at 0")
        for _ in range(15):
            assert stack.chat().status_code == 503
        (alert,) = eventually(lambda: [each for each in came if each["labels"]["alertname"] == "BarographFailedClosed"][:1], "it came", 90)
        assert alert["labels"]["condition"] == "no_tap"
        assert alert["annotations"]["runbook_url"] == "docs/runbooks/monitor.md#failed-closed"


def test_an_alert_comes_back_and_arms_a_rule(tmp_path: Path) -> None:
    receiver = {"send_resolved": True, "http_config": {"authorization": {"credentials": ADMIN_TOKEN}}}
    with Stack(tmp_path, rules=RULES) as stack:
        export(str(stack.folder / "rules.yaml"), tmp_path / "exported.yaml")
        receiver["url"] = stack.admin("/alertmanager")
        with watched(tmp_path, stack.ports["admin"], tmp_path / "exported.yaml", receiver) as prometheus:
            seen = 'barograph_verdicts_total{rule="each",mode="armed",tenant=""}'
            eventually(lambda: asks(prometheus, seen), "Prometheus has seen the rule's series at 0")
            assert stack.chat(max_tokens=8).json()["choices"][0]["finish_reason"] == "length"

            def armed() -> bool:
                """Ask on meanwhile, so that the rule goes on firing however long Prometheus takes to see it."""
                assert stack.chat(max_tokens=8).status_code == 200
                return {rule["rule"]: rule["mode"] for rule in httpx.get(stack.admin("/rules")).json()["rules"]}["stop"] == "armed"

            eventually(armed, "BarographItSpreads fired and came back", 120)
            assert stack.chat(max_tokens=8).json()["choices"][0]["finish_reason"] == "content_filter"
        assert stack.ledger("rules")[-1]["modes"] == {"stop": "armed"}
