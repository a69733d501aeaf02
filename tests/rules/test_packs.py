"""The shipped packs: they compile, every rule has a test, and what the docs say of them was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monitor.config import PACKS, Config, read_text
from monitor.pipeline.rulefiles import facts, load, packs
from rules import testing
from rules.abilities import Abilities
from rules.document import parse
from rules.engine import RuleEngine
from rules.schema import Action, json_schema

ROOT = Path(__file__).parents[2]


def test_there_are_the_five() -> None:
    assert packs() == ["agentic", "companion", "default", "strict", "support"]


@pytest.mark.parametrize("pack", packs())
def test_a_pack_passes_its_tests_and_every_rule_has_one(pack: str) -> None:
    path = PACKS / f"{pack}.test.yaml"
    ruleset = load(Path(pack))
    file = parse(read_text(path), testing.RuleTests, str(path))
    probes = facts(Config().load_bank())
    RuleEngine(ruleset, probes, Abilities(frozenset(), False))  # what is armed can be done without any setting
    for outcome in testing.run(file, ruleset, probes, str(path)):
        assert outcome.ok, "\n".join([outcome.name, *outcome.difference])
    assert all(testing.coverage([file], ruleset).values())


@pytest.mark.parametrize("pack", packs())
def test_what_stops_a_reply_ships_in_shadow_with_a_runbook(pack: str) -> None:
    for rule in load(Path(pack)).rules:
        assert rule.action < Action.THROTTLE or rule.mode == "shadow"
        assert rule.runbook
        assert (ROOT / rule.runbook).is_file()


def test_the_docs_state_each_rule_s_false_alarms_as_they_were_measured() -> None:
    from benchmarks.packs import table

    line = json.loads((ROOT / "benchmarks" / "results" / "packs.json").read_text())
    assert {pack: set(found) for pack, found in line["packs"].items()} == {
        pack: {rule.rule for rule in load(Path(pack)).rules} for pack in packs()
    }
    assert table(line) in (ROOT / "docs" / "rules.md").read_text("utf-8")


def test_the_published_schema_is_that_of_the_code() -> None:
    assert json.loads((ROOT / "docs" / "rules.schema.json").read_text()) == json.loads(json.dumps(json_schema()))
