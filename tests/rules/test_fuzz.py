"""Wild rule files: read or refused, with a place, within a tenth of a second of processor time, and never a crash.

`BAROGRAPH_FUZZ_CASES=100000 pytest tests/rules/test_fuzz.py` runs the long version; each case comes from a seed that a failure prints.
"""

from __future__ import annotations

import copy
import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from monitor.config import PACKS, Config
from monitor.pipeline.rulefiles import facts, load, packs
from rules.document import DocumentError, parse
from rules.engine import RuleEngine
from rules.expression import Expression
from rules.fleet import prometheus
from rules.reading import ExpressionError
from rules.ruleset import RuleSet
from rules.testing import RuleTests, run

CASES = int(os.environ.get("BAROGRAPH_FUZZ_CASES", "2000"))
LIMIT_S = 0.1
FACTS = facts(Config().load_bank())
NAMES = [each.name for each in FACTS]
PACK_OF = {pack: load(Path(pack)) for pack in packs()}
TEXTS = [path.read_text() for path in sorted(PACKS.glob("*.yaml"))]
PIECES = [
    "desperation", ".ewma(8)", ".quantile(4, 0.5)", "fpr(0.001)", "(", ")", " > ", " and ", " or ", "not ", "-", "/", "0", "1e999", "9" * 400, "nan", "é", "\0",
    "\t", "\n", ": ", "- ", "{", "}", "[", "]", "&a ", "*a ", "!!python/object:os.system ", "? ", "| ", "> ", "'", '"', "#", "%", "@", "`", "0x40", "1_000", "~",
    "null", "true", "2001-01-01", "<<: ", "rules:\n", "macros: {a: b, b: a}\n", "include: [default]\n", "for: 9999999999 tokens\n", "__import__('os')",
    "lambda: 0", "(" * 80, "[" * 80, "not " * 60, "a" * 3000, "\ud800", "conversation", "stream", ".mean(conversation, 5)", "canary: 200%\n",
]  # fmt: skip


def mutated(text: str, chance: random.Random) -> str:
    for _ in range(chance.randint(1, 6)):
        at, end = sorted(chance.randrange(len(text) + 1) for _ in range(2))
        end = min(end, at + chance.choice([0, 1, 5, 40, 400]))
        what = chance.randrange(4)
        piece = chance.choice(PIECES) if what else text[at:end] * chance.randint(0, 3)
        text = text[:at] + piece + text[end if what > 1 else at :]
    return text


DOCUMENTS = [yaml.safe_load(text) for text in TEXTS]
VALUES: list[Any] = [
    None, True, 0, -1, 10**9, 10**400, 0.1, 1e308, float("nan"), float("inf"), "", "stream", "4 tokens", "2s", "10%", [], {}, ["a"], {"halt": {}}, {"alert": None},
    "armed", "sandbox", "request.tenant", "request.header['x'] == ''", "[1].all(x, x > 0)", "rate(halt[5m]) by tenant > 1", "share(stop_panic) > 5%", "0*9 4*9",
]  # fmt: skip


def altered(document: Any, chance: random.Random) -> str:
    """A document that is YAML, with some values and keys replaced."""
    document = copy.deepcopy(document)
    for _ in range(chance.randint(1, 3)):
        place: Any = document
        for _ in range(chance.randint(0, 4)):
            inner = [each for each in (place.values() if isinstance(place, dict) else place) if isinstance(each, (dict, list)) and each]
            if not inner:
                break
            place = chance.choice(inner)
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = chance.choice(keys)
        what = chance.randrange(8)
        if what == 0:
            del place[key]
        elif what == 1 and isinstance(place, dict):
            place[str(chance.choice(PIECES))] = place.pop(key)
        elif what == 2 and isinstance(place, list):
            place.append(place[key])
        elif what < 6:
            place[key] = expression(chance) if chance.random() < 0.6 else str(place[key]) + chance.choice(PIECES)
        else:
            place[key] = chance.choice(VALUES)
        if not document:
            break
    return yaml.safe_dump(document, allow_unicode=True, width=10_000)


def expression(chance: random.Random) -> str:
    return "".join(chance.choice(PIECES) for _ in range(chance.randint(1, 14)))[:2000]


def seconds(work: Callable[[], object]) -> float:
    """Processor time of `work`; the least of three when the first is too long, as another process may have had the cache."""
    taken = []
    for _ in range(3):
        start = time.thread_time()
        work()
        taken.append(time.thread_time() - start)
        if taken[-1] <= LIMIT_S:
            break
    return min(taken)


def said(text: str) -> str:
    """What reading and running a file says: nothing, or why it is refused."""
    try:
        if "\ntests:" in text:
            file = parse(text, RuleTests, "f.yaml")
            tokens = sum(len(series) for test in file.tests for stream in test.streams for series in stream.scores.values())
            if file.rules in PACK_OF and tokens < 100:  # a long series takes its time by right
                run(file, PACK_OF[file.rules], FACTS, "f.yaml")
            return ""
        ruleset = RuleSet.from_text(text, "f.yaml")
        engine = RuleEngine(ruleset, FACTS)
        engine.begin(0, {"tenant": "a"}, "k")
        for position in range(3):
            engine.judge(np.zeros(1, np.intp), np.array([position]), np.full((1, len(NAMES)), 9.0), position * 0.1)
        engine.end(0)
        prometheus(ruleset)
    except DocumentError as error:
        return str(error)
    return ""


@pytest.mark.timeout(3600)
def test_wild_files_are_read_or_refused_quickly() -> None:
    refused = 0
    for seed in range(CASES):
        chance = random.Random(seed)
        text = mutated(chance.choice(TEXTS), chance) if seed % 2 else altered(chance.choice(DOCUMENTS), chance)
        answers: list[str] = []
        assert seconds(lambda text=text, answers=answers: answers.append(said(text))) < LIMIT_S, seed  # type: ignore[misc]
        refused += bool(answers[0])
        assert answers[0] == "" or answers[0].startswith("f.yaml"), (seed, answers[0][:300])
    assert refused > CASES / 4  # the mutations do bite


@pytest.mark.timeout(3600)
def test_wild_conditions_are_compiled_or_refused_quickly() -> None:
    probes = {each.name: each for each in FACTS}

    def compiled(text: str) -> None:
        try:
            Expression(text, probes, {"up": "desperation.last > 1", "loop": "loop"})
        except ExpressionError as error:
            assert re.match(r"column \d+: ", str(error))

    for seed in range(CASES):
        text = expression(random.Random(seed))
        assert seconds(lambda text=text: compiled(text)) < LIMIT_S, seed  # type: ignore[misc]


@pytest.mark.parametrize(
    "text",
    [
        "a" * (10 << 20),
        "- " * 100_000,
        "[" * 100_000,
        "{a: " * 50_000,
        "rules:\n" + "- {rule: r, desc: d, when: panic.last > 1, do: alert}\n" * 100_000,
        "a: &a [x, x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a, *a]\n" for i in range(20)),
        "rules: !!python/object/apply:os.system ['true']\n",
        "? " * 10_000,
        "'" + "x\n" * 100_000,
        "a: " + "9" * 200_000,
        "lists: {l: [" + "x, " * 80_000 + "]}\nrules: []\n",
    ],
)
def test_bombs_are_refused_quickly(text: str) -> None:
    def refused() -> None:
        with pytest.raises(DocumentError, match=r"f\.yaml"):
            RuleSet.from_text(text, "f.yaml")

    assert seconds(refused) < LIMIT_S
