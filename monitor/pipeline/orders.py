"""Standing orders: what people and policy engines have stopped, throttled, armed or put in shadow, until they take it back."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from monitor.config import read_file
from monitor.errors import BarographError, ConfigError
from rules.schema import TenantLimit

log = logging.getLogger("barograph.orders")

MOST = 10_000
MAX_BYTES = 16 << 20

Kind = Literal["all", "tenant", "model", "rule"]
Key = tuple[str, Kind, str]


class OrderError(BarographError):
    """An order that cannot be given or kept; nothing is changed."""


class Order(BaseModel):
    """`by` and `reason`: who and why. `name`: of the tenant, model or rule; empty for all. `at`: seconds since 1970."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verb: Literal["stop", "throttle", "arm", "disarm"]
    kind: Kind
    name: str
    by: str
    reason: str
    at: float
    command: str
    limits: TenantLimit | None = None

    @property
    def key(self) -> Key:
        """Of two orders with one key only the last stands."""
        return "mode" if self.kind == "rule" else self.verb, self.kind, self.name


def private(path: str, flags: int) -> int:
    """Opens a file that only its owner reads: reasons and tenants stand in it."""
    return os.open(path, flags, 0o600)


_orders = TypeAdapter(list[Order])


class Orders:
    """The orders that stand, in a file that outlives the process. An order counts when the disk has it.

    A file that cannot be read may have held a stop, so it counts as one for everything: `broken` says why.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broken = ""
        self._standing: dict[Key, Order] = {}
        if not os.path.lexists(path):
            return
        try:
            self._standing = {order.key: order for order in _orders.validate_json(read_file(path, MAX_BYTES))}
        except (ConfigError, ValidationError, ValueError) as error:
            self.broken = f"{path} cannot be read, and may hold a stop: {' '.join(str(error).split())[:200]}"
            log.error("everything is stopped: %s; mend the file, or give `resume --all` with a reason", self.broken)

    def __iter__(self) -> Iterator[Order]:
        return iter(list(self._standing.values()))

    def __len__(self) -> int:
        return len(self._standing)

    def find(self, key: Key) -> Order | None:
        return self._standing.get(key)

    def stopped(self, tenant: str, model: str) -> str:
        """Why a request must not run, and who said so; empty when it may."""
        if self.broken:
            return f"all: {self.broken}"
        if not self._standing:
            return ""
        keys: tuple[Key, ...] = (("stop", "all", ""), ("stop", "tenant", tenant), ("stop", "model", model))
        order = next((order for key in keys if (order := self._standing.get(key)) is not None), None)
        return f"{order.kind} by {order.by}: {order.reason}" if order is not None else ""

    def give(self, order: Order) -> None:
        """Raises OrderError when the disk does not take it or there are too many; then it does not stand."""
        if order.key not in self._standing and len(self._standing) >= MOST:
            raise OrderError(f"{MOST} orders stand, the most that are kept; take some back first")
        self._write({**self._standing, order.key: order})

    def take_back(self, key: Key) -> Order | None:
        """The order that stood. Raises OrderError when the disk does not take it; then it still stands."""
        order = self._standing.get(key)
        if order is not None:
            self._write({each: standing for each, standing in self._standing.items() if each != key})
        return order

    def forget_broken(self) -> None:
        """Somebody answers for what the unreadable file may have held."""
        self._write({})
        self.broken = ""

    def _write(self, standing: dict[Key, Order]) -> None:
        beside = self.path.with_name(self.path.name + ".new")
        text = json.dumps([order.model_dump(mode="json") for order in standing.values()])
        try:
            beside.unlink(missing_ok=True)
            with open(beside, "x", encoding="utf-8", opener=private) as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise OrderError(f"{self.path}: {error.strerror}; expected a folder that can be written") from None
        self._standing = standing
