"""The second part of a re-routed reply: asks the target, follows what it says, and records the intent before and the outcome after."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager

import aiohttp

from monitor.gateway.asked import Asked
from monitor.gateway.course import Event
from monitor.gateway.hold import Failure, Hold
from monitor.gateway.relay import Chunk, Relay, broken_off, chunk_of, is_count, said_by_engine, upstream_error
from monitor.gateway.reroute import Delivered, Seam, Turn, Way, body_for, plan
from monitor.gateway.routes import encoded
from monitor.gateway.target import Target, Targets, judged_there
from monitor.gateway.upstream import Refused, read_all
from monitor.gateway.whole import Whole
from monitor.http import jsons, openai
from monitor.http.openai import OpenAIError, unavailable
from monitor.http.sse import EventParser, EventStreamError
from monitor.pipeline.pipeline import Pipeline
from monitor.pipeline.streams import Ticket
from rules.verdict import Verdict


class Detour:
    """Where one reply goes when a rule re-routes it. `taken`: the target that answers, once one does.

    `loop`: the request was re-routed before it came here, so it is not re-routed again.
    """

    def __init__(
        self, asked: Asked, given: Mapping[str, str], query: str, targets: Targets, pipeline: Pipeline, ticket: Ticket, scores: bool, loop: bool
    ) -> None:  # fmt: skip
        self.taken: Target | None = None
        self.on_outcome: Callable[[Event], None] = lambda event: None
        self.judged = False
        self.early, self.streams = 0, list[str]()  # tokens that left the target unjudged; its streams that a tap of ours scored
        self.relay: Relay | None = None  # where this sidecar judges the target
        self.whole: Whole | None = None
        self._asked = asked
        self._given, self._query = given, query
        self._targets = targets
        self._pipeline = pipeline
        self._ticket = ticket
        self._scores = scores
        self._loop = loop

    def plan(self, verdict: Verdict, delivered: dict[int, Delivered]) -> tuple[Way, str]:
        """What becomes of a reply that a rule re-routes. The intent, or why there is none, is recorded before anything is asked."""
        do = verdict.rule.do.turning
        target = self._targets.get(do.to) if do is not None else None
        if do is None or target is None:
            way, why = "halt", "no such target is configured"
        elif self._loop:
            way, why = "halt", "it was re-routed before: a second verdict halts"
        elif target.judged == "nowhere" and do.unjudged == "refuse":
            way, why = "halt", "the target has no tap, and the rule refuses one without"
        else:
            way, why = plan(self._asked, delivered, do.how, target.continues)
        self._record("intent", verdict, do=way, why=why)
        return way, why  # type: ignore[return-value]  # all are ways

    async def chunks(self, turn: Turn) -> AsyncGenerator[list[Chunk]]:
        """What follows in a counted reply. Raises what a first engine does, once the target has begun; before, it ends by the rule's `else`."""
        target = self._target(turn)
        asked = body_for(self._asked, turn, target.config.model)
        seam = Seam(asked, turn)
        try:
            async with aclosing(self._counted(target, asked) if target.judged == "here" else self._passed(target, asked, turn)) as chunks:
                async for some in chunks:
                    self._take(target, turn)
                    if made := [each for chunk in some if (each := seam.through(chunk)) is not None]:
                        yield made
        except (OpenAIError, Refused) as error:
            if self.taken is not None:
                raise
            self._miss(turn, error)
            yield turn.ending

    async def parts(self, turn: Turn) -> AsyncGenerator[bytes]:
        """What a reply that is held whole becomes; nothing when the target does not take it."""
        target = self._target(turn)
        asked = body_for(self._asked, turn, target.config.model)
        try:
            if target.judged == "here":
                async with aclosing(self._held(target, asked)) as parts:
                    async for part in parts:
                        self._take(target, turn)
                        yield part
                return
            async with self._asking(target, asked, openai.new_request_id(), turn) as response:
                try:
                    body = await read_all(response, target.upstream.config.max_reply_bytes)
                except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
                    raise broken_off(error) from None
                self._take(target, turn)
                yield body
        except (OpenAIError, Refused) as error:
            if self.taken is not None:
                raise
            self._miss(turn, error)

    async def _counted(self, target: Target, asked: Asked) -> AsyncGenerator[list[Chunk]]:
        """A target whose tap is ours: judged like the first engine."""
        config = target.upstream.config
        with self._second(target) as (ticket, hold):
            streams, names = self._pipeline.streams, self._pipeline.bank.names
            relay = self.relay = Relay(asked, hold, streams, ticket, names, self._scores, config.tool_calls == "whole")
            async with (
                self._asking(target, asked, ticket.request) as response,
                aclosing(relay.released(response.content.iter_any())) as released,
            ):
                async for chunks in released:
                    yield chunks

    async def _held(self, target: Target, asked: Asked) -> AsyncGenerator[bytes]:
        with self._second(target) as (ticket, hold):
            whole = self.whole = Whole(asked, hold, self._pipeline.streams, ticket, target.upstream.config)
            async with aclosing(whole.parts(lambda: self._asking(target, asked, ticket.request))) as parts:
                async for part in parts:
                    yield part

    async def _passed(self, target: Target, asked: Asked, turn: Turn) -> AsyncGenerator[list[Chunk]]:
        """A target that another sidecar judges, or nobody: its chunks as they come."""
        parser = EventParser()
        async with self._asking(target, asked, openai.new_request_id(), turn) as response:
            try:
                async for packet in response.content.iter_any():
                    chunks: list[Chunk] = []
                    for event in parser.feed(packet):
                        if event.data == b"[DONE]":
                            if chunks:
                                yield chunks
                            return
                        if event.data and self._wanted(chunk := chunk_of(event.data)):
                            chunks.append(chunk)
                    if chunks:
                        yield chunks
            except EventStreamError as error:
                raise upstream_error(f"the target sent {error}") from None
            except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
                raise broken_off(error) from None
        raise upstream_error("the target closed the stream before its end")

    def _wanted(self, chunk: Chunk) -> bool:
        if chunk.get("error") is not None:
            raise said_by_engine(chunk["error"])
        choices = chunk.get("choices")
        if choices is not None and not (
            isinstance(choices, list) and all(isinstance(each, dict) and is_count(each.get("index")) for each in choices)
        ):
            raise upstream_error("the target sent a chunk whose choices are no list of choices with an index")
        if not self._asked.running_usage and chunk.get("choices"):
            chunk.pop("usage", None)
        return bool(chunk.get("choices")) or self._asked.usage or not self._asked.streams

    @contextmanager
    def _second(self, target: Target) -> Iterator[tuple[Ticket, Hold]]:
        """A ticket and a hold for what a tap of ours scores at the target."""
        first, pipeline = self._ticket, self._pipeline
        request = f"{openai.new_request_id()}{min(self._asked.each, 0xFFFF):04x}"
        about = {**first.about, "model": target.config.model or first.about.get("model", "")}
        ticket = pipeline.streams.expect(request, about, first.conversation)
        self.judged = True
        hold = Hold(target.upstream.config, pipeline.streams, ticket, pipeline.ledger, pipeline.metrics)
        try:
            yield ticket, hold
        finally:
            self.early += hold.early
            self.streams += [stream.name for stream in ticket.streams.values()]
            pipeline.streams.forget(ticket)

    @asynccontextmanager
    async def _asking(self, target: Target, asked: Asked, request: str, turn: Turn | None = None) -> AsyncIterator[aiohttp.ClientResponse]:
        """The target's reply. `turn`: by its rule the reply has to say that it is judged, where that is refused otherwise."""
        upstream, ledger = target.upstream, self._pipeline.ledger
        if not await ledger.durable(ledger.newest):
            hold = Hold(upstream.config, self._pipeline.streams, self._ticket, ledger, self._pipeline.metrics)
            if isinstance(hold.fail("ledger", why := "the ledger does not keep what is recorded", 0), Failure):
                raise unavailable(why, "ledger")
        body = jsons.encode_exactly(asked.body(request, counts=target.judged == "here"))  # others may refuse what they do not know
        headers = target.headers(self._given, request)
        async with upstream.ask("POST", encoded(asked.route), headers, body, self._query, upstream.config.upstream_idle_s) as response:
            if response.status != 200:
                raise await upstream.refusal(response, asked.route)
            there = judged_there(response.headers)
            if turn is not None and turn.verdict.rule.do.turning is not None:
                if not there and turn.verdict.rule.do.turning.unjudged == "refuse":
                    raise unavailable("the target judges its replies no more", "unjudged_target")
                self.judged = there
            yield response

    def _target(self, turn: Turn) -> Target:
        do = turn.verdict.rule.do.turning
        assert do is not None  # else there is no turn
        return self._targets[do.to]

    def _take(self, target: Target, turn: Turn) -> None:
        if self.taken is None:
            self.taken = target
            self._pipeline.metrics.actions.labels(turn.verdict.rule.rule, "reroute").inc()
            self.on_outcome(Event.TAKEN)
            self._record("outcome", turn.verdict, do="taken", why="", judged=target.judged if self.judged else "nowhere")

    def _miss(self, turn: Turn, error: OpenAIError | Refused) -> None:
        why = str(error) if isinstance(error, OpenAIError) else f"it refuses with status {error.response.status_code}"
        self._record("outcome", turn.verdict, do="missed", why=why[:200])
        self.on_outcome(Event.MISSED)

    def _record(self, event: str, verdict: Verdict, **fields: str) -> None:
        do, stream = verdict.rule.do.turning, self._pipeline.streams.by_slot.get(verdict.slot)
        self._pipeline.ledger.append(
            "reroute", event=event, request=self._ticket.request, stream=stream.name if stream is not None else "", rule=verdict.rule.rule,
            to=do.to if do is not None else "", **fields,
        )  # fmt: skip
        if event == "intent" or fields["do"] == "missed":
            self._pipeline.metrics.reroutes.labels(do.to if do is not None else "", fields["do"]).inc()
