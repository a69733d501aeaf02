"""Our pages: what is generated is current, links lead somewhere, and every command of ours that is named exists with the options that it is given."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from deploy import cards, reference
from monitor.commands.cli import app
from tests.docs import PAGES, ROOT, named

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PASSED_ON = {"vllm", "verify-tap"}  # what stands behind them is vLLM's


@pytest.mark.parametrize("name", reference.PAGES)
def test_the_reference_is_current(name: str) -> None:
    assert (reference.FOLDER / name).read_text("utf-8") == reference.PAGES[name](), "python -m deploy.reference"


def test_every_setting_says_what_it_is() -> None:
    assert not re.findall(r"^\| .*\|  \|$", reference.configuration(), re.MULTILINE)


def test_the_figures_of_probes_are_those_of_the_cards() -> None:
    text = cards.PAGE.read_text("utf-8")
    assert cards.written() in text, "python -m deploy.cards"
    assert cards.side_by_side() in cards.FRONT.read_text("utf-8"), "python -m deploy.cards"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text("utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{target} leads nowhere"
        if anchor and there.suffix == ".md":
            heads = re.findall(r"^#+ (.*)$", there.read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}, f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_are_named_exist(page: Path) -> None:
    for command in named(page):
        for part in re.split(r"&&|\|\||;|\||\$\(", command):
            if re.search(r"\b(pip install|helm|runuser|systemctl|kubectl|docker|skopeo)\b", part):  # to them it is a name
                continue
            if (place := re.search(r"(?:^|[\s/(\"])barograph ", part + " ")) is not None:
                check(part[place.end() :], command)


def check(line: str, whole: str) -> None:
    words = shlex.split(line.replace("…", "").replace('"', " ").replace("'", " ").replace(")", " "))
    command: Any = typer.main.get_command(app)
    seen: list[str] = []
    while words and hasattr(command, "commands"):
        if words[0].startswith("-"):  # a group's own options, as of `engine --config FILE vllm`
            words = words[2:]
            continue
        name = words.pop(0).rstrip(",.:")
        if re.fullmatch(r"[A-Z]+|\.\.\.", name):
            return
        assert name in command.commands, f"`{whole}`: there is no `{' '.join([*seen, name])}`"
        command, seen = command.commands[name], [*seen, name]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    for word in words:
        if word == "--" or (seen and seen[-1] in PASSED_ON and word == "MODEL"):
            return
        if word.startswith("-") and len(word) > 1 and not word[1].isdigit():
            assert word.partition("=")[0] in known, f"`{whole}`: `{' '.join(seen)}` has no option {word}"


def test_what_the_threat_model_names_is_there() -> None:
    from tests.abuse.abuses import ABUSES

    shown = [line.split(" | ")[-1] for line in (ROOT / "docs/threat-model.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    found = 0
    for cell in shown:
        folder = ""
        for name in re.findall(r"`((?:tests/|deploy/|test_)[\w/.]+)`", cell):
            path = name if "/" in name else f"{folder}/{name}"  # a second file of the same folder
            folder = path.rpartition("/")[0]
            assert (ROOT / path).exists(), f"{path}, in: {cell}"
            found += 1
        for names in re.findall(r"`tests/abuse` \(([^)]*)\)", cell):
            assert set(re.findall(r"`(\w+)`", names)) <= ABUSES.keys(), cell
    assert found > 30


def test_the_page_of_reliability_says_what_the_run_found() -> None:
    from tests.abuse.report import PAGE, page

    found = json.loads((ROOT / "benchmarks/results/abuse.json").read_text("utf-8"))
    assert PAGE.read_text("utf-8") == page(found), "python -m tests.abuse --seconds 900 --report"
    assert found["wrong"] == []
