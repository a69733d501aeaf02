"""transformers' continuous batching, as the engine uses it: submit, stream, cancel, and who is in which row."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any

from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.requests import GenerationOutput
from transformers.generation.logits_process import LogitsProcessorList

from monitor.engine.sampler import Sampler, Sampling, produced
from monitor.http.openai import OpenAIError, unavailable

log = logging.getLogger("barograph.engine")

PAGE = 64  # tokens in a page of the cache


class Batcher:
    """Requests join and leave the batch between two steps of the model.

    The step loop runs in a thread of transformers' own. CUDA graphs and its asynchronous mode stay off: sampling here
    depends on each request, and the vLLM engine is the one for speed.
    """

    def __init__(self, model: Any, eos: set[int], max_streams: int, kv_tokens: int, share: bool = True) -> None:
        """`share`: whether requests that begin alike use the same pages of the cache."""
        self.max_streams = max_streams
        self.live: set[str] = set()
        on_cpu = model.device.type == "cpu"
        self._manager = model.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=sorted(eos) or -1, pad_token_id=min(eos, default=0)),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=PAGE,
                num_blocks=-(-kv_tokens // PAGE) if on_cpu else None,
                max_batch_tokens=512 if on_cpu else None,
                max_requests_per_batch=max_streams,
                allow_block_sharing=share,
                use_cuda_graph=False,
                use_async_batching=False,
            ),
        )
        self._manager.logit_processor = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([Sampler()]))
        self._manager.logit_processor.tensors_required = 1
        self._eos = eos

    def start(self) -> None:
        self._manager.start()

    def stop(self) -> None:
        self._manager.stop(block=True, timeout=10, hard_stop=True)

    @property
    def alive(self) -> bool:
        return bool(self._manager.is_running())

    def rows(self) -> tuple[list[str], list[int]]:
        """The requests that get a token from the step in hand, in the order of their rows, and the tokens each has so far."""
        batch = self._manager.batch_processor.inputs_and_outputs.requests_in_batch
        states = [future.state for future in batch if future.has_new_token]
        return [state.request_id for state in states], [produced(state) for state in states]

    async def generate(self, key: str, prompt: list[int], max_tokens: int, sampling: Sampling, ends: bool = True) -> AsyncGenerator[int]:
        """Yield the produced tokens, an end-of-text token included, which ends the reply unless not `ends`.

        Leaving the loop early cancels the request.
        """
        if len(self.live) >= self.max_streams:
            raise OpenAIError(
                429,
                f"{self.max_streams} generations are running, the limit of this engine; try again later",
                kind="rate_limit_error",
                code="too_many_requests",
            )
        outputs: asyncio.Queue[GenerationOutput] = asyncio.Queue()
        self._manager.register_result_handler(key, outputs.put_nowait)
        self.live.add(key)
        done = False
        try:
            if (
                self._manager.add_request(
                    prompt,
                    request_id=key,
                    max_new_tokens=max_tokens,
                    streaming=True,
                    eos_token_id=sorted(self._eos) if ends else [-1],
                    sampling=sampling,
                )
                is None
            ):
                raise unavailable("the model loop has stopped; restart the engine", "engine_stopped")
            sent = 0
            while not done:
                output = await outputs.get()
                done = output.is_finished()
                if output.error is not None:
                    raise OpenAIError(500, f"generation failed: {output.error}", kind="server_error", code="generation_failed")
                fresh, sent = output.generated_tokens[sent:], len(output.generated_tokens)
                for token in fresh:
                    yield token
        finally:
            self.live.discard(key)
            if not done:
                self._manager.cancel_request(key)
                with self._manager.output_router._lock:
                    self._manager.output_router.result_handlers.pop(key, None)

    def is_eos(self, token: int) -> bool:
        return token in self._eos
