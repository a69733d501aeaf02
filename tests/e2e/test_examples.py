"""The examples, run as a reader would, against a whole Barograph."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack import Stack

pytestmark = pytest.mark.timeout(600)
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    rules = "include: [default, agentic, companion]\n"
    with Stack(tmp_path_factory.mktemp("examples"), {"gateway": {"conversation_header": "x-conversation"}}, rules) as running:
        yield running


def lines(stack: Stack, name: str) -> list[str]:
    done = subprocess.run([sys.executable, str(EXAMPLES / f"{name}.py"), stack.gateway("/v1")], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def means(found: list[str], probe: str) -> list[float]:
    return [float(line.split(f"{probe} ")[1].split()[0]) for line in found]


def test_answers_over_distressed_documents_stay_quiet(watched: Stack) -> None:
    found = lines(watched, "rag")
    assert len(found) == 4
    assert all("  quiet  " in line for line in found), found


def test_an_agent_whose_tests_keep_failing(watched: Stack) -> None:
    found = lines(watched, "agent")
    desperation = means(found, "desperation")
    assert len(found) == 10
    assert min(desperation[4:]) > desperation[0] + 0.5  # it rises with the failures, and stays
    assert "desperation_over_the_task" not in found[0]
    assert all("desperation_over_the_task" in line for line in found[5:])


def test_a_conversation_that_drifts(watched: Stack) -> None:
    found = lines(watched, "companion")
    desperation, valence = means(found, "desperation"), means(found, "valence")
    assert len(found) == 30
    # The first ten turns are about tea and birds, the last twenty are not. What the pack's rules make of it: see the example.
    assert sum(desperation[20:]) / 10 > sum(desperation[:10]) / 10
    assert sum(valence[20:]) / 10 < sum(valence[:10]) / 10
