"""`barograph engine vllm`: vLLM's own OpenAI server as a child, with the tap inside."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from monitor import models, packaged, wire
from monitor.config import Config, own_folder
from monitor.engine.group import Group
from monitor.engine.vllm_plugin import CONFIG, SWITCH, check_version, version
from monitor.errors import BarographError
from probes.bank import config_hash

GRAPHS = "VLLM_USE_BREAKABLE_CUDAGRAPH"  # vLLM's own switch; with it the traced tap needs no eager model
SERVER = "vllm.entrypoints.openai.api_server"


def serve(config: Config, path: Path | None, arguments: Sequence[str]) -> int:
    """Check what can be checked, then serve until vLLM ends; its exit code. `arguments` are those of `vllm serve`, its model first."""
    if path is None:
        raise BarographError(f"vLLM's workers read the configuration by themselves; name one with --config FILE or {CONFIG}")
    check_version(version())
    if importlib.util.find_spec("nnsight") is None:
        raise BarographError("nnsight is not installed beside vLLM; expected 0.8.1: pip install nnsight==0.8.1")
    if not arguments or arguments[0].startswith("-"):
        raise BarographError("name the model first, as for vllm serve: barograph engine vllm -- MODEL [arguments]")
    wire.check_path(config.socket)
    model, *rest = arguments
    if packaged.find(model):
        model = models.resolve(model, lambda text: print(text, flush=True))
    if config.tap.enabled:
        _check_bank(config, model)
    if config.tap.mode == "traced" and "--enforce-eager" not in rest and os.environ.get(GRAPHS, "0") != "1":
        rest.append("--enforce-eager")
    if not any(each.split("=")[0] == "--served-model-name" for each in rest):
        rest += ["--served-model-name", config.model_name()]
    if not any(each.split("=")[0] in ("--host", "--port", "--uds") for each in rest):
        rest += _listen(config.engine.listen)
    environment = {SWITCH: "on" if config.tap.enabled else "off", **os.environ, CONFIG: str(path.resolve())}
    sys.stdout.flush()
    return Group([sys.executable, "-m", SERVER, "--model", model, *rest], environment).run()


def _listen(address: tuple[str, int] | Path) -> list[str]:
    if isinstance(address, Path):
        own_folder(address.parent)
        return ["--uds", str(address)]
    return ["--host", address[0], "--port", str(address[1])]


def _check_bank(config: Config, model: str) -> None:
    """Say here, in one line, what a worker would say from the depth of vLLM's start. What cannot be read here is left to it."""
    from transformers import AutoConfig

    bank = config.load_bank()
    try:
        text = AutoConfig.from_pretrained(model).get_text_config()
    except (OSError, ValueError):
        return
    bank.check_model(config.model_name(), text.hidden_size, text.num_hidden_layers, config_hash(text.to_dict()))
