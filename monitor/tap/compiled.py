"""The tap's way into vLLM at native speed: torch.compile and CUDA graphs stay on, the projection runs inside the graph."""

from __future__ import annotations

from typing import Any

import torch

from monitor.tap.project import Reader
from monitor.tap.steer import Pusher
from probes import layers
from probes.bank import BankError
from probes.nn import tree


def decoder_layers(runner: Any) -> list[torch.nn.Module]:
    """The decoder layers of a loaded model, as NNsight's tree finds them."""
    with tree(runner.get_model()) as found:
        return layers.decoder_layers(found)


def install(runner: Any, readers: dict[int, Reader]) -> None:
    """A forward hook on each tapped layer. It is traced into the graph with its layer, so this comes before compilation.

    The key of vLLM's compile cache gets to know it: a graph without the operator must never be served for one with it.
    """
    config = runner.vllm_config
    if not isinstance(config.additional_config, dict):
        raise BankError(f"additional_config is a {type(config.additional_config).__name__}; expected a dict, for the tap's compile key")
    config.additional_config["barograph"] = {"operator": 2, "columns": {str(i): each.weight.shape[1] for i, each in readers.items()}}
    decoder = decoder_layers(runner)
    for layer, reader in readers.items():
        decoder[layer].barograph = reader
        decoder[layer].register_forward_hook(_read)


def install_pushers(runner: Any, pushers: dict[int, Pusher]) -> None:
    """A hook behind the reader's on each layer where replies are pushed: what is read was not pushed there. After `install`."""
    runner.vllm_config.additional_config["barograph"]["pushed"] = {str(i): len(each.patterns) for i, each in pushers.items()}
    decoder = decoder_layers(runner)
    for layer, pusher in pushers.items():
        decoder[layer].barograph_pusher = pusher
        decoder[layer].register_forward_hook(_push)


def _read(module: torch.nn.Module, args: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
    reader = module.barograph
    assert isinstance(reader, Reader)
    reader(output)


def _push(module: torch.nn.Module, args: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
    pusher = module.barograph_pusher
    assert isinstance(pusher, Pusher)
    pusher(output)
