"""Steering: pushes single replies along a probe's pattern, at the probe's layer, for so many tokens.

The layer is read first and pushed then. A push enters the layers above only, also through the key-value cache, so the scores of
probes at this layer and below never measure it: they move because the model says something else.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from monitor import wire
from monitor.errors import WireError
from monitor.tap.project import failures
from probes.bank import Bank, BankError

log = logging.getLogger("barograph.tap")

Longs = NDArray[np.int64]


@torch.library.custom_op("barograph::push", mutates_args=("hidden",))
def push(hidden: torch.Tensor, residual: torch.Tensor | None, patterns: torch.Tensor, doses: torch.Tensor) -> None:
    """Add `doses @ patterns`, times the norm of `hidden + residual`, to the rows of `hidden` that have a dose.

    hidden and residual [n, width], or [1, n, width], in the model's dtype, patterns [p, width] and doses [rows, p] in float32, n ≤ rows. Rows
    without a dose stay as they are, to the bit. Lives in compiled and captured graphs; on a CPU nothing is worked out for a step without any.
    """
    try:
        rows = hidden.view(-1, hidden.shape[-1])
        if len(rows) > len(doses):
            raise ValueError(f"a step of {len(rows)} tokens; expected at most {len(doses)}")
        dose = doses[: len(rows)]
        if dose.device.type == "cpu" and not dose.any():
            return
        state = rows.float() if residual is None else rows.float() + residual.view(rows.shape).float()
        moved = rows.float() + (dose @ patterns) * state.norm(dim=-1, keepdim=True)
        rows.copy_(torch.where((dose != 0).any(dim=-1, keepdim=True), moved.to(rows.dtype), rows))
    except Exception as error:
        failures.append(f"{type(error).__name__}: {error}")


@push.register_fake
def _(hidden: torch.Tensor, residual: torch.Tensor | None, patterns: torch.Tensor, doses: torch.Tensor) -> None:
    return None


class Pusher(torch.nn.Module):
    """What one steered layer carries: its probes' patterns, and the dose of every row of the step in hand. Called by a forward hook, after the reader."""

    def __init__(self, patterns: torch.Tensor, rows: int) -> None:
        super().__init__()
        self.patterns: torch.Tensor
        self.doses: torch.Tensor
        self.register_buffer("patterns", patterns, persistent=False)
        self.register_buffer("doses", torch.zeros(rows, len(patterns), device=patterns.device), persistent=False)

    def forward(self, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        if isinstance(output, torch.Tensor):
            push(output, None, self.patterns, self.doses)
        else:
            push(output[0], output[1] if len(output) > 1 else None, self.patterns, self.doses)


@dataclass(frozen=True)
class Limits:
    """What the configuration allows: the probes to steer along, the largest dose (a share of the residual's norm), and for how many tokens."""

    probes: tuple[str, ...]
    max_dose: float
    max_tokens: int


class Steering:
    """The pushes of one tap: hears what the sidecar asks for, and gives the rows of each step their doses.

    One thread calls `hear` and `aim`, before a step; `end` may come from another. Arrays over pushes, sorted by stream; a stream has one at a time.
    The rows of a push are those of the tokens first to first + tokens - 1, also when a preempted reply is computed again; of several pushes of one
    reply only the last is known by then.
    """

    def __init__(self, bank: Bank, limits: Limits, rows: int, device: torch.device | str = "cpu") -> None:
        """Raises BankError for a probe that the bank does not have, or that did not pass its test of cause."""
        for name in limits.probes:
            if name not in bank.names:
                raise BankError(f"tap.steer names the probe '{name}', which is not live; live are: {', '.join(bank.names)}")
            if bank[name].causal is not True:
                raise BankError(
                    f"tap.steer names the probe '{name}', whose card does not say causal: true; a push along it has shown no effect of its own"
                )
        self.limits = limits
        self.pushers: dict[int, Pusher] = {}
        self._place: dict[str, tuple[int, int]] = {}  # probe → layer, column there
        for layer in sorted({bank[name].layer for name in limits.probes}):
            here = [name for name in limits.probes if bank[name].layer == layer]
            patterns = bank.patterns[[bank.names.index(name) for name in here]]
            self.pushers[layer] = Pusher(torch.from_numpy(np.ascontiguousarray(patterns)).to(device), rows)
            self._place |= {name: (layer, column) for column, name in enumerate(here)}
        self._ended: deque[int] = deque()
        self._warned = False
        self.aimed = False  # whether some row of the step in hand has a dose
        self._told: dict[int, wire.Steered] = {}  # what the sidecar has to hear
        self._clear()

    @property
    def streams(self) -> Longs:
        """The streams that are pushed, or were, [q], sorted."""
        return self._streams

    @property
    def idle(self) -> bool:
        """Whether there is nothing to aim and nothing to tell."""
        return not (self.aimed or len(self._streams) or self._told)

    def end(self, stream: int) -> None:
        self._ended.append(stream)

    def stop(self) -> None:
        """Push nobody any more."""
        self._clear()
        self._ended.clear()
        self._told, self.aimed = {}, False
        for pusher in self.pushers.values():
            pusher.doses.zero_()

    def hear(self, packets: Sequence[bytes], running: Callable[[int], bool]) -> None:
        """Take what the sidecar asks for. What is refused changes nothing, and the sidecar is told why."""
        while self._ended:
            self._keep(self._streams != self._ended.popleft())
        for packet in packets:
            try:
                steer = wire.decode_steer(packet)
            except WireError as error:
                if not self._warned:
                    log.warning("%s", error)
                self._warned = True
                continue
            if not steer.tokens:
                self._stop(steer.push)
            elif why := self._objection(steer, running):
                self._told[steer.push] = wire.Steered(steer.push, why=why)
            else:
                self._begin(steer)

    def aim(self, streams: Longs, positions: Longs, rows: Longs, made: Longs) -> None:
        """Set the doses of a step: rows [m] of the token batch, whose states produce the tokens positions [m] of streams [m].

        made [m]: tokens that the stream has for certain. A push begins at the first token after those, whatever is computed again before it.
        """
        if self.idle:
            return
        place = np.searchsorted(self._streams, streams)
        place[place == len(self._streams)] = 0
        known = self._streams[place] == streams if len(self._streams) else np.zeros(len(streams), bool)
        place, positions, rows, made = place[known], positions[known], rows[known], made[known]
        fresh = positions >= made
        self._see(place[fresh], positions[fresh])
        first = self._first[place]
        due = (first >= 0) & (first <= positions) & (positions < first + self._tokens[place])
        place, rows = place[due], rows[due]
        for layer, pusher in self.pushers.items():
            here = self._layer[place] == layer
            if self.aimed:
                pusher.doses.zero_()
            if here.any():
                index = (rows[here], self._column[place[here]])
                pusher.doses.index_put_(
                    tuple(_sent(each, pusher.doses.device) for each in index), _sent(self._dose[place[here]], pusher.doses.device)
                )
        self.aimed = bool(len(place))

    def reserve(self, rows: int) -> None:
        """Make room for steps of so many rows. Only where nothing is captured: a graph would go on reading the old place."""
        for pusher in self.pushers.values():
            if len(pusher.doses) < rows:
                pusher.doses = torch.zeros(2 * rows, pusher.doses.shape[1], device=pusher.doses.device)

    def answers(self) -> list[wire.Steered]:
        """What became of pushes since this was asked last."""
        told, self._told = list(self._told.values()), {}
        return told

    def _see(self, place: NDArray[np.intp], positions: Longs) -> None:
        """A step makes these tokens: pushes begin with their streams' next one, and are over when it lies behind them."""
        if not len(place):
            return
        least = np.full(len(self._streams), np.iinfo(np.int64).max)
        np.minimum.at(least, place, positions)
        seen = np.unique(place)
        seen = seen[~self._over[seen]]
        begun = seen[self._first[seen] < 0]
        self._first[begun] = least[begun]
        self._next[seen] = least[seen]
        over = seen[least[seen] >= self._first[seen] + self._tokens[seen]]
        self._over[over] = True
        for i in (*begun.tolist(), *over.tolist()):
            tokens = int(self._tokens[i]) if self._over[i] else 0
            self._told[int(self._numbers[i])] = wire.Steered(int(self._numbers[i]), int(self._first[i]), tokens)

    def _objection(self, steer: wire.Steer, running: Callable[[int], bool]) -> str:
        limits = self.limits
        if not 0 <= steer.push < 1 << 62:
            return f"push {steer.push}; expected a number up to 2**62"
        if not running(steer.stream):
            return "the stream is over"
        if steer.probe not in self._place:
            return f"probe '{steer.probe[:64]}' is not among tap.steer.probes"
        if not (math.isfinite(steer.dose) and 0 < abs(steer.dose) <= limits.max_dose):
            return f"dose {steer.dose:g}; expected one up to {limits.max_dose:g} either way"
        if not 0 < steer.tokens <= limits.max_tokens:
            return f"{steer.tokens} tokens; expected 1 to {limits.max_tokens}"
        at = np.flatnonzero(self._streams == steer.stream)
        return "the stream is being pushed already" if len(at) and not self._over[at[0]] else ""

    def _begin(self, steer: wire.Steer) -> None:
        self._keep(self._streams != steer.stream)
        layer, column = self._place[steer.probe]
        at = int(np.searchsorted(self._streams, steer.stream))
        values = {
            "_streams": steer.stream, "_numbers": steer.push, "_first": -1, "_tokens": steer.tokens, "_next": -1, "_layer": layer,
            "_column": column, "_dose": steer.dose, "_over": False,
        }  # fmt: skip
        for name, value in values.items():
            setattr(self, name, np.insert(getattr(self, name), at, value))

    def _stop(self, number: int) -> None:
        """End a push with the token under way."""
        for i in np.flatnonzero((self._numbers == number) & ~self._over):
            self._tokens[i] = max(0, self._next[i] + 1 - self._first[i]) if self._first[i] >= 0 else 0
            self._over[i] = True
            self._told[number] = wire.Steered(number, max(0, int(self._first[i])), int(self._tokens[i]))

    def _clear(self) -> None:
        self._streams, self._numbers, self._first, self._tokens, self._next, self._layer, self._column = (
            np.empty(0, np.int64) for _ in range(7)
        )
        self._dose, self._over = np.empty(0, np.float32), np.empty(0, bool)

    def _keep(self, kept: NDArray[np.bool_]) -> None:
        if not kept.all():
            for name in ("_streams", "_numbers", "_first", "_tokens", "_next", "_layer", "_column", "_dose", "_over"):
                setattr(self, name, getattr(self, name)[kept])


def _sent(array: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """On its way to the device; nothing waits for it."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
