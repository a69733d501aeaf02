"""What a reply's record says of its coverage: "no alert" is evidence only where tokens were judged before they left."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.monitor.gateway.scene import ASK, CHAT, DONE, Exchange, Scene, Stage, chunk, usage


async def half(exchange: Exchange) -> None:
    """Four tokens of which the tap scores two, and then says that there were four."""
    stream = exchange.begin()
    exchange.scores(stream, 0, 0.0, 0.0)
    exchange.start()
    exchange.send(chunk("a", 1), chunk("b", 2), chunk("c", 3), chunk("d", 4, finish="stop"), usage(4), DONE)
    await exchange.writer.drain()
    await exchange.gone.wait() if exchange.scene.config.on_missing_score == "closed" else None
    exchange.end(stream, 4)


@pytest.mark.parametrize(
    ("settings", "tokens", "early"),
    [({"on_missing_score": "open"}, 4, 2), ({"hold": "off"}, 4, 2), ({"hold": {"lag": 1}, "on_missing_score": "open"}, 4, 2), ({}, 2, 0)],
)
def test_tokens_that_left_unjudged_are_counted(stage: Stage, settings: dict[str, Any], tokens: int, early: int) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        await client.post(CHAT, json={**ASK, "stream": True})
        await scene.until(lambda: scene.rig.records("reply"), "the reply is recorded")
        await scene.until(lambda: [each for each in scene.rig.records("stream") if each["event"] == "end"], "its stream's end too")
        (reply,) = scene.rig.records("reply")
        assert (reply["tokens"], reply["early"]) == (tokens, early)
        begin, end = scene.rig.records("stream")
        assert reply["streams"] == [begin["stream"]] == [end["stream"]]
        assert (end["tokens"], end["judged"], end["dropped"]) == (4, 2, 2)
        assert begin["rules"] == end["rules"] == scene.rig.pipeline.rules.digest

    stage.play(half, act, **settings)
