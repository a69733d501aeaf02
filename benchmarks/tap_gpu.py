"""What the tap costs in a decode step on a GPU: with its operator and without, eager and inside a captured CUDA graph.

Needs torch, transformers and this project's files, no vLLM. A model of the shape of an 8B Llama with random weights decodes
with a static cache; every step ends with its tokens on the host, as an engine's does. With the tap a step also projects the
tapped layers into the buffers, copies the candidates' scores to the host and sends them over the socket. Both sides share model, cache
and moment: blocks of steps in the order on-off-off-on, neighbouring blocks compared.

With --steer the tap is on both sides, and on one of them every row of the step is pushed by a dose of its own as well.

On a machine without CUDA it runs a tiny model, eager only, which shows that it works and is no figure to quote.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

from benchmarks.drain import Drain
from benchmarks.pairs import interval, ratios
from benchmarks.report import keep
from monitor import wire
from monitor.tap.project import Reader, collect, failures
from monitor.tap.sender import Sender
from monitor.tap.steer import Pusher

EIGHT_B = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
    "vocab_size": 128256, "max_position_embeddings": 8192,
}  # fmt: skip
TINY = {
    "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 512,
    "vocab_size": 1024, "max_position_embeddings": 1024,
}  # fmt: skip
BATCHES = (1, 8, 32, 128, 256)
PROBES = (3, 171)  # at each tapped layer
LAYERS = (1, 4)
CONTEXT = 512  # tokens in the cache while a step runs
BLOCK = 10  # steps; the first two of each are not counted
ORDER = (True, False, False, True)


class Decoder:
    """One decode step of a batch, always at the same place of a static cache."""

    def __init__(self, model: LlamaForCausalLM, batch: int) -> None:
        config, device = model.config, model.device
        self.model = model
        self.tokens = torch.randint(3, config.vocab_size, (batch, 1), device=device)
        self.cache = StaticCache(config=config, max_cache_len=CONTEXT + 8)
        self.cache.early_initialization(batch, config.num_key_value_heads, config.head_dim, model.dtype, device)
        self.place = torch.full((batch, 1), CONTEXT, device=device)

    def forward(self) -> torch.Tensor:
        """The next tokens [batch], on the device."""
        for layer in self.cache.layers:
            layer.cumulative_length.fill_(CONTEXT)
        logits = self.model(self.tokens, past_key_values=self.cache, position_ids=self.place, use_cache=True).logits
        return logits[:, -1].argmax(-1)

    def graphed(self) -> Callable[[], torch.Tensor]:
        """The same step, captured with whatever hooks the model carries now."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.forward()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            tokens = self.forward()

        def replay() -> torch.Tensor:
            graph.replay()
            return tokens

        return replay


def tapped_layers(model: LlamaForCausalLM, count: int) -> list[torch.nn.Module]:
    depth = len(model.model.layers)
    return [model.model.layers[depth * (i + 1) // (count + 1)] for i in range(count)]


def step_s(timed: list[tuple[bool, float]], on: bool) -> float:
    return statistics.median(seconds for tapped, seconds in timed if tapped is on)


def measure(
    model: LlamaForCausalLM, path: Path, batch: int, probes: int, layers: int, graph: bool, pairs: int, steer: bool = False
) -> dict[str, Any]:
    decoder = Decoder(model, batch)
    width, device = model.config.hidden_size, model.device
    readers = [Reader(torch.randn(width, probes, device=device) / width, torch.zeros(probes, device=device), batch) for _ in range(layers)]
    pushers = [Pusher(torch.nn.functional.normalize(torch.randn(1, width, device=device)), batch) for _ in range(layers if steer else 0)]
    for pusher in pushers:
        pusher.doses[:, 0] = torch.linspace(-0.1, -0.001, batch)
    hooks: list[Any] = []

    def attach(push: bool = True) -> None:
        for module, reader in zip(tapped_layers(model, layers), readers, strict=True):
            hooks.append(module.register_forward_hook(lambda module, args, output, reader=reader: reader(output)))
        for module, pusher in zip(tapped_layers(model, layers), pushers if push else [], strict=False):
            hooks.append(module.register_forward_hook(lambda module, args, output, pusher=pusher: pusher(output)))

    def detach() -> None:
        while hooks:
            hooks.pop().remove()

    names = [f"random_{i}" for i in range(probes * layers)]
    hello = wire.Hello(wire.VERSION, "bench", 0, "bench", "random", str(model.dtype), "", names, [0] * len(names))
    sender = Sender(path, hello)
    streams, position = np.arange(batch).astype("<u4"), 0
    rows = np.arange(batch)

    def bare(step: Callable[[], torch.Tensor]) -> None:
        step().cpu()

    def scored(step: Callable[[], torch.Tensor]) -> None:
        nonlocal position
        tokens = step()
        scores, event = collect(readers, rows)
        tokens.cpu()
        if event is not None:
            event.synchronize()
        sender.scores(streams, np.full(batch, position, "<u4"), scores.numpy())
        position += 1

    with torch.inference_mode():
        if steer:
            attach(push=False)
        plain = decoder.graphed() if graph else decoder.forward
        detach()
        attach()
        with_tap = decoder.graphed() if graph else decoder.forward
        if graph:  # the hooks live on in the graph
            detach()
        timed: list[tuple[bool, float]] = []
        for block in range(-2, 2 * pairs):
            on = ORDER[block % 4]
            if not graph:
                detach()
                if on or steer:
                    attach(push=on)
            times = []
            for _ in range(BLOCK):
                start = time.perf_counter()
                (scored if on or steer else bare)(with_tap if on else plain)
                times.append(time.perf_counter() - start)
            if block >= 0:
                timed.append((on, statistics.median(times[2:])))
        detach()
    found = np.stack([reader.scores[:batch].cpu().numpy() for reader in readers])
    assert np.isfinite(found).all()
    assert np.abs(found).max() > 0, "the operator wrote nothing"
    assert not failures, failures
    dropped = sender.dropped
    sender.close()
    values = ratios(timed)
    return {
        "ratio": round(float(np.median(values)), 4), "ratio_ci95": interval(values), "pairs": len(values),
        "step_ms_with": round(1000 * step_s(timed, True), 3), "step_ms_without": round(1000 * step_s(timed, False), 3),
        "frames_dropped": dropped,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--steer", action="store_true", help="what pushes cost beside the tap, in graphs only")
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    shape, dtype, device = (EIGHT_B, torch.bfloat16, "cuda") if cuda else (TINY, torch.float32, "cpu")
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = LlamaForCausalLM._from_config(LlamaConfig(**shape), attn_implementation="sdpa").eval()
    torch.set_default_dtype(default)
    found: dict[str, Any] = {}

    def kept() -> str:
        return keep(
            "steer_gpu" if options.steer else "tap_gpu", device=torch.cuda.get_device_name(0), model="8B-shaped Llama, random weights",
            torch=torch.__version__, dtype=str(dtype).removeprefix("torch."), context=CONTEXT, **found,
        )  # fmt: skip

    with tempfile.TemporaryDirectory(prefix="barograph-") as folder, Drain(Path(folder) / "tap.sock") as drain:
        for batch in options.batches or (BATCHES if cuda else (1, 8)):
            for layers in LAYERS:
                for probes in PROBES[-1:] if options.steer else PROBES:
                    for graph in ((True,) if options.steer else (True, False)) if cuda else (False,):
                        name = f"batch_{batch}_probes_{probes}_layers_{layers}_{'graph' if graph else 'eager'}"
                        found[name] = measure(model, drain.path, batch, probes, layers, graph, options.pairs, options.steer)
                        print(name, found[name], flush=True)
                        if cuda:
                            kept()
    if cuda:
        print(kept())
    else:
        print("no CUDA here, so no figure is kept")


if __name__ == "__main__":
    main()
