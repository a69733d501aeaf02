"""The tap: reads the residual stream at the rows that produce tokens and projects it on the bank; where configured, it pushes single rows."""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from monitor import wire
from monitor.tap.project import failures
from monitor.tap.sender import Sender
from monitor.tap.steer import Limits, Pusher, Steering
from probes.bank import Bank, config_hash
from probes.layers import decoder_layers
from probes.nn import VERSION, TransformersModel
from probes.passport import Passport

log = logging.getLogger("barograph.tap")


class Aside:
    """Stands in a sender's place and keeps the scores of what runs."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, int], NDArray[np.float32]] = {}  # by stream and position

    def begin(self, begin: wire.Begin) -> None:
        pass

    def end(self, end: wire.End) -> None:
        pass

    def scores(self, streams: NDArray[np.uint32], positions: NDArray[np.uint32], scores: NDArray[np.float32]) -> None:
        for stream, position, row in zip(streams.tolist(), positions.tolist(), scores, strict=True):
            self.rows[stream, position] = row.copy()


# For the rows of the step in hand, in order: the request of each and how many tokens it has produced so far.
Rows = Callable[[], tuple[Sequence[str], Sequence[int]]]


class Tap:
    """Scores every produced token of every request, one projection a layer for the whole batch.

    NNsight's module tree says where the decoder layers are; the read itself is a forward hook on the module behind
    the envoy, because a trace would cost 3 to 4 % of a step (`benchmarks/tap_overhead.py`) and the scores must leave
    while the step runs. The score of token i is read from the state whose logits produce token i.

    An exception in here never breaks a generation: the tap disarms, logs once, and tells the sidecar.
    """

    def __init__(
        self, model: TransformersModel, bank: Bank, rows: Rows, socket: Path, name: str, source: str = "", connect: bool = True,
        grade: str = "activations", limits: Limits | None = None,
    ) -> None:  # fmt: skip
        """`limits`: what may be steered along; without it nothing is."""
        module: Any = model._module
        config = module.config.get_text_config()
        layers = decoder_layers(model)
        bank.check_model(name, config.hidden_size, len(layers), config_hash(config.to_dict()))
        self.bank = bank
        self.failed = ""
        self.check: wire.Check | None = None  # how the tap proved itself
        self._rows = rows
        self._streams: dict[str, int] = {}
        self._next_stream = 0
        self._lock = threading.Lock()
        self._picked: torch.Tensor | None = None
        self._scores = torch.empty(0, len(bank.names), device=module.device)
        self._module, self._decoder = module, layers
        self._handles: list[Any] = []
        self._steering = Steering(bank, limits, 0, module.device) if limits is not None else None
        self.attach()
        dtype = str(module.dtype).removeprefix("torch.")
        passport = Passport.of(module, f"transformers {transformers.__version__}")
        self.sender = Sender(socket, wire.Hello(
            version=wire.VERSION, source=source or uuid.uuid4().hex[:12], pid=os.getpid(),
            engine=f"transformers (nnsight {VERSION})", model=name, dtype=dtype, bank=bank.digest,
            probes=list(bank.names), layers=list(bank.layers), passport=passport.model_dump(), grade=grade,
            secret=os.environ.get(wire.TAP_KEY, ""), steers=list(limits.probes) if limits is not None else [],
        ), connect)  # fmt: skip
        self._to: Sender | Aside = self.sender

    def begin(self, key: str, request: str, index: int) -> None:
        """A generation starts. `key` is the engine's own id, `request` and `index` are what the gateway knows it by."""
        with self._lock:
            stream = self._next_stream
            self._next_stream += 1
            self._streams[key] = stream
        self._to.begin(wire.Begin(stream, request, index))

    def end(self, key: str, tokens: int) -> None:
        """A generation is over after `tokens` tokens; rows that still run for it are not sent."""
        with self._lock:
            stream = self._streams.pop(key, None)
        if stream is not None:
            self._to.end(wire.End(stream, tokens))
            if self._steering is not None and not self.failed:
                self._steering.end(stream)

    @contextmanager
    def aside(self) -> Iterator[Aside]:
        """While it lasts scores come to the caller and the sidecar hears nothing: for a trial before anything is served."""
        self._to = Aside()
        try:
            yield self._to
        finally:
            self._to = self.sender

    def prove(self, check: wire.Check) -> None:
        """Take what a trial found. A tap that is not true scores nothing more."""
        if self.failed:
            return
        self.check = check
        if check.ok:
            self.sender.prove(check)
        else:
            self._disarm(check.why)

    def close(self) -> None:
        self.detach()
        self.sender.close()

    def detach(self) -> None:
        """Take the hooks off: generation goes on unscored, from the step under way."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._picked = None

    def attach(self) -> None:
        """Put the hooks on; nothing when they are."""
        if self._handles:
            return
        weight, bias = self.bank.affine()
        of_layer = np.array(self.bank.layers)
        self._handles = [
            self._module.register_forward_pre_hook(self._before, with_kwargs=True),
            self._module.register_forward_hook(self._after),
        ]
        for layer in sorted(set(self.bank.layers)):
            columns = np.flatnonzero(of_layer == layer)
            device = self._scores.device
            read = (
                torch.from_numpy(np.ascontiguousarray(weight[:, columns])).to(device),
                torch.from_numpy(bias[columns]).to(device),
                torch.from_numpy(columns).to(device),
            )
            self._handles.append(self._decoder[layer].register_forward_hook(self._reader(*read)))
        for layer, pusher in (self._steering.pushers if self._steering is not None else {}).items():
            # After the reader, which every such layer has: what is scored was not pushed here.
            self._handles.append(self._decoder[layer].register_forward_hook(self._pusher(pusher)))

    # The hooks run in the engine's generation thread: _before, then one reader a layer, with a pusher behind it, then _after.

    def _before(self, module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        indices = kwargs.get("logits_indices")
        self._picked = None if self.failed else indices
        if indices is not None and self._scores.shape[0] < len(indices):
            self._scores = torch.empty(2 * len(indices), self._scores.shape[1], device=self._scores.device)
        if self._steering is not None and self._picked is not None:
            try:
                self._steer(self._steering, self._picked, kwargs["input_ids"].numel())
            except Exception as error:
                self._disarm(f"{type(error).__name__}: {error}")

    def _steer(self, steering: Steering, picked: torch.Tensor, tokens: int) -> None:
        """Hear what the sidecar asks for, and set the doses of the step that begins."""
        heard = self.sender.hear()
        with self._lock:
            steering.hear(heard, lambda stream: stream in self._streams.values())
        if steering.idle:
            return
        steering.reserve(tokens)
        streams, positions = self._owners()
        rows = picked.cpu().numpy().astype(np.int64)[: len(streams)]  # behind them stand requests whose prompt goes on in the next step
        steering.aim(streams, positions, rows, positions)
        if answers := steering.answers():
            self.sender.steered(answers)

    def _owners(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of the step's rows: the stream of each, -1 for one that is over, and which of its tokens comes of it."""
        requests, produced = self._rows()
        with self._lock:
            streams = np.array([self._streams.get(request, -1) for request in requests], np.int64)
        return streams, np.array(produced, np.int64)

    def _reader(self, weight: torch.Tensor, bias: torch.Tensor, columns: torch.Tensor) -> Callable[..., None]:
        def read(module: torch.nn.Module, args: Any, output: Any) -> None:
            picked = self._picked
            if picked is None:
                return
            try:
                hidden = output if isinstance(output, torch.Tensor) else output[0]
                self._scores[: len(picked), columns] = torch.addmm(bias, hidden[0, picked].float(), weight)
            except Exception as error:
                self._disarm(f"{type(error).__name__}: {error}")

        return read

    def _pusher(self, pusher: Pusher) -> Callable[..., None]:
        def act(module: torch.nn.Module, args: Any, output: Any) -> None:
            if self._picked is not None and self._steering is not None and self._steering.aimed:
                pusher(output)

        return act

    def _after(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        picked, self._picked = self._picked, None
        if picked is None:
            return
        try:
            if self._steering is not None and failures:
                raise RuntimeError(failures[0])
            streams, produced = self._owners()
            kept = np.flatnonzero(streams >= 0)
            if len(kept):
                scores = self._scores[: len(picked)].cpu().numpy()[kept]
                self._to.scores(streams[kept].astype("<u4"), produced[kept].astype("<u4"), scores)
        except Exception as error:
            self._disarm(f"{type(error).__name__}: {error}")

    def _disarm(self, why: str) -> None:
        self._picked = None
        self.failed = why
        log.error("tap disarmed, generation goes on unscored: %s", self.failed)
        self.sender.fail(self.failed)
