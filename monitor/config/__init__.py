"""Every setting: one file a part, put together in config.py."""

from monitor.config.audit import ArchiveConfig, AuditConfig
from monitor.config.base import BANKS, MAX_TEXT, PACKS, Address, Fail, own_folder, read_file, read_text, runtime_dir
from monitor.config.config import Config, TrustConfig
from monitor.config.engine import EngineConfig, SteerConfig, TapConfig
from monitor.config.gateway import GatewayConfig, Lag, RateConfig, TargetConfig
from monitor.config.sidecar import PageConfig, SidecarConfig
from monitor.config.sinks import CommandsConfig, KafkaConfig, OtelConfig, ScoresConfig

__all__ = [
    "BANKS", "MAX_TEXT", "PACKS", "Address", "ArchiveConfig", "AuditConfig", "CommandsConfig", "Config", "EngineConfig", "Fail", "GatewayConfig", "KafkaConfig",
    "Lag", "OtelConfig", "PageConfig", "RateConfig", "ScoresConfig", "SidecarConfig", "SteerConfig", "TapConfig", "TargetConfig", "TrustConfig", "own_folder",
    "read_file", "read_text", "runtime_dir",
]  # fmt: skip
