"""What doctor says of certificates, and of a packaged model."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitor.commands.doctor import Finding, findings
from monitor.config import Config
from monitor.packaged import QWEN
from tests.certs import Authority


def said(folder: Path, cert: Path, key: Path) -> Finding:
    file = folder / "barograph.yaml"
    file.write_text(f"sidecar: {{admin: '127.0.0.1:1', tls: {{cert_file: {cert}, key_file: {key}}}}}\n")
    (found,) = [each for each in findings(Config.load(file)) if each.what == "certificate of admin"]
    return found


def test_a_certificate_has_an_end(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    found = said(tmp_path, *authority.issue("sidecar", days=3))
    assert (found.ok, "holds until" in found.text) == (True, True)
    found = said(tmp_path, *authority.issue("sidecar", days=0))
    assert (found.ok, "ended" in found.text) == (False, True)


def test_one_that_cannot_serve_is_said_with_its_reason(tmp_path: Path) -> None:
    cert, key = Authority(tmp_path).issue("sidecar")
    key.unlink()
    found = said(tmp_path, cert, key)
    assert (found.ok, str(cert) in found.text, "expected a certificate and its private key" in found.text) == (False, True, True)


def test_a_packaged_model_is_looked_for_where_it_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAROGRAPH_HOME", str(tmp_path))
    monkeypatch.setattr("monitor.config.config.BANKS", tmp_path)  # where none is
    file = tmp_path / "barograph.yaml"
    file.write_text(f"engine: {{model: {QWEN.name}}}\nsidecar: {{admin: '127.0.0.1:1'}}\n")
    config = Config.load(file)

    def found() -> dict[str, Finding]:
        return {each.what: each for each in findings(config)}

    before = found()
    assert (before["model"].ok, before["model"].needed) == (False, False)
    assert before["model"].text == "Qwen2.5-Coder-0.5B-Instruct is not here yet; the first start fetches it"
    assert not before["bank"].ok
    assert "barograph probes fit --model qwen2.5-coder-0.5b --out DIR" in before["bank"].text
    monkeypatch.setattr("monitor.commands.doctor.MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal: 4000000 kB\nMemAvailable: 3000000 kB\n")
    assert (found()["memory"].ok, found()["memory"].text) == (
        False,
        "3.0 GB available; the first start of Qwen2.5-Coder-0.5B-Instruct needs 3.5 GB",
    )
    target = tmp_path / "models" / QWEN.folder
    target.mkdir(parents=True)
    (target / "model.safetensors").touch()
    assert (found()["memory"].ok, found()["memory"].text) == (True, "3.0 GB available")
    assert found()["model"].text == f"Qwen2.5-Coder-0.5B-Instruct is on this machine, in {target}"
