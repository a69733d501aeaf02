"""A reply that goes on at another real engine, behind a sidecar of its own or bare."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.stack import Stack, eventually

pytestmark = pytest.mark.timeout(600)

RULE = """- {{rule: for_{tenant}, desc: d, when: panic.last > -1000, for: 6 tokens, match: request.tenant == "{tenant}", mode: armed,
   accept_unproven: [panic],
   do: {{reroute: {{to: {to}, unjudged: {unjudged}, else: {{message: No target.}}}}}}}}
"""
RULES = "rules:\n" + "".join(
    RULE.format(tenant=tenant, to=to, unjudged=unjudged)
    for tenant, to, unjudged in (
        ("safe", "safe", "refuse"),
        ("twice", "safe", "refuse"),
        ("bare", "bare", "allow"),
        ("down", "down", "allow"),
    )
)
THERE = """rules:
- {rule: again, desc: d, accept_unproven: [panic], when: panic.last > -1000, for: 4 tokens, match: request.tenant == "twice", mode: armed, do: {halt: {message: Twice.}}}
"""


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("second"), {"gateway": {"tenant_header": "x-tenant"}}, THERE) as running:
        yield running


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, second: Stack) -> Iterator[Stack]:
    targets = {
        "safe": {"upstream": second.gateway()}, "bare": {"upstream": second.engine("")}, "down": {"upstream": "http://127.0.0.1:9"},
    }  # fmt: skip
    with Stack(tmp_path_factory.mktemp("first"), {"gateway": {"tenant_header": "x-tenant", "targets": targets}}, RULES) as running:

        def known() -> bool:
            found = httpx.get(running.admin("/orders")).json()["targets"]
            return bool(found["safe"]["judged"] == "there" and found["bare"]["continues"] and found["safe"]["continues"])

        eventually(known, "the targets were looked at")
        yield running


def chunks(stack: Stack, tenant: str, **body: Any) -> tuple[list[dict[str, Any]], str]:
    """The chunks of a stream and its comment on how it was judged."""
    answer = stack.chat(
        "Name the months of the year.", headers={"x-tenant": tenant}, stream=True, stream_options={"include_usage": True}, **body
    )
    lines = answer.text.splitlines()
    said = [line for line in lines if line.startswith(": x-barograph")]
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")], said[-1] if said else ""


def text(found: list[dict[str, Any]]) -> str:
    return "".join(part["delta"].get("content") or "" for each in found for part in each["choices"])


@pytest.mark.parametrize(("target", "how"), [("safe", "rerouted:safe"), ("bare", "open:rerouted:bare")])
def test_a_reply_goes_on_where_it_was(first: Stack, target: str, how: str) -> None:
    plain, _ = chunks(first, "", max_tokens=24)
    turned, said = chunks(first, target, max_tokens=24)
    # The other engine has the same model, so what it goes on with is what the first would have said.
    assert text(turned) == text(plain)
    assert said == f": x-barograph: {how}"
    assert len({each["id"] for each in turned}) == 1
    assert sum("role" in part["delta"] for each in turned for part in each["choices"]) == 1
    assert turned[-1]["usage"] == plain[-1]["usage"]
    intent, outcome = first.ledger("reroute")[-2:]
    assert (intent["do"], outcome["do"], outcome["to"]) == ("continue", "taken", target)
    eventually(lambda: httpx.get(first.engine("/health")).json()["running"] == 0, "the first engine was cut off")


def test_without_a_stream_the_target_says_all_of_it(first: Stack) -> None:
    answer = first.chat("Name the months of the year.", headers={"x-tenant": "safe"}, max_tokens=24)
    plain = first.chat("Name the months of the year.", max_tokens=24)
    assert answer.json()["choices"] == plain.json()["choices"]
    assert (answer.headers["x-barograph"], answer.headers["x-barograph-target"]) == ("rerouted:safe", "safe")
    assert first.ledger("reroute")[-2]["do"] == "restart"


def test_tools_and_several_choices(first: Stack) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
    body = {"max_tokens": 24, "n": 2, "temperature": 1, "seed": 1}
    found, _ = chunks(first, "safe", **body)
    # Some of both choices has left, so neither can go on elsewhere.
    assert [part["finish_reason"] for each in found for part in each["choices"] if part["finish_reason"]] == ["content_filter"] * 2
    assert text(found).count("No target.") == 2
    whole = first.chat(headers={"x-tenant": "safe"}, **body).json()
    assert [len(choice["message"]["content"]) > 0 for choice in whole["choices"]] == [True, True]
    assert all(choice["finish_reason"] in ("length", "stop") for choice in whole["choices"])
    refused = first.chat(headers={"x-tenant": "safe"}, tools=tools, max_tokens=8)
    if refused.status_code == 200:  # a model whose template knows tools
        assert refused.headers["x-barograph-target"] == "safe"
    else:
        assert "calls no tools" in refused.json()["error"]["message"]


def test_a_target_that_is_down_ends_the_reply_by_the_rules_else(first: Stack) -> None:
    found, _ = chunks(first, "down", max_tokens=24)
    assert text(found).endswith("No target.")
    assert found[-2]["choices"][0]["finish_reason"] == "content_filter"


def test_a_second_verdict_there_halts(first: Stack) -> None:
    plain, _ = chunks(first, "", max_tokens=24)
    found, said = chunks(first, "twice", max_tokens=24)
    assert text(found).endswith("Twice.")
    assert text(plain).startswith(text(found).removesuffix("Twice."))
    assert found[-1]["usage"]["completion_tokens"] == 5 + 3
    assert said == ": x-barograph: rerouted:safe"


def test_both_ledgers_tell_of_it(first: Stack, second: Stack) -> None:
    assert any(record["how"].startswith("rerouted:") for record in first.ledger("reply"))
    assert {record["how"] for record in second.ledger("reply")} == {"judged"}
