"""A reply that is held back until the engine is done with it and every token is judged: its bytes then leave as they came."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager

import aiohttp

from monitor.config import GatewayConfig
from monitor.gateway.asked import Asked
from monitor.gateway.dialect import cut_reply, halted_events, halted_reply, head_of, tokens_in, tokens_in_events
from monitor.gateway.hold import RELEASE, Failure, Hold, Stop
from monitor.gateway.relay import Plan, unjudged, upstream_error
from monitor.gateway.reroute import Turn
from monitor.gateway.throttle import SLICE_S, rate_of
from monitor.http import jsons
from monitor.http.openai import OpenAIError, unavailable
from monitor.http.sse import EventParser, EventStreamError
from monitor.pipeline.streams import StreamTable, Ticket
from rules.schema import Action
from rules.verdict import Verdict

Asking = Callable[[], AbstractAsyncContextManager[aiohttp.ClientResponse]]  # asks the engine; the block gets a reply of status 200


class Whole:
    """Follows one such reply. A halt ends it at the engine while it runs. `halted`: the choices that a rule ended."""

    def __init__(self, asked: Asked, hold: Hold, streams: StreamTable, ticket: Ticket, config: GatewayConfig) -> None:
        self.turn: Turn | None = None  # the reply comes from elsewhere
        self.plan: Plan | None = None  # what becomes of a reply that a rule re-routes; without one its `else`
        self._since = time.monotonic()
        self.asked = asked
        self.halted: dict[int, Verdict] = {}
        self._hold = hold
        self._streams = streams
        self._ticket = ticket
        self._config = config
        self._heard = 0.0  # when the engine last sent something

    @property
    def counts(self) -> dict[int, int]:
        """By choice, the tokens that were judged."""
        return {index: int(self._streams.judged[stream.slot]) for index, stream in self._ticket.streams.items()}

    async def parts(self, reply: Asking) -> AsyncGenerator[bytes]:
        """What the client gets: one piece, or as it comes when it is a stream and nothing is held. Raises OpenAIError or Refused."""
        if self.asked.streams and self._hold.mode == "off":
            async with reply() as response:
                async for packet in response.content.iter_any():
                    if self._look():
                        self._hold.halted(0)
                        raise unavailable("a safety rule stopped this reply", "halted")
                    yield packet
            return
        raw = await self._read(reply)
        if self.turn is None:
            made = await (self._events(raw) if self.asked.streams else self._body(raw))
        if self.turn is None:
            await self._paced()
            await self._recorded()
            yield made

    async def missed(self) -> bytes:
        """What the reply ends with when a target did not take it."""
        assert self.turn is not None
        verdict = self.turn.verdict
        self.halted = {index: verdict for index, stream in self._ticket.streams.items() if stream.acting is verdict}
        await self._recorded()
        return await (self._events(None) if self.asked.streams else self._body(None))

    async def _paced(self) -> None:
        """A throttled reply takes as long as it would have as a stream."""
        while True:
            rated = [(stream, rate) for stream in self._ticket.streams.values() if (rate := rate_of(stream)) is not None]
            due = max((int(self._streams.judged[stream.slot]) / rate for stream, rate in rated), default=0.0)
            if (left := due - (time.monotonic() - self._since)) <= 0:
                return
            await asyncio.sleep(min(left, SLICE_S))

    async def _body(self, raw: bytes | None) -> bytes:
        if raw is None:
            head = head_of(self.asked, self._ticket.request)
            return jsons.encode(halted_reply(self.asked.route, head, self.halted, self.asked.choices or 1))
        try:
            said = jsons.decode(raw)
        except ValueError:
            raise upstream_error("the engine's reply is no JSON") from None
        if not isinstance(said, dict):
            raise upstream_error(f"the engine's reply is a JSON {type(said).__name__}; expected an object")
        await self._judged(tokens_in(self.asked.route, said))
        return jsons.encode(cut_reply(self.asked.route, said, self.halted, self.counts)) if self.halted else raw

    async def _events(self, raw: bytes | None) -> bytes:
        if raw is not None:
            try:
                events = EventParser(self._config.max_reply_bytes).feed(raw)
            except EventStreamError as error:
                raise upstream_error(f"the engine sent {error}") from None
            await self._judged(tokens_in_events(self.asked.route, events))
        if raw is None or self.halted:
            return halted_events(self.asked.route, head_of(self.asked, self._ticket.request), next(iter(self.halted.values())))
        return raw

    async def _recorded(self) -> None:
        found = await self._hold.recorded(Stop(next(iter(self.halted.values()))) if self.halted else RELEASE, 0)
        if isinstance(found, Failure):
            raise unjudged(found)

    async def _judged(self, tokens: int | None) -> None:
        found = await self._hold.whole(range(self.asked.choices or 0), tokens)
        if isinstance(found, Failure):
            raise unjudged(found)
        if tokens is not None:
            self._hold.early += max(0, tokens - sum(self.counts.values()))
        if self._look():
            for _ in self.halted:
                self._hold.halted(0)

    def _look(self) -> bool:
        """Note the choices that are halted by now."""
        acting = {index: stream.acting for index, stream in self._ticket.streams.items() if stream.acting is not None}
        fresh = {index: verdict for index, verdict in acting.items() if index not in self.halted}
        if self.turn is None and fresh and self.plan is not None and all(each.action == Action.REROUTE for each in acting.values()):
            verdict = next(iter(fresh.values()))
            way, _ = self.plan(verdict, {})
            if way != "halt":
                self.turn = Turn(verdict, way)
        if self.turn is None:
            self.halted |= fresh
        return bool(self.halted) or self.turn is not None

    def _over(self) -> bool:
        return self._look() and (self.turn is not None or len(self.halted) >= (self.asked.choices or 1))

    async def _read(self, reply: Asking) -> bytes | None:
        """All that the engine sends; None when rules ended every choice before, and the engine with them.

        An engine that says nothing until it is done is alive as long as its tap scores; one that does neither has failed.
        """
        reading = asyncio.ensure_future(self._fetch(reply))
        moved = self._ticket.moved
        judged, since = -1, time.monotonic()
        try:
            while not reading.done():
                if self._over():
                    for _ in self.halted:
                        self._hold.halted(0)
                    return None
                if (count := sum(self.counts.values())) != judged:
                    judged, since = count, time.monotonic()
                left = max(since, self._heard) + self._config.upstream_idle_s - time.monotonic()
                if left <= 0:
                    raise OpenAIError(504, "the engine sent nothing for too long", kind="server_error", code="upstream_timeout")
                moved.clear()
                bell = asyncio.ensure_future(moved.wait())
                try:
                    await asyncio.wait({reading, bell}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    bell.cancel()
            return reading.result()
        except (aiohttp.ClientError, ConnectionError) as error:
            raise upstream_error(f"the engine broke off ({type(error).__name__})") from None
        finally:
            reading.cancel()
            await asyncio.wait({reading})  # its connection is closed then

    async def _fetch(self, reply: Asking) -> bytes:
        body, limit = bytearray(), self._config.max_reply_bytes
        async with reply() as response:
            async for packet in response.content.iter_any():
                self._heard = time.monotonic()
                body += packet
                if len(body) > limit:
                    raise upstream_error(f"the engine's reply is larger than {limit} bytes, gateway.max_reply_bytes")
        return bytes(body)
