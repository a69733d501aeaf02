"""Servers that several test files share: one with the tap, and what one without it says."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor.engine.vllm_process import START_S, Reply, VllmProcess
from monitor.tap.recorder import Key
from tests.otlp import Came, receiver
from tests.stack import free_port

# Little room on purpose: prompts come in chunks, and requests are preempted and come back.
ROOM = (
    "--dtype", "float32", "--max-model-len", "512", "--max-num-batched-tokens", "128", "--max-num-seqs", "48", "--block-size", "32",
    "--num-gpu-blocks-override", "20",
)  # fmt: skip
STORY = "the storm took our roof and nobody came so we walked through rain until morning while he counted what was left"


def prompts(count: int, longest: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(STORY.split(), k=chance.randint(3, longest))) for _ in range(count)]


@pytest.fixture(scope="session")
def runtime() -> Iterator[Path]:
    """A folder with a short name, for sockets and vLLM's cache."""
    folder = Path(tempfile.mkdtemp(prefix="barograph-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def environment(runtime: Path) -> dict[str, str]:
    """Of every vLLM here: no hub, little memory, a compile cache that nobody else writes, and its sockets where they go with the tests."""
    return {
        "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CACHE_ROOT": str(runtime / "cache"),
        "VLLM_RPC_BASE_PATH": str(runtime),
    }  # fmt: skip


def configured(
    folder: Path, socket: Path, environment: dict[str, str], *arguments: str, model: str = "smollm2", **tap: Any
) -> VllmProcess:  # fmt: skip
    """vLLM with a shipped model. `tap` are the settings of that name."""
    port = free_port()
    path = folder / "barograph.yaml"
    path.write_text(yaml.safe_dump({"socket": str(socket), "engine": {"model": model, "listen": f"127.0.0.1:{port}"}, "tap": tap}))
    return VllmProcess(path, port, folder / "vllm.log", [model, *ROOM, *arguments], environment, start_s=START_S)


def fifty(server: VllmProcess, suffix: str = "") -> dict[Key, Reply]:
    return asyncio.run(server.chats(prompts(50, 30, seed=1), 64, lambda i: f"p{i}{suffix}"))


@pytest.fixture(scope="session")
def untapped(tmp_path_factory: pytest.TempPathFactory, runtime: Path, environment: dict[str, str]) -> dict[Key, Reply]:
    """What vLLM says without us. First of all, so that its compiled graph lies in the cache when the tap comes."""
    with configured(tmp_path_factory.mktemp("untapped"), runtime / "tap.sock", environment, enabled=False) as server:
        return fifty(server)


@pytest.fixture(scope="session")
def came() -> Iterator[Came]:
    """What vLLM tells of its requests, as spans."""
    with receiver() as found:
        yield found


@pytest.fixture(scope="session")
def tapped(
    tmp_path_factory: pytest.TempPathFactory, runtime: Path, environment: dict[str, str], came: Came, untapped: object
) -> Iterator[VllmProcess]:
    """vLLM with the compiled tap. What listens at `runtime / "tap.sock"` is the test's to say; the tap comes back to it."""
    spans = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
    more = ("--otlp-traces-endpoint", f"{came.address}/v1/traces")
    with configured(tmp_path_factory.mktemp("tapped"), runtime / "tap.sock", {**environment, **spans}, *more) as server:
        yield server
