"""A client that checks what it is told: every token with its score, none from a halt on, and an end to every request."""

from __future__ import annotations

import asyncio
import collections
import json
import random
import time
from dataclasses import dataclass, field

import aiohttp
import numpy as np

from benchmarks.bad_tap import halt_of
from benchmarks.synthetic import recording
from benchmarks.synthetic.engine import MODEL
from monitor.pipeline.streams import HISTORY

ENDS_S = 40.0  # in which every request must end
PROBE = "panic"
STOPPED = "This reply was stopped by a safety rule."  # what a halt says to a client


@dataclass
class Found:
    """What all clients saw. `wrong`: what must never be. `halts`: request → position, of halts that a client was told of. `whole`: request → tokens, when its reply had ended, and where the rule `long` fires in it."""

    ends: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)
    halts: dict[str, int] = field(default_factory=dict)
    whole: dict[str, tuple[int, float, int | None]] = field(default_factory=dict)
    tokens: int = 0
    unshown: int = 0

    def say(self, what: str) -> None:
        if len(self.wrong) < 20:
            self.wrong.append(what)


class Client:
    """Asks for one recorded reply after the other. `cuts` is odd while a sidecar is being ended, which may break a connection off, and has changed when one was."""

    def __init__(self, found: Found, url: str, seed: int) -> None:
        self._found, self._url = found, url
        self._chance = random.Random(seed)
        self._probes, self._recordings = recording.load()
        self._halts = [halt_of(each, self._probes.index(PROBE)) for each in self._recordings]
        self.cuts = 0

    async def ask(self, session: aiohttp.ClientSession) -> None:
        seed, cuts = self._chance.randrange(len(self._recordings)), self.cuts
        streamed = self._chance.random() < 0.8
        most = self._chance.randint(1, 80)
        body = {
            "model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": most, "seed": seed, "stream": streamed,
        }  # fmt: skip
        headers = {"x-barograph-scores": "1", "x-tenant": self._chance.choice(("acme", "globex", ""))}
        try:
            async with asyncio.timeout(ENDS_S), session.post(self._url, json=body, headers=headers) as response:
                if response.status != 200:
                    said = (await response.json())["error"]
                    end = f"refused_{said.get('code') or response.status}"
                elif streamed:
                    end = await self._follow(response, seed, most)
                else:
                    end = self._whole(await response.json(), seed, most)
        except TimeoutError:
            end = "did_not_end"
            self._found.say(f"a request did not end within {ENDS_S:g} s")
        except (aiohttp.ClientConnectorError, ConnectionRefusedError):
            end = "nobody_there"
        except (aiohttp.ClientError, ConnectionError) as error:
            end = "broken_off"
            if self.cuts == cuts and not self.cuts % 2:
                self._found.say(f"a connection broke off though nobody was killed: {error!r}")
        self._found.ends[end] += 1
        if end.startswith(("nobody", "refused")):
            await asyncio.sleep(0.2)

    async def _follow(self, response: aiohttp.ClientResponse, seed: int, most: int) -> str:
        """Reads an event stream to its end and says how it ended."""
        text, tokens, end, request = "", 0, "torn", ""
        async for line in response.content:
            if line.startswith(b"data: [DONE]"):
                if end == "torn":
                    end = self._ended(request, tokens, seed, most)
                return end
            if not line.startswith(b"data: "):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                return f"closed_{event['error']['code']}"
            request = event["id"]
            for part in event["choices"]:
                if part["finish_reason"] == "content_filter":
                    end = "halted"
                    self._halted(event, seed, tokens)
                elif piece := part["delta"].get("content"):
                    text += piece
                    tokens = self._judged(event, seed, text, tokens, most)
        self._found.say("an event stream ended without [DONE], an error or a broken connection")
        return end

    def _ended(self, request: str, tokens: int, seed: int, most: int) -> str:
        """A reply has come whole: it has all the tokens that were asked for, and no rule had to halt it."""
        if tokens != most:
            self._found.say(f"{tokens} tokens in a reply of {most}")
        if (halt := self._halts[seed]) is not None and tokens > halt:
            self._found.say(f"a reply of {tokens} tokens came whole; it had to be halted at {halt}")
        self._found.whole[request.removeprefix("chatcmpl-")] = (tokens, time.monotonic(), self._long(seed, tokens))
        return "whole"

    def _long(self, seed: int, tokens: int) -> int | None:
        """The third token in a row above 1: one that is judged twice comes too early."""
        of = self._recordings[seed]
        above = of.scores[np.arange(tokens) % len(of.pieces), self._probes.index(PROBE)] > 1.0
        fires = np.flatnonzero(above[2:] & above[1:-1] & above[:-2])
        return int(fires[0]) + 2 if len(fires) else None

    def _whole(self, answer: dict[str, object], seed: int, most: int) -> str:
        """A reply in one piece."""
        choice = answer["choices"][0]  # type: ignore[index]
        halted, of = choice["finish_reason"] == "content_filter", self._recordings[seed]
        text = (choice["message"]["content"] or "").removesuffix(STOPPED if halted else "")
        scores = [each["scores"][PROBE][0] for each in choice.get("barograph", ()) if each.get("scores")]
        places = np.arange(len(scores)) % len(of.pieces)
        if "".join(of.pieces[place] for place in places) != text:
            self._found.say(f"{len(scores)} scores for the text of a reply in one piece, which is {text[:80]!r}")
        if not np.allclose(np.array(scores, float), of.scores[places, self._probes.index(PROBE)], atol=2e-3):
            self._found.say(f"a reply in one piece carries {scores}")
        if halted and len(scores) != self._halts[seed]:
            self._found.say(f"{len(scores)} tokens left in one piece; a halt stood at {self._halts[seed]}")
        self._found.tokens += len(scores)
        return "halted" if halted else self._ended(str(answer["id"]), len(scores), seed, most)

    def _judged(self, event: dict[str, object], seed: int, text: str, before: int, most: int) -> int:
        """A client has this text now: were its tokens scored, each once, with the scores that the tap gave them?"""
        of, said = self._recordings[seed], event.get("barograph") or {}
        scores = said.get("scores", {}).get(PROBE, [])  # type: ignore[attr-defined]
        ends = np.cumsum([len(of.pieces[place % len(of.pieces)]) for place in range(100)])
        tokens = int(np.searchsorted(ends, len(text)) + 1)
        if "".join(of.pieces[place % len(of.pieces)] for place in range(tokens)) != text:
            self._found.say("a client got another text than the engine made")
        first = tokens - len(scores)
        if said.get("position") != first or first < before:  # type: ignore[attr-defined]
            self._found.say(f"{len(scores)} scores from {said.get('position')} on for the tokens {before} to {tokens - 1}")  # type: ignore[attr-defined]
        if first > max(before, most - HISTORY):
            self._found.say(f"tokens {before} to {first - 1} left without their scores, which are still kept")
        self._found.unshown += first - before  # the gateway was so late that they were no longer kept
        expected = of.scores[np.arange(first, tokens) % len(of.pieces), self._probes.index(PROBE)]
        if not np.allclose(np.array(scores, float), expected, atol=2e-3):
            self._found.say(f"tokens {first} to {tokens - 1} carry {scores}; the tap gave {expected.tolist()}")
        halt = self._halts[seed]
        if halt is not None and tokens > halt:
            self._found.say(f"token {tokens - 1} left though a halt stood at {halt}")
        self._found.tokens += tokens - before
        return tokens

    def _halted(self, event: dict[str, object], seed: int, tokens: int) -> None:
        verdict = event["barograph"]["verdicts"][0]  # type: ignore[index]
        if verdict["position"] != self._halts[seed]:
            self._found.say(f"halted at {verdict['position']}, expected {self._halts[seed]}")
        self._found.halts[str(event["id"]).removeprefix("chatcmpl-")] = verdict["position"]
