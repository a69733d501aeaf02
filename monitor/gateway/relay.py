"""A stream with token counts on its way through the gateway: chunks come from the engine, and leave when their tokens are judged."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, TypeGuard

import aiohttp
import numpy as np

from monitor.gateway.asked import Asked
from monitor.gateway.calls import Calls
from monitor.gateway.course import Course, Event, State
from monitor.gateway.cut import cut, tokens_of
from monitor.gateway.hold import RELEASE, Failure, Hold, Outcome, Release, Stop
from monitor.gateway.reroute import Delivered, Turn, Way
from monitor.gateway.throttle import Pace, rate_of
from monitor.http import jsons
from monitor.http.openai import OpenAIError, unavailable
from monitor.http.sse import EventParser, EventStreamError
from monitor.pipeline.streams import StreamTable, Ticket
from rules.schema import Action
from rules.verdict import Verdict

Chunk = dict[str, Any]
Plan = Callable[[Verdict, dict[int, Delivered]], tuple[Way, str]]


class Relay:
    """Follows one reply. `counts`: by choice, the tokens that left or were given up; `halted`: the choices that a rule ended."""

    def __init__(
        self, asked: Asked, hold: Hold, streams: StreamTable, ticket: Ticket, probes: tuple[str, ...], scores: bool, whole_calls: bool
    ) -> None:
        self.asked = asked
        self.counts: dict[int, int] = {}
        self.halted: dict[int, Verdict] = {}
        self.fingerprint: Any = None  # of the engine, from the chunk that a client who wants no usage does not get
        self.delivered: dict[int, Delivered] = {}
        self.courses: dict[int, Course] = {}
        self.turn: Turn | None = None  # the reply goes on elsewhere
        self.cuts = True  # whether a chunk is cut at a token where its engine tells their texts
        self.on_left: Callable[[int, int, int, Chunk], None] | None = None  # hears of a choice's tokens, from one to another, that leave
        self.plan: Plan | None = None  # what becomes of a reply that a rule re-routes; without one its `else`
        self._paces: dict[int, Pace] = {}
        self._hold = hold
        self._streams = streams
        self._ticket = ticket
        self._probes = probes
        self._scores = scores
        self._calls: dict[int, Calls] | None = {} if whole_calls else None
        self._finished: dict[int, str] = {}  # by choice, why the engine ended it
        self._last_usage: dict[str, Any] = {}
        self._head: Chunk = {}

    async def released(self, packets: AsyncIterator[bytes]) -> AsyncGenerator[list[Chunk]]:
        """Chunks that may leave, in the engine's order, as many at a time as came together. Raises OpenAIError.

        It ends when the engine ends, or when a rule has ended every choice that was asked for.
        """
        parser = EventParser()
        out: list[Chunk] = []
        try:
            async for packet in packets:
                for event in parser.feed(packet):
                    if not event.data:
                        continue
                    if event.data == b"[DONE]":
                        yield out + self._kept()
                        return
                    chunk = chunk_of(event.data)
                    kept = []
                    parts = self._parts(chunk, out)
                    for part in parts:
                        first, end, found = self._weigh(part, chunk.get("usage"), len(parts))
                        stream = self._ticket.streams.get(part["index"])
                        if out and (found is None or (end > first and rate_of(stream) is not None)):
                            yield out  # what may leave does not wait for what may not
                            out = []
                        if found is None:
                            found = await self._hold.outcome(part["index"], end)
                        if self._hold.unrecorded(found):
                            if out:
                                yield out
                                out = []
                            found = await self._hold.recorded(found, part["index"])
                        if isinstance(found, Release):
                            await self._paces.setdefault(part["index"], Pace()).keep(self._ticket.streams.get(part["index"]), end - first)
                        if self._settle(chunk, part, first, end, found, out):
                            kept.append(part)
                        if self.turn is not None:
                            if self.asked.streams:
                                yield out
                            return
                    if kept:
                        self._emit(chunk, kept, out)
                    if self._all_halted:
                        yield out + self._halted_usage()
                        return
                if out:
                    yield out
                    out = []
            raise upstream_error("the engine closed the stream before its end")
        except EventStreamError as error:
            failure = upstream_error(f"the engine sent {error}")
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            failure = broken_off(error)
        except OpenAIError as error:
            failure = error
        if out:
            yield out
        raise failure

    def _parts(self, chunk: Chunk, out: list[Chunk]) -> list[Chunk]:
        """The choices of a chunk that are still of interest. A chunk without any goes to `out` by itself."""
        choices, usage = chunk.get("choices"), chunk.get("usage")
        if chunk.get("error") is not None:
            raise said_by_engine(chunk["error"])
        if chunk.get("object") == "error":
            raise upstream_error(str(chunk.get("message", "the engine failed"))[:1000])
        self._head = {key: value for key, value in chunk.items() if key not in ("choices", "usage")}
        if not choices:
            self._last(chunk, usage, out)
            return []
        if isinstance(usage, dict):
            self._last_usage = usage
        if not isinstance(choices, list) or not (usage is None or isinstance(usage, dict)):
            raise upstream_error("the engine sent a chunk whose choices are no list, or whose usage is no object")
        for part in choices:
            if not isinstance(part, dict) or not is_count(part.get("index")):
                raise upstream_error("the engine sent a choice without an index")
            if self.asked.choices is not None and part["index"] >= self.asked.choices:
                raise upstream_error(f"the engine sent choice {part['index']} of {self.asked.choices}")
        return [part for part in choices if part["index"] not in self.halted]

    def _weigh(self, part: Chunk, usage: Chunk | None, of: int) -> tuple[int, int, Outcome | None]:
        """How many tokens the choice had and has, and what becomes of the part; None when its scores are still to come."""
        index = part["index"]
        first = self.counts.get(index, 0)
        end = self._count(part, usage, of, first)
        if end is None:
            return first, first, self._hold.fail("wrong_count", "text came with no newly counted token, or a count that fell", index)
        if end > first:
            return first, end, self._hold.at_once(index, end)
        stream = self._ticket.streams.get(index)
        # A standing halt cuts whatever comes next.
        halted = stream is not None and stream.acting is not None and stream.acting.position < first
        return first, end, Stop(stream.acting) if halted and stream and stream.acting else RELEASE

    def _settle(self, chunk: Chunk, part: Chunk, first: int, end: int, found: Outcome, out: list[Chunk]) -> bool:
        """Whether the part leaves. What a halted choice ends with goes to `out` by itself. Raises OpenAIError for a failure."""
        index = part["index"]
        if isinstance(found, Failure):
            raise unjudged(found)
        if isinstance(found, Stop):
            if found.verdict.action == Action.REROUTE:
                self._reroute(chunk, part, found.verdict, first, end, out)
            else:
                self._halt(chunk, part, found.verdict, first, end, out)
            return False
        self.counts[index] = end
        self._hold.left(index, first, end)
        if self.on_left is not None:
            self.on_left(index, first, end, part)
        if part.get("finish_reason"):
            self._finished[index] = str(part["finish_reason"])
            self.course(index).take(Event.END)
        if self._scores and end > first:
            chunk["barograph"] = self._extension(index, first, end)
        return True

    def _count(self, part: Chunk, usage: Chunk | None, of: int, first: int) -> int | None:
        """How many tokens the choice has with this part; None when it says none that can be right. Raises when it says none at all."""
        text = _generated(part)
        if of == 1 and usage is not None:
            count = usage.get("completion_tokens")
            if not is_count(count) or count < first:
                return None
            if count == first and text and not (first == 0 and self.asked.echo):
                return None
            return int(count)
        own = tokens_of(part)
        if own is not None:
            return first + own if own or not text else None
        if not text:
            return first
        raise OpenAIError(
            502, "the engine sends text without token counts; expected an engine that supports stream_options.continuous_usage_stats, one "
            "choice a chunk, or token ids", kind="server_error", code="upstream_unsupported",
        )  # fmt: skip

    def _reroute(self, chunk: Chunk, part: Chunk, verdict: Verdict, first: int, end: int, out: list[Chunk]) -> None:
        """Turn to the rule's target if the reply can go on there, with what was judged before the verdict; else its `else` ends the choice."""
        index, course = part["index"], self.course(part["index"])
        course.take(Event.REROUTE)
        way, _ = self.plan(verdict, self.delivered if self.asked.streams else {}) if self.plan is not None else ("halt", "")
        if way == "halt" or course.state is not State.REROUTING:
            course.take(Event.MISSED)
            self._halt(chunk, part, verdict, first, end, out)
            return
        tokens, text = first, ""
        if self.asked.streams and any(each.anything for each in self.delivered.values()):
            kept = cut(part, end - first, verdict.position - first) if self.cuts else None
            if kept is not None:
                self._emit(chunk, [kept], out)
                tokens = max(first, verdict.position)
            text = self.delivered[index].text
        self.counts[index] = tokens if self.asked.streams else 0
        ending: list[Chunk] = []
        self._end(part, verdict, ending)
        roles = frozenset(each for each, sent in self.delivered.items() if sent.role and self.asked.streams)
        prompt = self._last_usage.get("prompt_tokens") if is_count(self._last_usage.get("prompt_tokens")) else None
        self.turn = Turn(verdict, way, text, self.counts[index], roles, self._head, prompt, ending + self._halted_usage())

    def course(self, index: int) -> Course:
        return self.courses.setdefault(index, Course())

    def answered(self, event: Event) -> None:
        """The target took the reply, or did not."""
        for course in self.courses.values():
            if course.state is State.REROUTING:
                course.take(event)

    def _halt(self, chunk: Chunk, part: Chunk, verdict: Verdict, first: int, end: int, out: list[Chunk]) -> None:
        index = part["index"]
        self.halted[index] = verdict
        self.course(index).take(Event.HALT)
        self.counts[index] = max(first, verdict.position)
        self._hold.halted(first - verdict.position)
        kept = cut(part, end - first, verdict.position - first) if self.cuts else None
        if kept is not None:
            self._emit(chunk, [kept], out)
        self._end(part, verdict, out)

    def _end(self, part: Chunk, verdict: Verdict, out: list[Chunk]) -> None:
        message = ending(verdict)
        body: Chunk = {"delta": {"content": message}} if "delta" in part else {"text": message}
        last = {"index": part["index"], **body, "logprobs": None, "finish_reason": "content_filter"}
        out.append({**self._head, "choices": [last], "barograph": {"verdicts": [fired(verdict)]}})

    def _emit(self, chunk: Chunk, parts: list[Chunk], out: list[Chunk]) -> None:
        """Put a chunk with these parts of it on its way, as the client would have got it from the engine."""
        made = {**chunk, "choices": parts}
        if not self.asked.running_usage:
            made.pop("usage", None)
        if self.fingerprint is not None and not self.asked.usage and any(part.get("finish_reason") for part in parts):
            made.setdefault("system_fingerprint", self.fingerprint)
        leaving = [made]
        if self._calls is not None:
            leaving = []
            for part in parts:
                one = made if len(parts) == 1 else {**made, "choices": [part]}
                leaving += self._calls.setdefault(part["index"], Calls()).through(one, part)
        if self.plan is not None:
            for chunk in leaving:
                for part in chunk["choices"]:
                    self.delivered.setdefault(part["index"], Delivered()).add(part)
        out += leaving

    def _last(self, chunk: Chunk, usage: Any, out: list[Chunk]) -> None:
        """A chunk without choices: the usage at the end, or something that we do not know."""
        if usage is None:
            out.append(chunk)
            return
        self._last_usage = usage if isinstance(usage, dict) else {}
        if chunk.get("system_fingerprint") is not None:
            self.fingerprint = chunk["system_fingerprint"]
        if self.asked.usage or not self.asked.streams:
            out.append({**chunk, "usage": self._total(self._last_usage) if self.halted else usage})

    def _halted_usage(self) -> list[Chunk]:
        if not (self.asked.usage or not self.asked.streams):
            return []
        return [{**self._head, "choices": [], "usage": self._total(self._last_usage)}]

    @property
    def reasons(self) -> list[str]:
        """Why each choice ended, as the client hears it."""
        return [reason for _, reason in sorted({**self._finished, **dict.fromkeys(self.halted, "content_filter")}.items())]

    @property
    def prompt_tokens(self) -> int | None:
        count = self._last_usage.get("prompt_tokens")
        return count if is_count(count) else None

    @property
    def _all_halted(self) -> bool:
        """Whether no choice that was asked for is left."""
        return (
            bool(self.halted) and self.asked.choices is not None and len(self.halted.keys() | self._finished.keys()) >= self.asked.choices
        )

    def _kept(self) -> list[Chunk]:
        return [chunk for index, calls in (self._calls or {}).items() if index not in self.halted for chunk in calls.rest()]

    def _extension(self, index: int, first: int, end: int) -> dict[str, Any]:
        stream = self._ticket.streams.get(index)
        if stream is None:
            return {}
        recent = self._streams.recent(stream.slot, first, end)
        scores = {name: [round(float(x), 3) if np.isfinite(x) else None for x in recent[:, i]] for i, name in enumerate(self._probes)}
        verdicts = [fired(verdict) for verdict in stream.verdicts if first <= verdict.position < end and not verdict.ended]
        return {"position": end - len(recent), "scores": scores, "verdicts": verdicts}

    def _total(self, usage: dict[str, Any]) -> dict[str, Any]:
        produced = sum(self.counts.values())
        prompt = usage.get("prompt_tokens")
        prompt = prompt if is_count(prompt) else 0
        return {**usage, "prompt_tokens": prompt, "completion_tokens": produced, "total_tokens": prompt + produced}


def fired(verdict: Verdict) -> dict[str, Any]:
    """What a client hears of a verdict."""
    return {"rule": verdict.rule.rule, "action": verdict.action.name.lower(), "mode": verdict.mode, "position": verdict.position}


def ending(verdict: Verdict) -> str:
    """What a client reads where a verdict ends its reply."""
    halt = verdict.rule.do.ending
    return halt.message if halt is not None else ""


def unjudged(failure: Failure) -> OpenAIError:
    return unavailable(f"this reply was stopped because it could not be judged ({failure.condition}: {failure.why})", failure.condition)


def upstream_error(message: str) -> OpenAIError:
    return OpenAIError(502, message, kind="server_error", code="upstream_error")


def broken_off(error: Exception) -> OpenAIError:
    """An engine that went silent or away in the middle of a reply."""
    if isinstance(error, TimeoutError):
        return OpenAIError(504, "the engine sent nothing for too long", kind="server_error", code="upstream_timeout")
    return upstream_error(f"the engine broke off ({type(error).__name__})")


def said_by_engine(error: Any) -> OpenAIError:
    """An error event of the engine, in OpenAI's format; its own status when it names one."""
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return upstream_error(f"the engine failed: {str(error)[:1000]}")
    status = error.get("code")
    found = OpenAIError(status if is_count(status) and 400 <= status <= 599 else 502, error["message"])
    found.body, found.in_stream = {"error": error}, True
    return found


def chunk_of(data: bytes) -> Chunk:
    try:
        chunk = jsons.decode(data)
    except ValueError:
        raise upstream_error("the engine sent an event that is no JSON") from None
    if not isinstance(chunk, dict):
        raise upstream_error(f"the engine sent an event that is a JSON {type(chunk).__name__}; expected an object")
    return chunk


def _generated(part: Chunk) -> bool:
    """Whether a part holds anything that was generated: text of any kind, log probabilities or token ids."""
    delta = part.get("delta")
    if isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role"):
        return True
    logprobs = part.get("logprobs")
    return bool(part.get("text") or part.get("token_ids") or (isinstance(logprobs, dict) and any(logprobs.values())))


def is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
