"""Compares what a recorder heard with what clients saw and with transformers on the same weights."""

from __future__ import annotations

import contextlib

import numpy as np
import torch

from monitor import models
from monitor.config import Config
from monitor.engine.vllm_process import Reply
from monitor.tap.recorder import Key, Recorder
from probes.reader import Reader
from probes.reference import reply_scores
from tests.stack import eventually


class Judge:
    def __init__(self) -> None:
        torch.set_num_threads(2)
        self._reader = Reader(models.resolve("smollm2"), "smollm2", device="cpu", dtype="float32")
        self._bank = Config().load_bank()

    def worst(self, recorder: Recorder, replies: dict[Key, Reply], sample: int = 1) -> float:
        """Assert that every token has one score, in order; return how far those of each `sample`th reply are off the reference."""
        # A choice whose client left before it was scheduled has no stream: its client has seen the role and no token.
        begun = {key: reply for key, reply in replies.items() if reply.whole or reply.tokens}
        with contextlib.suppress(AssertionError):
            eventually(lambda: all(key in recorder.ends for key in begun), "all streams have ended", 120)
        missing = {
            key: (reply.whole, len(reply.tokens), len(recorder.positions(key))) for key, reply in begun.items() if key not in recorder.ends
        }
        assert not missing, (dict(list(missing.items())[:8]), len(missing), recorder.failed, recorder.dropped, recorder.unknown)
        worst = 0.0
        for i, (key, reply) in enumerate(begun.items()):
            positions = recorder.positions(key)
            assert positions == list(range(len(positions))), key
            assert len(positions) == len(reply.tokens) if reply.whole else len(positions) >= len(reply.tokens), key
            assert recorder.ends[key] == len(positions)
            if i % sample == 0 and reply.tokens:
                reference = reply_scores(self._reader.nn, self._bank, reply.prompt + reply.tokens, len(reply.prompt))
                worst = max(worst, float(np.abs(recorder.array(key)[: len(reply.tokens)] - reference).max()))
        assert (recorder.unknown, recorder.failed, recorder.dropped) == (0, [], 0)
        return worst
