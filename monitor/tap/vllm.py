"""The tap on vLLM: which rows became whose tokens, and their scores on the way out."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from monitor import wire
from monitor.tap import compiled, project, traced
from monitor.tap.proof import Proof
from monitor.tap.requests import Requests, Step
from monitor.tap.sender import Sender
from monitor.tap.steer import Limits, Steering
from probes.bank import Bank, BankError, config_hash
from probes.nn import VERSION
from probes.passport import Passport, fingerprint

log = logging.getLogger("barograph.tap")


class VllmTap:
    """Scores every token that a vLLM worker produces, with either of its model runners; with `limits` it also pushes single rows (monitor/tap/steer.py).

    Made once the model is loaded and before it is compiled. In both modes the tapped layers write the scores of all rows of a
    step into buffers that stay: `compiled` from inside the graph (monitor/tap/compiled.py), `traced` from a block of NNsight's
    (monitor/tap/traced.py). After a step the rows whose logits are sampled are gathered, and when the sampled tokens are on the
    host their scores leave in one send. The runner is seen through two of its methods: `execute_model`, which runs a step, and
    `sample_tokens`, which says how many tokens each request got. For pushes a third one, which sets out a step's rows before it runs.

    `last`: whether tokens are sampled on this pipeline rank. On an earlier one nobody says which were, so scores leave with the
    step, for the next token of each reply.

    An exception in here never breaks a generation: the tap disarms, logs once, and tells the sidecar.
    """

    def __init__(
        self, runner: Any, bank: Bank, socket: Path, name: str, version: str, last: bool = True, limits: Limits | None = None
    ) -> None:
        config = runner.vllm_config
        mode = _mode(runner)
        _refuse_what_is_not_supported(config, last)
        if limits is not None:
            _refuse_what_cannot_be_steered(config, mode)
        text = config.model_config.hf_text_config
        bank.check_model(name, text.hidden_size, len(mode.decoder_layers(runner)), config_hash(text.to_dict()))
        here = owned(runner, bank.layers)
        if here != sorted(set(bank.layers)):
            raise BankError(f"this pipeline rank has only layers {here} of the tapped {sorted(set(bank.layers))}; expected all on one rank")
        self.bank = bank
        self.failed = ""
        project.failures.clear()
        self._runner = runner
        self._requests = Requests(config.scheduler_config.max_num_seqs + 1)
        self._step: tuple[Step, torch.Tensor, Any] | None = None
        rows = max(config.scheduler_config.max_num_batched_tokens, config.compilation_config.max_cudagraph_capture_size or 0)
        readers, self._order = _readers(bank, rows, runner.device)
        self._proof: Proof | None = Proof(bank, readers)
        mode.install(runner, readers)
        self._steering = Steering(bank, limits, rows, runner.device) if limits is not None else None
        self._readers = list(readers.values())
        self._execute, self._sample = runner.execute_model, runner.sample_tokens
        runner.execute_model = self._execute_model if last else self._execute_early
        if last:
            runner.sample_tokens = self._sample_tokens
        if self._steering is not None:
            compiled.install_pushers(runner, self._steering.pushers)
            name = "prepare_inputs" if hasattr(runner, "prepare_inputs") else "_prepare_inputs"  # V2, V1
            setattr(runner, name, self._aimed(getattr(runner, name), self._steering))
        dtype = str(config.model_config.dtype).removeprefix("torch.")
        cache = config.cache_config.cache_dtype
        passport = Passport(
            weights=f"vllm:{fingerprint(runner.get_model())}",  # fused, so not comparable with the checkpoint's
            dtype=dtype,
            quantisation=str(config.model_config.quantization or "none"),
            kv_dtype=dtype if cache == "auto" else str(cache),
            engine=f"vllm {version}",
            adapter="lora" if config.lora_config else "none",
        )
        how = f"{mode.__name__.rpartition('.')[2]}; {_graphs(config)}"
        self.sender = Sender(socket, wire.Hello(
            version=wire.VERSION, source=uuid.uuid4().hex[:12], pid=os.getpid(), engine=f"vllm {version} (nnsight {VERSION}, {how})",
            model=name, dtype=dtype, bank=bank.digest, probes=list(bank.names), layers=list(bank.layers), passport=passport.model_dump(),
            secret=os.environ.get(wire.TAP_KEY, ""), steers=list(limits.probes) if limits is not None else [],
        ))  # fmt: skip

    # The runner's thread: execute_model, then sample_tokens. With asynchronous scheduling the tokens come to the host
    # in get_output, in another thread, while the next step may be under way.

    def _aimed(self, prepare: Callable[..., Any], steering: Steering) -> Callable[..., Any]:
        """The runner's method that sets out the rows of a step, and then the doses of those that are pushed."""

        def prepare_and_aim(scheduled: Any, *args: Any, **kwargs: Any) -> Any:
            result = prepare(scheduled, *args, **kwargs)
            try:
                if not self.failed:
                    steering.hear(self.sender.hear(), self._requests.runs)
                if not self.failed and not steering.idle:
                    requests, starts, computed, _ = _of_v2(result) if hasattr(result, "req_ids") else _of_v1(self._runner, scheduled)
                    steering.aim(*self._requests.rows(steering.streams, requests, starts, computed))
                    if answers := steering.answers():
                        self.sender.steered(answers)
            except Exception as error:
                self._disarm(f"{type(error).__name__}: {error}")
            if self.failed and not steering.idle:  # another thread may have found so; only this one touches the doses
                steering.stop()
            return result

        return prepare_and_aim

    def _execute_model(self, scheduled: Any, *args: Any, **kwargs: Any) -> Any:
        result = self._execute(scheduled, *args, **kwargs)
        if not self.failed:
            try:
                self._take(scheduled)
            except Exception as error:
                self._disarm(f"{type(error).__name__}: {error}")
        return result

    def _execute_early(self, scheduled: Any, *args: Any, **kwargs: Any) -> Any:
        result = self._execute_model(scheduled, *args, **kwargs)
        step, self._step = self._step, None
        if step is not None:
            self._send(step, None)
        return result

    def _sample_tokens(self, *args: Any, **kwargs: Any) -> Any:
        result = self._sample(*args, **kwargs)
        step, self._step = self._step, None
        if step is not None and not self.failed:
            if hasattr(result, "get_output"):
                fetch = result.get_output

                def get_output() -> Any:
                    output = fetch()
                    self._send(step, output.sampled_token_ids)
                    return output

                result.get_output = get_output
            else:
                self._send(step, result.sampled_token_ids)
        return result

    def _take(self, scheduled: Any) -> None:
        """Note who came and went, and start the copy of the candidates' scores."""
        for end in self._requests.end(scheduled.finished_req_ids):
            self.sender.end(end)
            if self._steering is not None:
                self._steering.end(end.stream)
        for new in scheduled.scheduled_new_reqs:
            if new.sampling_params is not None:  # else an embedding, which produces no tokens
                begin = self._begin(new)
                if begin is not None:
                    self.sender.begin(begin)
        if project.failures:
            raise RuntimeError(project.failures[0])
        if not scheduled.total_num_scheduled_tokens:
            self._step = None
            return
        step = self._requests.step(*_batch(self._runner, scheduled))
        picked, event = project.collect(self._readers, step.rows)
        if self._proof is not None:
            self._proof.keep(step)
        self._step = (step, picked, event)

    def _begin(self, new: Any) -> wire.Begin | None:
        prompt = len(new.prompt_token_ids if new.prompt_token_ids is not None else new.prompt_embeds)
        sampling = new.sampling_params
        most = self._runner.vllm_config.model_config.max_model_len - prompt
        stops = [token for token in (sampling.eos_token_id, *(sampling.stop_token_ids or ())) if token is not None]
        return self._requests.begin(new.req_id, prompt, min(most, sampling.max_tokens or most), stops)

    def _send(self, taken: tuple[Step, torch.Tensor, Any], sampled: list[list[int]] | None) -> None:
        """The sampled tokens are on the host, or known to come: send the scores of those that stand."""
        try:
            step, scores, event = taken
            if event is not None:
                event.synchronize()
            kept = self._requests.due(step) if sampled is None else self._requests.settle(step, sampled)
            if len(kept):
                streams, positions = step.streams[kept], step.positions[kept]
                made = scores.numpy()[kept][:, self._order]
                self.sender.scores(streams.astype("<u4"), positions.astype("<u4"), made)
                self._prove(step, kept, made)
        except Exception as error:
            self._disarm(f"{type(error).__name__}: {error}")

    def _prove(self, step: Step, kept: NDArray[np.intp], scores: NDArray[np.float32]) -> None:
        """The first tokens of an engine's life show whether the scores are what the states beside them say."""
        check = self._proof.look(step, kept, scores) if self._proof is not None else None
        if check is None:
            return
        self._proof = None
        if check.ok:
            log.info("the tap proved itself on %d tokens: within %.3g standard deviations", check.tokens, check.worst)
            self.sender.prove(check)
        else:
            self._disarm(check.why)

    def _disarm(self, why: str) -> None:
        self._step = self._proof = None
        if not self.failed:
            self.failed = why
            log.error("tap disarmed, generation goes on unscored: %s", self.failed)
            self.sender.fail(self.failed)


def _readers(bank: Bank, rows: int, device: torch.device) -> tuple[dict[int, project.Reader], NDArray[np.intp]]:
    """A reader for every tapped layer, and for each probe its column among the readers' columns side by side."""
    weight, bias = bank.affine()
    of_layer = np.array(bank.layers)
    readers = {}
    for layer in np.unique(of_layer).tolist():
        columns = np.flatnonzero(of_layer == layer)
        readers[layer] = project.Reader(
            torch.from_numpy(np.ascontiguousarray(weight[:, columns])).to(device), torch.from_numpy(bias[columns]).to(device), rows
        )
    return readers, np.argsort(np.argsort(of_layer, kind="stable"), kind="stable")


def _mode(runner: Any) -> Any:
    """The module of the tap mode that the runner was prepared for."""
    return traced if traced.is_traced(runner) else compiled


def owned(runner: Any, layers: Iterable[int]) -> list[int]:
    """Those of `layers` that this pipeline rank has; in the others' place vLLM puts modules without parameters.

    Raises LayersError for an unknown family. A layer that no rank has is not left out: `Bank.check_model` refuses it.
    """
    decoder = _mode(runner).decoder_layers(runner)
    return [i for i in sorted(set(layers)) if i >= len(decoder) or any(True for _ in decoder[i].parameters())]


Batch = tuple[list[str], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64] | None]


def _batch(runner: Any, scheduled: Any) -> Batch:
    """Request ids in the order of their rows, where each one's rows begin, tokens computed before, and drafts, of either runner."""
    state = runner.execute_model_state
    return _of_v2(state.input_batch) if hasattr(state, "input_batch") else _of_v1(runner, scheduled)


def _of_v2(batch: Any) -> Batch:
    drafts = batch.num_draft_tokens_per_req
    starts, computed = batch.query_start_loc_np[: batch.num_reqs + 1], batch.num_computed_tokens_np[: batch.num_reqs]
    return list(batch.req_ids), starts.astype(np.int64), computed.astype(np.int64), None if drafts is None else drafts.astype(np.int64)


def _of_v1(runner: Any, scheduled: Any) -> Batch:
    batch = runner.input_batch
    n = batch.num_reqs
    requests = list(batch.req_ids[:n])
    starts, computed = runner.query_start_loc.np[: n + 1], batch.num_computed_tokens_cpu[:n]
    drafted = scheduled.scheduled_spec_decode_tokens
    guesses = np.fromiter((len(drafted.get(request, ())) for request in requests), np.int64, n) if drafted else None
    return requests, starts.astype(np.int64), computed.astype(np.int64), guesses


def _graphs(config: Any) -> str:
    """What of vLLM's own speed stays on."""
    compilation = config.compilation_config
    if config.model_config.enforce_eager or not compilation.mode:
        return "eager"
    graphs = getattr(compilation.cudagraph_mode, "name", "NONE")
    return f"torch.compile on, CUDA graphs {graphs.lower()}"


def _refuse_what_is_not_supported(config: Any, last: bool) -> None:
    most = config.scheduler_config.max_num_seqs
    if most > wire.MAX_STREAMS:
        raise BankError(f"--max-num-seqs {most} is more than a tap can follow; expected at most {wire.MAX_STREAMS}")
    if config.parallel_config.prefill_context_parallel_size > 1:
        raise BankError(
            "prefill context parallelism splits a request's rows over ranks; supported are tensor, pipeline and data parallelism"
        )
    if not last and (config.speculative_config is not None or config.scheduler_config.async_scheduling):
        raise BankError(
            "an earlier pipeline rank does not hear which guesses stand; supported there are neither speculative decoding nor asynchronous "
            "scheduling (--no-async-scheduling), or probes on layers of the last rank"
        )


def _refuse_what_cannot_be_steered(config: Any, mode: Any) -> None:
    """A push lives in the key-value cache of the layers above it. It must reach every part of the model, and nobody else's reply."""
    parallel = config.parallel_config
    if mode is not compiled:
        raise BankError("tap.steer needs tap.mode compiled")
    if config.cache_config.enable_prefix_caching:
        raise BankError(
            "tap.steer needs --no-enable-prefix-caching: what was pushed in one reply would be read from the cache by another request"
        )
    if parallel.tensor_parallel_size > 1 or parallel.pipeline_parallel_size > 1:
        raise BankError("tap.steer needs the whole model in one worker: --tensor-parallel-size 1 and --pipeline-parallel-size 1")
    if config.speculative_config is not None:
        raise BankError("tap.steer does not go with speculative decoding: the draft is not pushed")
