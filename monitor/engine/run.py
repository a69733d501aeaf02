"""The engine process: model, batcher, tap, server."""

from __future__ import annotations

from pathlib import Path

import torch

from monitor import models, wire
from monitor.config import Config, own_folder
from monitor.engine.batcher import Batcher
from monitor.engine.loading import load
from monitor.engine.reading import Readings
from monitor.engine.reading_server import ReadingServer
from monitor.engine.server import EngineServer
from monitor.errors import ConfigError
from monitor.http.near import host
from monitor.http.serving import Servers
from monitor.tap.steer import Limits
from monitor.tap.tap import Tap


async def run(config: Config, say: models.Progress) -> None:
    """Serve until told to stop. The bank is checked before the model is loaded, the port is bound before both."""
    engine = config.engine
    wire.check_path(config.socket)
    servers = Servers()
    if isinstance(engine.listen, Path):
        own_folder(engine.listen.parent)
    pending = servers.bind("engine", engine.listen)
    bank = config.load_bank() if config.tap.enabled else None
    if engine.threads is not None:
        torch.set_num_threads(engine.threads)
    model = load(engine.model, engine.dtype, engine.device, say)
    if config.gateway.wrap:
        if bank is None:
            raise ConfigError("gateway.wrap reads text with a tap; expected tap.enabled: true")
        if config.tap.steer is not None:
            raise ConfigError("gateway.wrap reads what another model has written, which nobody can steer; expected no tap.steer")
        reading = ReadingServer(Readings(model, bank, config.socket), config.gateway.max_body_bytes)
        servers.serve(reading.app, pending)
        say(f"reader ready on {host(engine.listen)}")
        await servers.run()
        return
    steer = Limits(**config.tap.steer.model_dump()) if config.tap.steer is not None else None
    # Pages of the cache that hold a push must not serve another request that begins alike.
    batcher = Batcher(model.module, set(model.eos), engine.max_streams, max(engine.kv_tokens, 256), share=steer is None)
    tap = Tap(model.wrapper, bank, batcher.rows, config.socket, model.name, connect=False, limits=steer) if bank is not None else None
    server = EngineServer(model, batcher, tap, config.gateway.max_body_bytes)
    server.context = min(model.context, engine.kv_tokens) if model.module.device.type == "cpu" else model.context
    servers.serve(server.app, pending)
    say(f"engine ready on {host(engine.listen)}")
    await servers.run()
