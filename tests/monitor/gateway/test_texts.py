"""Texts are kept where somebody asked for it, of the last few replies, and nowhere else."""

from __future__ import annotations

from typing import Any

import httpx

from monitor.gateway import texts as module
from monitor.gateway.texts import Texts
from tests.monitor.gateway.scene import ASK, CHAT, DONE, Scene, Stage, chunk, scored

SECRET = "canary-of-the-text"


def test_pieces_lie_beside_their_tokens(stage: Stage) -> None:
    texts = Texts(2)
    said = [chunk("one ", 1, role="assistant"), chunk("two three ", 3), chunk(None, 4, finish="stop", reasoning_content="why"), DONE]
    for streams in (True, False):
        stage.ask(scored(*said), settings={"texts": texts}, stream=streams)
    assert [kept.pieces for kept in texts._kept.values()] == [[(0, 1, "one "), (1, 3, "two three "), (3, 4, "why")]] * 2
    stage.ask(scored(*said), settings={"texts": texts}, stream=True)
    assert len(texts._kept) == 2


def test_what_a_rule_held_back_is_not_there(stage: Stage) -> None:
    texts = Texts(2)
    stage.ask(scored(chunk("one ", 1), chunk(SECRET, 2), DONE, panic=(0.0, 9.0)), settings={"texts": texts}, stream=True)
    assert [kept.pieces for kept in texts._kept.values()] == [[(0, 1, "one ")]]


def test_by_default_there_is_none_and_it_is_nowhere(stage: Stage) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> Any:
        await client.post(CHAT, json={**ASK, "stream": True})
        return scene.gateway.texts, scene.rig.said()

    texts, ledger = stage.play(scored(chunk(SECRET, 1), DONE), act)
    assert texts is None
    assert SECRET not in ledger


def test_a_long_reply_is_kept_up_to_a_bound() -> None:
    texts = Texts(1)
    for i in range(100):
        texts.left(("r", 0), i, i + 1, {"text": "x" * 1000})
    assert sum(len(said) for _, _, said in texts.of(("r", 0))) <= module.MAX_CHARACTERS
    assert texts.of(("r", 0))[0][0] == 0
    for i in range(module.MAX_PIECES + 5):
        texts.left(("s", 0), i, i + 1, {"delta": {"content": "x"}})
    assert len(texts.of(("s", 0))) == module.MAX_PIECES
    assert texts.of(("r", 0)) == []


def test_what_an_engine_says_amiss_is_not_taken_for_text() -> None:
    texts = Texts(1)
    for part in ({}, {"delta": None}, {"delta": {"content": 3}}, {"delta": {"tool_calls": {"x": 1}}}, {"delta": {"tool_calls": [3, {"function": "f"}]}}, {"text": []}):  # fmt: skip
        texts.left(("r", 0), 0, 1, part)
    assert texts.of(("r", 0)) == []
    texts.left(("r", 0), 0, 2, {"delta": {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}})
    assert texts.of(("r", 0)) == [(0, 2, "f{}")]
