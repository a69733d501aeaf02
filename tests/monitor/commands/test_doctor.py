"""What doctor says of certificates."""

from __future__ import annotations

from pathlib import Path

from monitor.commands.doctor import Finding, findings
from monitor.config import Config
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
