"""The rules in force: loaded, reloaded, frozen, armed and put in shadow, each change recorded."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from monitor.audit.ledger import Ledger
from monitor.audit.manifest import Trust
from monitor.config import read_text
from monitor.errors import BarographError, ConfigError
from monitor.pipeline import rulefiles
from monitor.pipeline.orders import Order, Orders
from monitor.pipeline.pipeline import Pipeline
from probes.files import replace
from rules.abilities import Abilities
from rules.document import DocumentError
from rules.engine import RuleEngine
from rules.facts import ProbeFacts
from rules.nearest import unknown
from rules.ruleset import ANYTHING, RuleSet

log = logging.getLogger("barograph.rules")

LOOK_S = 1.0
MAX_ALERTS = 1000  # that are kept, and that one call of the webhook may name
MAX_REFUSED, MAX_NAMED = 8, 64  # refusals that one answer names; rules that one alert may name
MAX_NAME = 128  # characters of an alert's name


class RuleError(BarographError):
    """A change of rules that is refused; those before it stay in force."""


class Rulebook:
    """A rule file is validated whole, then swapped in between two frames. A bad one keeps the old rules and says why.

    `freeze` blocks reloads during an incident, also after a restart: the reason lies in a file beside the ledger. What Alertmanager arms or
    puts in shadow holds while its alert fires, and is forgotten with the process, as Alertmanager repeats itself.
    """

    def __init__(
        self, path: Path, probes: Iterable[ProbeFacts], ledger: Ledger, abilities: Abilities = ANYTHING, orders: Orders | None = None,
        trust: Trust = Trust(),  # noqa: B008  # it is frozen
    ) -> None:  # fmt: skip
        """`abilities`: what the gateway can do; `orders`: rules that somebody armed or put in shadow by hand; `trust`: who may make rules.

        Raises DocumentError, ConfigError or TrustError for a file that cannot be judged by.
        """
        self.path = path
        self._probes = tuple(probes)
        self._abilities = abilities
        self._orders: Iterable[Order] = orders if orders is not None else ()
        self._ledger = ledger
        self._freeze = ledger.path.with_name(ledger.path.name + ".freeze")
        self._pipeline: Pipeline | None = None
        self._alerts: dict[str, tuple[list[str], list[str]]] = {}  # fingerprint → rules to arm, rules to put in shadow
        self.failed = ""
        self._trust = trust
        reading = rulefiles.Reading(path, trust)
        self.engine = RuleEngine(reading.ruleset(), self._probes, self._abilities)
        self.signer = reading.signer
        self._seen = reading.seen  # also what a refused set would have included: mending it is a change
        self._one_at_a_time = asyncio.Lock()
        self._apply()
        self._record("loaded", self.engine.ruleset)

    @property
    def frozen(self) -> str:
        """Why reloads are blocked; empty when they are not."""
        if not os.path.lexists(self._freeze):
            return ""
        try:
            return read_text(self._freeze) or "frozen"
        except ConfigError as error:
            return f"frozen; {error}"

    def serve(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        pipeline.metrics.frozen.set_function(lambda: os.path.lexists(self._freeze))  # an incident freezes them from outside too
        self._gauges()

    def reload(self, by: str, reason: str = "") -> str:
        """Read the file anew and swap. Returns the digest. Raises RuleError, and the rules before it stay."""
        return self._swap(by, reason, self._compiled())

    async def reload_beside(self, by: str, reason: str = "") -> str:
        """The same, reading and compiling beside the event loop: a thousand rules take a second, and replies wait for nothing."""
        async with self._one_at_a_time:
            self._thawed(by)
            return self._swap(by, reason, await asyncio.to_thread(self._compiled))

    def _thawed(self, by: str) -> None:
        if reason := self.frozen:
            self._refuse(by, f"reloads are frozen: {reason}")

    def _compiled(self) -> tuple[RuleEngine, str] | str:
        """The rules as they lie on disk and who signed them, or why they can't be judged by."""
        reading = rulefiles.Reading(self.path, self._trust)
        try:
            return RuleEngine(reading.ruleset(), self._probes, self._abilities), reading.signer
        except (DocumentError, BarographError) as error:
            return str(error)
        finally:
            self._seen = reading.seen

    def _swap(self, by: str, reason: str, found: tuple[RuleEngine, str] | str) -> str:
        self._thawed(by)  # nothing was frozen before the rules were compiled; by now it may be
        if isinstance(found, str):
            self._refuse(by, found)
        engine, signer = found
        self.failed = ""
        if engine.digest != self.engine.digest:
            self.engine, self.signer = engine, signer
            self._apply()  # its modes stand before running streams are looked at by them
            if self._pipeline is not None:
                self._pipeline.use(engine)
            self._record("reloaded", engine.ruleset, by=by, reason=reason)
            log.info("rules %s in force, %d rules (by %s)", engine.digest[:12], len(engine.rules), by)
        self._gauges()
        return engine.digest

    def freeze(self, reason: str, by: str) -> None:
        """Block reloads until `thaw`. Raises RuleError when the disk refuses: then nothing is frozen."""
        try:
            replace(self._freeze, f"{by}: {reason}".encode())
        except OSError as error:
            raise RuleError(f"cannot freeze: {self._freeze}: {error.strerror}; expected a folder that can be written") from None
        self._ledger.append("rules", event="frozen", by=by, reason=reason, digest=self.engine.digest)
        self._gauges()

    def thaw(self, reason: str, by: str) -> None:
        if self.frozen:
            self._freeze.unlink(missing_ok=True)
            self._ledger.append("rules", event="thawed", by=by, reason=reason, digest=self.engine.digest)
        self._gauges()

    def alerts(self, payload: dict[str, Any]) -> dict[str, str]:
        """Alertmanager's webhook: firing alerts arm rules or put them in shadow, by their labels. Returns the modes that are changed now.

        Raises RuleError for a rule that nobody knows or that must not be armed; the other alerts of the call are taken all the same.
        """
        refused: list[str] = []
        strange: list[str] = []  # rules that nobody knows, or that must not be armed
        known = {rule.rule: rule for rule in self.engine.rules}
        given = payload.get("alerts")
        if not isinstance(given, list) or not all(isinstance(each, dict) and isinstance(each.get("labels", {}), dict) for each in given):
            raise RuleError("expected what Alertmanager's webhook sends: alerts, a list of objects with labels")
        if len(given) > MAX_ALERTS:
            raise RuleError(f"{len(given)} alerts in one call; expected at most {MAX_ALERTS}")
        for alert in given:
            labels = alert.get("labels", {})
            name = str(alert.get("fingerprint") or labels.get("alertname", ""))[:MAX_NAME]
            arm, disarm = (_names(labels.get(f"barograph_{what}", "")) for what in ("arm", "disarm"))
            if alert.get("status") != "firing":
                self._alerts.pop(name, None)
                continue
            if len(arm) + len(disarm) > MAX_NAMED:
                refused.append(f"alert '{name}' names {len(arm) + len(disarm)} rules; expected at most {MAX_NAMED}")
                continue
            wrong = [each for each in arm if each not in known or self.engine.objection(each)] + [
                each for each in disarm if each not in known
            ]
            if wrong:
                strange += wrong
            elif (arm or disarm) and name not in self._alerts and len(self._alerts) >= MAX_ALERTS:
                refused.append(f"alert '{name}': {MAX_ALERTS} alerts change rules already, the most that are kept")
            elif arm or disarm:
                self._alerts[name] = (arm, disarm)
        before = dict(self.engine.overrides)
        self._apply()
        if self.engine.overrides != before:
            self._ledger.append("rules", event="modes", by="alertmanager", modes=self.engine.overrides, digest=self.engine.digest)
        # Only what is said is looked for: to find the nearest name takes longer than all else here.
        refused += [self.engine.objection(each) if each in known else unknown("rule", each, known) for each in strange[:MAX_REFUSED]]
        if refused:
            raise RuleError("; ".join(refused[:MAX_REFUSED]))
        return self.engine.overrides

    def refusal(self, rule: str, arm: bool) -> str:
        """Why a rule cannot be armed, or put in shadow, by hand; empty when it can."""
        known = {each.rule: each for each in self.engine.rules}
        if rule not in known:
            return unknown("rule", rule, known)
        return self.engine.objection(rule) if arm else ""

    def ordered(self, by: str) -> dict[str, str]:
        """Follow what was armed or put in shadow by hand. Returns the modes that are changed now."""
        self._apply()
        self._ledger.append("rules", event="modes", by=by, modes=self.engine.overrides, digest=self.engine.digest)
        return self.engine.overrides

    def describe(self) -> dict[str, Any]:
        """For the admin API."""
        engine = self.engine
        return {
            "digest": engine.digest,
            "file": str(self.path),
            "sources": engine.ruleset.sources,
            "signed_by": self.signer,
            "frozen": self.frozen,
            "failed": self.failed,
            "rules": [
                {
                    "rule": rule.rule, "desc": rule.desc, "when": rule.when, "action": rule.action.name.lower(), "severity": rule.severity,
                    "mode": engine.overrides.get(rule.rule, rule.mode), "file_mode": rule.mode, "canary": rule.canary, "maturity": rule.maturity,
                }
                for rule in engine.ruleset.rules
            ],
        }  # fmt: skip

    async def watch(self) -> None:
        """Reload when a file changes. A refusal is said once for each state of the files."""
        while True:
            await asyncio.sleep(LOOK_S)
            now = await asyncio.to_thread(self._look)
            if now != self._seen:
                self._seen = now
                try:
                    await self.reload_beside("file")
                except RuleError:
                    pass  # said, counted and recorded

    def _look(self) -> dict[str, rulefiles.State]:
        return {name: rulefiles.state(Path(name)) for name in self._seen}

    def _apply(self) -> None:
        """Modes from the alerts that fire now, and above them those that were set by hand. A rule that one alert arms and another puts in shadow is armed."""
        known = {rule.rule: rule for rule in self.engine.rules}
        shadow = {rule: "shadow" for _, disarm in self._alerts.values() for rule in disarm if rule in known}
        armed = {rule: "armed" for arm, _ in self._alerts.values() for rule in arm if rule in known and not self.engine.objection(rule)}
        by_hand = {order.name: "shadow" if order.verb == "disarm" else "armed" for order in self._orders if order.kind == "rule"}
        allowed = {name for name, mode in by_hand.items() if name in known and (mode == "shadow" or not self.engine.objection(name))}
        self.engine.overrides = shadow | armed | {name: by_hand[name] for name in allowed}
        if self._pipeline is not None and self._pipeline.rules is self.engine:
            self._pipeline.reviewed()

    def _refuse(self, by: str, why: str) -> NoReturn:
        self.failed = why
        log.error("rules not reloaded (by %s), %s stay in force: %s", by, self.engine.digest[:12], why)
        self._ledger.append("rules", event="refused", by=by, why=why, digest=self.engine.digest)
        self._gauges()
        raise RuleError(why)

    def _record(self, event: str, ruleset: RuleSet, **more: Any) -> None:
        self._ledger.append(
            "rules", event=event, digest=ruleset.digest, sources=ruleset.sources, signed_by=self.signer, document=ruleset.document(), **more
        )
        for rule in ruleset.rules:
            if rule.maturity == "deprecated" and rule.mode != "disabled":
                log.warning("rule '%s' is deprecated: %s", rule.rule, rule.desc)

    def _gauges(self) -> None:
        if self._pipeline is not None:
            metrics = self._pipeline.metrics
            metrics.reload_failed.set(bool(self.failed))
            metrics.rules_info.info({"digest": self.engine.digest})


def _names(text: object) -> list[str]:
    return sorted({name.strip()[:MAX_NAME] for name in str(text).split(",") if name.strip()})
