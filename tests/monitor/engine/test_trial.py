"""The tap proves itself on the real model before anything is served; a tap that reads elsewhere does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import monitor.tap.tap as tap_module
from monitor import wire
from monitor.engine.batcher import Batcher
from monitor.engine.loading import LoadedModel, load
from monitor.engine.server import EngineServer
from monitor.tap.recorder import Recorder
from monitor.tap.tap import Tap
from probes.bank import Bank
from probes.layers import decoder_layers
from tests.banks import random_bank
from tests.stack import eventually


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load("smollm2", "bfloat16")


def health(model: LoadedModel, bank: Bank, socket: Path, change: Callable[[Tap], None] = lambda _: None) -> dict[str, Any]:
    """What an engine with that tap says of itself once it serves."""

    async def run() -> dict[str, Any]:
        batcher = Batcher(model.module, set(model.eos), 4, 2048)
        tap = Tap(model.wrapper, bank, batcher.rows, socket, model.name, connect=False)
        change(tap)
        server = EngineServer(model, batcher, tap, 1 << 20)
        client = httpx.AsyncClient(transport=httpx.ASGITransport(server.app), base_url="http://engine")
        async with server.app.router.lifespan_context(server.app), client:
            await asyncio.sleep(0.1)
            found: dict[str, Any] = (await client.get("/health")).json()
            return found

    return asyncio.run(run())


def test_a_true_tap_proves_itself_unseen(model: LoadedModel, bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(wire.TAP_KEY, "a secret")
    recorder = Recorder(tmp_path / "tap.sock")
    try:
        state = health(model, bank, recorder.path)
        eventually(lambda: recorder.checks, "the check has come")
    finally:
        recorder.close()
    (check,) = recorder.checks
    assert (check.ok, check.tokens, check.why) == (True, 8, "")
    assert 0 < check.worst < 0.3
    assert state["proof"] == {"ok": True, "tokens": 8, "worst": check.worst}
    assert state["tap"] == "connected"
    assert recorder.hellos[0].secret == "a secret"
    assert (recorder.failed, dict(recorder.scores), recorder.unknown, recorder.ends) == ([], {}, 0, {})


@pytest.mark.parametrize("shift", [1, -1])
def test_a_tap_on_a_neighbouring_layer_fails(
    model: LoadedModel, bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: int
) -> None:
    def shifted(wrapper: Any) -> list[Any]:
        layers = decoder_layers(wrapper)
        return [*layers[shift:], *layers[:shift]]

    monkeypatch.setattr(tap_module, "decoder_layers", shifted)
    recorder = Recorder(tmp_path / "tap.sock")
    try:
        state = health(model, bank, recorder.path)
        eventually(lambda: recorder.checks, "the check has come")
    finally:
        recorder.close()
    assert state["tap"].startswith("failed: the score of ")
    assert not state["proof"]["ok"]
    assert not recorder.checks[0].ok
    assert "recomputed" in recorder.checks[0].why
    assert "recomputed" in recorder.failed[0]


def test_a_tap_on_a_neighbouring_row_fails(model: LoadedModel, bank: Bank, tmp_path: Path) -> None:
    def change(tap: Tap) -> None:
        before = tap._before

        def late(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            rows = kwargs.get("logits_indices")
            # In a step of one row there is no neighbour: only the prompt's score is of the row before.
            before(module, args, kwargs if rows is None else {**kwargs, "logits_indices": (rows - 1).clamp(min=0)})

        tap._handles.pop(0).remove()
        tap._handles.append(tap._module.register_forward_pre_hook(late, with_kwargs=True))

    assert "at token 0" in health(model, bank, tmp_path / "none.sock", change)["tap"]


def test_a_tap_without_hooks_fails(model: LoadedModel, bank: Bank, tmp_path: Path) -> None:
    state = health(model, bank, tmp_path / "none.sock", Tap.detach)
    assert state["tap"] == "failed: 8 tokens of the trial have scores at []; expected one each"


def test_probes_on_the_last_layer_are_checked_too(tiny: str, tmp_path: Path) -> None:
    model = load(tiny, "float32", "cpu")
    bank = Bank.load(random_bank(tmp_path / "bank", (0, 5), 2, model.module.config))
    state = health(model, bank, tmp_path / "none.sock")
    assert state["proof"]["ok"], state


def test_a_model_that_fails_in_the_trial_is_one_line(
    model: LoadedModel, bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no hidden states")

    monkeypatch.setattr("monitor.engine.trial.states_of", broken)
    state = health(model, bank, tmp_path / "none.sock")
    assert state["tap"] == "failed: the trial of the tap failed (RuntimeError: no hidden states)"
