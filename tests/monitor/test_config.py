from __future__ import annotations

from pathlib import Path

import pytest

from monitor.config import Config
from monitor.errors import ConfigError
from monitor.packaged import PACKAGED, Packaged
from rules.document import DocumentError


def load(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "barograph.yaml"
    path.write_text(text)
    return Config.load(path)


def test_the_defaults_stay_on_loopback_and_fail_closed() -> None:
    config = Config.load(None)
    assert {config.gateway.listen[0], config.sidecar.admin[0]} == {"127.0.0.1"}
    assert isinstance(config.engine.listen, Path)
    assert config.gateway.upstream == f"unix:{config.engine.listen}"
    assert {config.gateway.on_missing_score, config.gateway.on_nan_score, config.gateway.on_no_tap, config.gateway.on_ledger_failure} == {
        "closed"
    }
    assert config.sidecar.kafka is None


def test_a_file_is_frozen(tmp_path: Path) -> None:
    config = load(tmp_path, "gateway: {listen: '[::1]:9000'}\n")
    assert config.gateway.listen == ("::1", 9000)
    with pytest.raises(Exception, match="frozen"):
        config.gateway.hold = "off"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gateway:\n  hodl: strict\n", "barograph.yaml:2:3: unknown key 'gateway.hodl'; did you mean 'hold'?"),
        ("gateway:\n  hold: lax\n", "barograph.yaml:2:3: 'gateway.hold': expected 'strict' or 'off'"),
        ("gateway: {listen: here}\n", "expected HOST:PORT"),
        ("gateway: {listen: 'a:70000'}\n", "a port from 0 to 65535"),
        ("sidecar: {kafka: {bootstrap: x, password: hunter2}}\n", "unknown key 'sidecar.kafka.password'"),
        ("engine: {max_streams: 0}\n", "greater than or equal to 1"),
    ],
)
def test_errors_name_line_and_nearest_key(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(DocumentError) as caught:
        load(tmp_path, text)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("kafka", "expected"),
    [
        ("security: SASL_SSL", "needs a username"),
        ("username: me", "has no username"),
        ("ca_file: ca.pem", "ca_file without TLS"),
        ("scores: {form: rows}", "arrays"),
        ("topic: 'no spaces'", "pattern"),
    ],
)
def test_kafka_settings_that_do_not_fit_together_are_told(tmp_path: Path, kafka: str, expected: str) -> None:
    path = tmp_path / "barograph.yaml"
    path.write_text(f"sidecar: {{kafka: {{bootstrap: 'b:9092', {kafka}}}}}\n")
    with pytest.raises(DocumentError, match=expected):
        Config.load(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        Config.load(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"engine: \xff")
    with pytest.raises(ConfigError, match="byte 8 is not UTF-8"):
        Config.load(tmp_path / "latin.yaml")


def named(model: str) -> Config:
    config = Config()
    return config.model_copy(update={"engine": config.engine.model_copy(update={"model": model})})


@pytest.mark.parametrize("model", ["some/model", "qwen2.5-coder-0.5b", "Qwen2.5-Coder-0.5B-Instruct", "gemma3-270m"])
def test_a_model_without_a_bank_is_told_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    (tmp_path / "smollm2-135m-instruct").mkdir()
    monkeypatch.setattr("monitor.config.config.BANKS", tmp_path)  # what is shipped may grow
    with pytest.raises(ConfigError) as caught:
        named(model).bank_folder()
    said = str(caught.value)
    assert said.startswith(f"no bank is shipped for model '{model}' (there are: smollm2-135m-instruct); fit one with: ")
    assert f"barograph probes fit --model {model} --out DIR" in said
    assert "\n" not in said


@pytest.mark.parametrize("model", PACKAGED, ids=lambda model: model.name)
def test_a_packaged_model_s_bank_has_the_name_by_which_it_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Packaged
) -> None:
    monkeypatch.setattr("monitor.config.config.BANKS", tmp_path)
    (tmp_path / model.served.lower()).mkdir()
    for name in (model.name, model.served):
        assert named(name).bank_folder() == tmp_path / model.served.lower()
        assert named(name).model_name() == model.served
