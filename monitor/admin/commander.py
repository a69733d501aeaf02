"""Carries out commands: each once, in turn, recorded with its outcome."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from monitor.admin.command import Command, CommandError
from monitor.admin.live import shown
from monitor.errors import BarographError
from monitor.gateway.gateway import Gateway
from monitor.pipeline.orders import Key, Order, private
from monitor.pipeline.pipeline import deciding
from monitor.pipeline.rulebook import Rulebook
from monitor.pipeline.streams import Stream
from probes.files import read_plain
from rules.schema import Rule
from rules.verdict import Verdict

log = logging.getLogger("barograph.commands")

KEPT, KEPT_S = 10_000, 86_400.0  # commands that are remembered, and for how long
MAX_JOURNAL = 64 << 20
REFUSED = 100  # refusals a minute that are recorded
ENDED_S, LOOK_S = 5.0, 0.02  # how long a stop waits to see the engine end what it ran
Outcome = dict[str, Any]


class Commander:
    """`journal`: the file of commands that were carried out, so that none is done twice, also by the next process."""

    def __init__(self, gateway: Gateway, rulebook: Rulebook, journal: Path) -> None:
        self._gateway = gateway
        self._rulebook = rulebook
        self._orders = gateway.orders
        self._ledger = gateway.pipeline.ledger
        self._metrics = gateway.metrics
        self._journal = journal
        self._done: OrderedDict[str, tuple[float, str, Outcome]] = OrderedDict()  # by id: when, of which content, and its outcome
        self._refused = (0, 0)  # the minute, and how many were refused in it
        self._lines = 0  # of the journal
        self._turn = asyncio.Lock()
        self._verbs: dict[str, Callable[[Command, str], Awaitable[Outcome]]] = {
            "halt": self._halt, "stop": self._stop, "resume": self._resume, "throttle": self._throttle, "lift": self._lift, "arm": self._mode,
            "disarm": self._mode, "release": self._mode, "freeze": self._freeze, "thaw": self._freeze,
        }  # fmt: skip
        self._remember()

    async def carry_out(self, command: Command, issuer: str, via: str) -> Outcome:
        """Do it, or give the outcome that it had before. Raises CommandError when it is refused; nothing is changed then."""
        async with self._turn:
            digest = command.digest(issuer)
            if (known := self._done.get(command.id)) is not None:
                if known[1] != digest:
                    raise self.refuse(command.id, issuer, via, "its id was used for another command", command)
                return {**known[2], "repeated": True}
            if command.expires_at is not None and command.expires_at < time.time():
                raise self.refuse(command.id, issuer, via, "it has expired", command)
            try:
                outcome = {"id": command.id, "verb": command.verb, "outcome": "done", **await self._verbs[command.verb](command, issuer)}
            except BarographError as error:
                raise self.refuse(command.id, issuer, via, str(error), command) from None
            self._done[command.id] = (time.time(), digest, outcome)
            number = self._record(command, issuer, via, outcome)
            if not await self._ledger.durable(number):  # it is carried out all the same: a stop does not wait for a disk
                outcome["recorded"] = False
            await asyncio.to_thread(self._note, command.id, self._done[command.id])
            return outcome

    def refuse(self, name: str, issuer: str, via: str, why: str, command: Command | None = None) -> CommandError:
        """Record a command that is not carried out. Gives the error that says so."""
        kind, about = command.about if command is not None else ("", "")
        self._metrics.commands.labels(command.verb if command is not None else "unknown", "refused").inc()
        minute = int(time.monotonic() // 60)
        self._refused = (minute, self._refused[1] + 1 if self._refused[0] == minute else 1)
        if self._refused[1] > REFUSED:  # a flood fills no ledger; the metric has them all
            return CommandError(why)
        self._ledger.append(
            "command", id=name[:128], issuer=issuer[:64], via=via, verb=command.verb if command is not None else "", about=kind,
            name=about, reason=command.reason if command is not None else "", outcome="refused", why=why[:300],
        )  # fmt: skip
        self._gateway.pipeline.wake_publisher()
        return CommandError(why)

    def _record(self, command: Command, issuer: str, via: str, outcome: Outcome) -> int:
        kind, name = command.about
        self._metrics.commands.labels(command.verb, "done").inc()
        number = self._ledger.append(
            "command", id=command.id, issuer=issuer, via=via, verb=command.verb, about=kind, name=name, reason=command.reason,
            **{key: value for key, value in outcome.items() if key not in ("id", "verb")},
        )  # fmt: skip
        self._gateway.pipeline.wake_publisher()
        return number

    async def _halt(self, command: Command, issuer: str) -> Outcome:
        """A stream ends as a rule ends one."""
        stream = self._stream(command)
        reply = next((reply for reply in self._gateway.replies if stream.ticket is not None and reply.work.has(stream)), None)
        if reply is None:
            raise CommandError(f"stream '{command.stream}' has no client here that could be told")
        rule = Rule.model_validate({"rule": "command", "desc": command.reason, "when": "command", "do": "halt", "mode": "armed"})
        verdict = Verdict(rule, stream.slot, reply.work.released(stream), rule.action)
        stream.acting = deciding(stream.acting, verdict)
        stream.wake()
        return {"at": verdict.position}

    async def _stop(self, command: Command, issuer: str) -> Outcome:
        """What runs ends, and what comes is refused until somebody resumes. The running is ended first: the disk may take its time."""
        kind, name = command.about
        gateway, why = self._gateway, f"{kind} by {issuer}: {command.reason}"
        if kind == "stream":
            stream = self._stream(command)
            running = gateway.stop(lambda work: work.has(stream), why)
            return await self._ended(running)
        concerned = {
            "all": lambda work: True, "tenant": lambda work: work.about["tenant"] == name, "model": lambda work: work.about["model"] == name,
        }[kind]  # fmt: skip
        running = gateway.stop(concerned, why)
        try:
            await asyncio.to_thread(self._orders.give, self._order(command, issuer, "stop"))
        except BarographError as error:
            raise CommandError(f"running replies were ended, but new ones are not refused: {error}") from None
        running += [stream for stream in gateway.stop(concerned, why) if stream not in running]  # those that came meanwhile
        return await self._ended(running)

    async def _ended(self, running: list[Stream]) -> Outcome:
        """Wait until the engine itself has ended its streams, which their taps say."""
        table, until = self._gateway.pipeline.streams, time.monotonic() + ENDED_S

        def left() -> int:
            return sum(table.by_slot.get(stream.slot) is stream and not table.ended[stream.slot] for stream in running)

        while left() and time.monotonic() < until:
            await asyncio.sleep(LOOK_S)
        return {"streams": len(running), "still_running": left()}

    async def _resume(self, command: Command, issuer: str) -> Outcome:
        kind, name = command.about
        if kind == "all" and self._orders.broken:
            await asyncio.to_thread(self._orders.forget_broken)
            return {"was": "an orders file that could not be read"}
        key: Key = ("stop", kind, name)  # type: ignore[assignment]  # the verb's kinds are those of an order
        order = await asyncio.to_thread(self._orders.take_back, key)
        if order is None:
            raise CommandError(f"nothing to resume: no stop of {' '.join(filter(None, (kind, name)))} stands")
        return {"was": f"{order.by}: {order.reason}"}

    async def _throttle(self, command: Command, issuer: str) -> Outcome:
        await asyncio.to_thread(self._orders.give, self._order(command, issuer, "throttle"))
        self._gateway.throttles.ordered()
        return {}

    async def _lift(self, command: Command, issuer: str) -> Outcome:
        """Off with all limits of a tenant: an order's, and those of rules until they fire again."""
        name = command.tenant or ""
        order = await asyncio.to_thread(self._orders.take_back, ("throttle", "tenant", name))
        self._gateway.throttles.ordered()
        lifted = self._gateway.throttles.lift(name, f"by {issuer}: {command.reason}")
        if order is None and not lifted:
            raise CommandError(f"tenant '{name[:64]}' is not throttled")
        return {"lifted": lifted + (order is not None)}

    async def _mode(self, command: Command, issuer: str) -> Outcome:
        rule = command.rule or ""
        if refusal := self._rulebook.refusal(rule, command.verb == "arm"):
            raise CommandError(refusal)
        if command.verb == "release":
            if await asyncio.to_thread(self._orders.take_back, ("mode", "rule", rule)) is None:
                raise CommandError(f"rule '{rule}' has the mode of its file")
        else:
            await asyncio.to_thread(self._orders.give, self._order(command, issuer, command.verb))
        return {"modes": self._rulebook.ordered(issuer)}

    async def _freeze(self, command: Command, issuer: str) -> Outcome:
        if command.verb == "freeze":
            self._rulebook.freeze(command.reason, issuer)
        elif not self._rulebook.frozen:
            raise CommandError("rules are not frozen")
        else:
            self._rulebook.thaw(command.reason, issuer)
        return {"frozen": self._rulebook.frozen}

    def _order(self, command: Command, issuer: str, verb: Any) -> Order:
        kind, name = command.about
        return Order(
            verb=verb, kind=kind, name=name, by=issuer, reason=command.reason, at=time.time(), command=command.id, limits=command.limits
        )  # fmt: skip

    def _stream(self, command: Command) -> Stream:
        """By the name that records have, or the one that people see."""
        table = self._gateway.pipeline.streams
        for stream in table.by_slot.values():
            if command.stream in (stream.name, shown(*stream.key)):
                return stream
        raise CommandError(f"no stream '{command.stream}' runs")

    def _remember(self) -> None:
        """What earlier processes carried out, as far as it may come again."""
        try:
            lines = read_plain(self._journal, MAX_JOURNAL).splitlines()
        except OSError as error:
            if os.path.lexists(self._journal):
                log.warning("%s: %s: commands of before may be carried out again", self._journal, error.strerror)
            return
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):
                name, when, digest, outcome = json.loads(line)
                if time.time() - when < KEPT_S:
                    self._done[name] = (when, digest, outcome)
        with contextlib.suppress(OSError):
            self._compact()

    def _compact(self) -> None:
        """Write the journal anew, without what is too old."""
        beside = self._journal.with_name(self._journal.name + ".new")
        beside.unlink(missing_ok=True)
        with open(beside, "x", encoding="utf-8", opener=private) as file:
            file.writelines(_line(name, *entry) for name, entry in self._done.items())
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self._journal)
        self._lines = len(self._done)

    def _note(self, name: str, entry: tuple[float, str, Outcome]) -> None:
        while len(self._done) > KEPT:
            self._done.popitem(last=False)
        try:
            if self._lines >= 2 * KEPT:
                self._compact()
                return
            self._lines += 1
            with open(self._journal, "a", encoding="utf-8", opener=private) as file:
                file.write(_line(name, *entry))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            log.error("%s: %s: the command %s may be carried out again after a restart", self._journal, error.strerror, name)


def _line(name: str, when: float, digest: str, outcome: Outcome) -> str:
    return json.dumps([name, when, digest, outcome]) + "\n"
