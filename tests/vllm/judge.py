"""Compares what a recorder heard with what clients saw and with transformers on the same weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import torch

from monitor import models
from monitor.config import Config
from monitor.engine.vllm_process import Reply
from monitor.tap.recorder import Key, Recorder
from probes.reader import Reader
from probes.reference import reply_scores
from tests.stack import eventually

ATTEMPTS = 3


class Judge:
    """Loads the reference once. `heard` asks, `worst` compares."""

    def __init__(self, model: str = "smollm2") -> None:
        torch.set_num_threads(2)
        self._reader = Reader(models.resolve(model), model, device="cpu", dtype="float32")
        self._bank = Config.model_validate({"engine": {"model": model}}).load_bank()
        self._before = (0, 0)  # rows of unknown streams and dropped frames until the last question

    def heard(self, recorder: Recorder, ask: Callable[[str], dict[Key, Reply]]) -> dict[Key, Reply]:
        """The replies that `ask(suffix of the request ids)` gives, once the tap dropped no frame of theirs.

        A machine that starves the recorder for seconds makes the tap drop, as it must: the model never waits. That says nothing about scores,
        so the question is asked again, under other names.
        """
        for attempt in range(ATTEMPTS):
            self._before = (recorder.unknown, recorder.dropped)
            replies = ask(f"-{attempt}" if attempt else "")
            with contextlib.suppress(AssertionError):
                eventually(lambda: not _missing(recorder, replies), "all streams have ended")  # noqa: B023
            if (recorder.unknown, recorder.dropped) == self._before:
                break
        return replies

    def worst(self, recorder: Recorder, replies: dict[Key, Reply], sample: int = 1) -> float:
        """Assert that every token has one score, in order; return how far those of each `sample`th reply are off the reference."""
        begun = _begun(replies)
        with contextlib.suppress(AssertionError):
            eventually(lambda: not _missing(recorder, replies), "all streams have ended", 120)
        missing = _missing(recorder, replies)
        assert not missing, (missing[:8], len(missing), recorder.failed, recorder.dropped, recorder.unknown)
        worst = 0.0
        for i, (key, reply) in enumerate(begun.items()):
            positions = recorder.positions(key)
            assert positions == list(range(len(positions))), key
            assert len(positions) == len(reply.tokens) if reply.whole else len(positions) >= len(reply.tokens), key
            assert recorder.ends[key] == len(positions)
            if i % sample == 0 and reply.tokens:
                reference = reply_scores(self._reader.nn, self._bank, reply.prompt + reply.tokens, len(reply.prompt))
                worst = max(worst, float(np.abs(recorder.array(key)[: len(reply.tokens)] - reference).max()))
        assert (recorder.unknown, recorder.dropped, recorder.failed) == (*self._before, [])
        return worst


def _begun(replies: dict[Key, Reply]) -> dict[Key, Reply]:
    """A choice whose client left before it was scheduled has no stream: its client has seen the role and no token."""
    return {key: reply for key, reply in replies.items() if reply.whole or reply.tokens}


def _missing(recorder: Recorder, replies: dict[Key, Reply]) -> list[tuple[Key, bool, int, int]]:
    """Replies whose streams did not end: whether they are whole, and how many tokens and scores they have."""
    return [
        (key, reply.whole, len(reply.tokens), len(recorder.positions(key)))
        for key, reply in _begun(replies).items()
        if key not in recorder.ends
    ]
