"""The work behind one judged reply: ask the engine, follow what it says, and note how it was judged."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from starlette.requests import Request

from monitor.audit.levels import Level
from monitor.gateway.asked import Asked
from monitor.gateway.assembly import Assembly
from monitor.gateway.contents import Content
from monitor.gateway.course import Event
from monitor.gateway.detour import Detour
from monitor.gateway.hold import Hold
from monitor.gateway.relay import Chunk, Relay
from monitor.gateway.reply import Reply
from monitor.gateway.routes import encoded
from monitor.gateway.target import REROUTED, Targets
from monitor.gateway.texts import Texts
from monitor.gateway.upstream import Upstream
from monitor.gateway.whole import Whole
from monitor.gateway.wrapper import Reader, Wrapped
from monitor.http import jsons
from monitor.http.openai import DONE, REQUEST_ID_HEADER, event
from monitor.pipeline.pipeline import Pipeline
from monitor.pipeline.streams import Stream, Ticket
from monitor.sinks.otel import Trace
from rules.verdict import Verdict

SCORES_HEADER = "x-barograph-scores"
ENDS = {"ended": Event.END, "client_gone": Event.LEAVE, "client_stalled": Event.LEAVE, "stopped": Event.STOP}  # by a reply's outcome


@dataclass(frozen=True)
class Engine:
    """The engine and what is known of it: replies that it made without a stream, by route. `targets`: where replies may go instead.

    `reader`: of an engine without a tap, who reads what it says.
    """

    upstream: Upstream
    shapes: dict[str, dict[str, Any]]
    facts: dict[str, Any]
    targets: Targets
    reader: Reader | None = None

    def reasons(self, route: str) -> bool:
        """Whether it counts reasoning tokens, which vLLM does otherwise in streams."""
        usage = self.shapes.get(route, {}).get("usage")
        return isinstance(usage, dict) and bool(usage.get("completion_tokens_details"))


class Judging:
    """Follows one request. `parts` gives what may leave; `end` forgets it and writes how it went into the ledger."""

    def __init__(self, asked: Asked, request: Request, engine: Engine, pipeline: Pipeline, hold: Hold, ticket: Ticket) -> None:
        config = engine.upstream.config
        self.asked, self.route, self.streams = asked, asked.route, asked.streams
        self._request = request
        self._engine = engine
        self._pipeline = pipeline
        self._hold = hold
        self._ticket = ticket
        self._client_id = request.headers.get(REQUEST_ID_HEADER, "")[:256]
        self._shown_id = asked.id or self._client_id
        scores = config.expose_scores and request.headers.get(SCORES_HEADER) == "1"
        names = pipeline.bank.names
        self._relay = Relay(asked, hold, pipeline.streams, ticket, names, scores, config.tool_calls == "whole")
        self._detour = Detour(
            asked, request.headers, request.scope["query_string"].decode("latin-1"), engine.targets, pipeline, ticket, scores, REROUTED in request.headers
        )  # fmt: skip
        self._relay.fingerprint = engine.facts.get("system_fingerprint")
        self._whole = Whole(asked, hold, pipeline.streams, ticket, config)
        self._relay.cuts = engine.reader is None  # a reader's tokens are not those whose text an engine tells
        self._detour.on_outcome = self._relay.answered
        if config.targets:
            self._relay.plan = self._whole.plan = self._detour.plan
        self.trace: Trace | None = None
        self.content: Content | None = None  # where what was said is kept
        self.client = ""  # the pseudonym of the client's own id of the request
        self.on_end: Callable[[Judging, Reply[Any]], None] = lambda work, reply: None

    def tell(self, texts: Texts) -> None:
        """Keep what leaves there, for people who look on. What is told in one piece has no tokens that it could be laid beside."""
        self._relay.on_left = lambda index, first, end, part: texts.left((self._ticket.request, index), first, end, part)

    @property
    def about(self) -> dict[str, Any]:
        """What rules and orders may select the request by."""
        return dict(self._ticket.about)

    def has(self, stream: Stream) -> bool:
        return stream in self._ticket.streams.values()

    def released(self, stream: Stream) -> int:
        """How many tokens of one of its streams have left; of a reply that is held whole, none."""
        return self._relay.counts.get(stream.key[1], 0)

    @property
    def running(self) -> list[Stream]:
        """Its streams that the engine has not ended."""
        table = self._pipeline.streams
        return [stream for stream in self._ticket.streams.values() if not table.ended[stream.slot]]

    async def parts(self) -> AsyncGenerator[bytes]:
        made = self._followed() if self.asked.way == "whole" else self._counted() if self.asked.way == "counted" else self._assembled()
        async with aclosing(made):
            async for part in made:
                leaving = self._renamed(part)
                if self.content is not None:
                    self.content.add(leaving)
                yield leaving

    def headers(self) -> dict[str, str]:
        """What the client hears of the judging when the first piece leaves."""
        return {"x-barograph": self.how()} | ({"x-barograph-target": self._detour.taken.name} if self._detour.taken is not None else {})

    def how(self) -> str:
        if (target := self._detour.taken) is not None:
            return f"{'' if self._detour.judged else 'open:'}rerouted:{target.name}"
        if self._hold.opened:
            return f"open:{self._hold.opened[0]}"
        if self._hold.mode == "off":
            return "open:hold_off"
        judged = "lagged" if self._hold.mode == "lag" else "judged"
        return judged if self._engine.reader is None else f"{judged}:text"

    def opened(self, condition: Any) -> None:
        self._hold.opened.append(condition)

    def end(self, reply: Reply[Any]) -> None:
        pipeline = self._pipeline
        second = self._detour.relay or self._detour.whole
        halted = {**self._relay.halted, **self._whole.halted, **(second.halted if second is not None else {})}
        counts = self._relay.counts or self._whole.counts
        if second is not None:
            counts = {index: counts.get(index, 0) + count for index, count in second.counts.items()}
        event = ENDS.get(reply.outcome, Event.FAIL)
        for index, course in self._relay.courses.items():
            course.take(Event.HALT if index in halted else event)
        for verdict in halted.values():
            pipeline.metrics.actions.labels(verdict.rule.rule, "halt").inc()
        if self.level > Level.NONE or halted:
            self._record(reply, counts, halted)
        pipeline.streams.forget(self._ticket)
        if self._relay.fingerprint is not None:
            self._engine.facts["system_fingerprint"] = self._relay.fingerprint
        self.on_end(self, reply)
        if self.trace is not None:
            self._end_trace(self.trace, reply, sum(counts.values()))
        if self.content is not None:
            self.content.end()

    def _end_trace(self, trace: Trace, reply: Reply[Any], tokens: int) -> None:
        streams = list(self._ticket.streams.values())
        engine = next((str(stream.about.get("engine", "")) for stream in streams), "")
        trace.end(
            reply.outcome, self.how(), {"input": self._relay.prompt_tokens, "output": tokens}, self._relay.reasons,
            [verdict for stream in streams for verdict in stream.verdicts], engine.split(" ")[0],
        )  # fmt: skip

    @property
    def level(self) -> Level:
        """How much the ledger keeps of it."""
        return max((stream.level for stream in self._ticket.streams.values()), default=self._pipeline.levels.of(self._ticket.about))

    def _record(self, reply: Reply[Any], counts: dict[int, int], halted: dict[int, Verdict]) -> None:
        self._pipeline.ledger.append(
            "reply", request=self._ticket.request, route=self.route, how=self.how(), outcome=reply.outcome, status=reply.status_code,
            tokens=sum(counts.values()), early=self._hold.early + self._detour.early, held=round(self._hold.longest, 6), choices=len(counts),
            streams=[*(stream.name for stream in self._ticket.streams.values()), *self._detour.streams], halted=[verdict.rule.rule for verdict in halted.values()],
            course={str(index): [state.value for state in course.went] for index, course in self._relay.courses.items()},
            client_request=self.client,
        )  # fmt: skip

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[aiohttp.ClientResponse]:
        """The engine's reply, if it makes one. Raises Refused for what it refuses, OpenAIError when it can't be asked."""
        asked, upstream = self.asked, self._engine.upstream
        body = jsons.encode_exactly(asked.body(self._ticket.request, counts=self._engine.reader is None))
        headers = {
            **upstream.headers(self._request.headers, self._ticket.request),
            **(self.trace.headers if self.trace is not None else {}),
        }
        idle = upstream.config.upstream_idle_s if asked.way != "whole" else None  # what is held whole has its own watch
        query = self._request.scope["query_string"].decode("latin-1")
        async with upstream.ask("POST", encoded(asked.route), headers, body, query, idle) as response:
            if response.status == 200:
                yield response
                return
            refused = await upstream.refusal(response, asked.route)
        if response.status in (400, 422):
            # Some engines show in their answer what they were asked, so let them see the client's own words.
            await upstream.offer(asked.route, self._request, jsons.encode_exactly(asked.payload))
        raise refused

    async def _released(self) -> AsyncGenerator[list[Chunk]]:
        async with (
            self._asking() as response,
            self._packets(response) as packets,
            aclosing(self._relay.released(packets)) as released,
        ):
            async for chunks in released:
                yield chunks
        if (turn := self._relay.turn) is not None:  # the first engine is cut off by now
            async with aclosing(self._detour.chunks(turn)) as chunks_there:
                async for chunks in chunks_there:
                    yield chunks

    @asynccontextmanager
    async def _packets(self, response: aiohttp.ClientResponse) -> AsyncIterator[AsyncIterator[bytes]]:
        """What the engine sends; of one without a tap, read on the way."""
        packets = response.content.iter_any()
        if (reader := self._engine.reader) is None:
            yield packets
            return
        async with aclosing(Wrapped(reader, self.asked, self._ticket.request).packets(packets)) as read:
            yield read

    async def _counted(self) -> AsyncGenerator[bytes]:
        async with aclosing(self._released()) as released:
            async for chunks in released:
                if chunks:
                    yield b"".join(map(event, chunks))
        yield self._said() + DONE

    async def _assembled(self) -> AsyncGenerator[bytes]:
        assembly, turned = Assembly(self._engine.shapes.get(self.route)), False
        async with aclosing(self._released()) as released:
            async for chunks in released:
                if self._relay.turn is not None and not turned:  # nothing has left yet, so all of it comes from the target
                    assembly, turned = Assembly(self._engine.shapes.get(self.route)), True
                for chunk in chunks:
                    assembly.add(chunk)
        yield jsons.encode(assembly.whole())

    async def _followed(self) -> AsyncGenerator[bytes]:
        async with aclosing(self._whole.parts(self._asking)) as parts:
            async for part in parts:
                yield part
        if (turn := self._whole.turn) is not None:
            async with aclosing(self._detour.parts(turn)) as parts:
                async for part in parts:
                    yield part
            if self._detour.taken is None:
                yield await self._whole.missed()
        if self.streams:
            yield self._said()

    def _said(self) -> bytes:
        """A comment, which no client minds: the header left before the reply was judged."""
        return f": x-barograph: {self.how()}\n\n".encode()

    def _renamed(self, part: bytes) -> bytes:
        """With the client's own request id where the engine has put ours, which no other text can hold: it is random."""
        if not self._shown_id:
            return part
        ours = self._ticket.request
        if self.asked.id and self.asked.route == "/v1/responses":
            ours = f"resp_{ours}"
        return part.replace(ours.encode(), jsons.encode(self._shown_id)[1:-1])
