"""Certificates: read, renewed, and refused with a reason."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from monitor.errors import ConfigError
from monitor.http.near import Near
from monitor.http.tls import Tls, TlsConfig, client_context
from tests.certs import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def served(tls: Tls, client: ssl.SSLContext) -> bytes:
    """The certificate that a client is shown; raises what the handshake raises."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            with tls.context.wrap_socket(ours, server_side=True) as secure:
                secure.send(b"x")
        except (OSError, ssl.SSLError):
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(theirs) as secure:
            secure.recv(1)  # with TLS 1.3 a client hears here that its certificate was refused
            return secure.getpeercert(binary_form=True) or b""
    finally:
        thread.join(10)


def test_a_renewed_certificate_is_served_and_a_bad_one_is_not(authority: Authority) -> None:
    cert, key = authority.issue("sidecar")
    files = TlsConfig(cert_file=cert, key_file=key)
    tls = Tls(files)
    first = served(tls, client_context(files))
    authority.issue("sidecar")
    tls.look()
    second = served(tls, client_context(files))
    assert first != second
    assert tls.failed == ""
    cert.write_text("torn")
    tls.look()
    assert "certificate not read anew, the one before stays" in tls.failed
    anybody = ssl.create_default_context(cafile=authority.file)
    anybody.check_hostname = False
    assert served(tls, anybody) == second
    authority.issue("sidecar")
    tls.look()
    assert (tls.failed, served(tls, anybody) not in (first, second)) == ("", True)


def test_a_key_of_another_certificate_does_not_replace_the_pair(authority: Authority) -> None:
    cert, key = authority.issue("sidecar")
    tls = Tls(TlsConfig(cert_file=cert, key_file=key))
    anybody = ssl.create_default_context(cafile=authority.file)
    anybody.check_hostname = False
    before = served(tls, anybody)
    shutil.copy(authority.issue("other")[1], key)
    tls.look()
    assert tls.failed
    assert served(tls, anybody) == before


def test_clients_need_a_certificate_where_an_authority_is_named(authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.issue("sidecar")
    files = TlsConfig(cert_file=cert, key_file=key, client_ca_file=authority.file)
    tls = Tls(files)
    nobody = client_context(TlsConfig(cert_file=cert, key_file=key))
    with pytest.raises((ssl.SSLError, OSError)):
        served(tls, nobody)
    stranger = client_context(TlsConfig(cert_file=cert, key_file=key))
    stranger.load_cert_chain(*Authority(tmp_path / "elsewhere").issue("stranger"))
    with pytest.raises((ssl.SSLError, OSError)):
        served(tls, stranger)
    known = client_context(TlsConfig(cert_file=cert, key_file=key))
    known.load_cert_chain(*authority.issue("client"))
    assert served(tls, known)
    assert served(tls, client_context(files))  # our own commands show the listener's


def test_another_certificate_of_the_same_authority_is_not_taken_for_ours(authority: Authority) -> None:
    cert, key = authority.issue("sidecar")
    other = authority.issue("other")
    with pytest.raises(ssl.SSLError):
        served(Tls(TlsConfig(cert_file=other[0], key_file=other[1])), client_context(TlsConfig(cert_file=cert, key_file=key)))


@pytest.mark.parametrize("what", ["missing", "directory", "no PEM", "password", "no authority"])
def test_files_that_cannot_serve_say_which_and_why(authority: Authority, tmp_path: Path, what: str) -> None:
    cert, key = authority.issue("sidecar")
    named: Path | None = None
    if what == "missing":
        key.unlink()
    elif what == "directory":
        cert.unlink()
        cert.mkdir()
    elif what == "no PEM":
        cert.write_bytes(os.urandom(64))
    elif what == "password":
        locked = serialization.BestAvailableEncryption(b"secret")
        private = ec.generate_private_key(ec.SECP256R1())
        key.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))
    else:
        named = tmp_path / "no-ca.pem"
    with pytest.raises(ConfigError, match=r"expected .* PEM") as caught:
        Tls(TlsConfig(cert_file=cert, key_file=key, client_ca_file=named))
    assert str(named or cert) in str(caught.value)


def test_the_url_says_which_scheme_it_is(authority: Authority) -> None:
    cert, key = authority.issue("sidecar")
    assert Near(("0.0.0.0", 8401)).url("/health") == "http://127.0.0.1:8401/health"
    assert Near(("::1", 8401), TlsConfig(cert_file=cert, key_file=key)).url() == "https://[::1]:8401"


def test_another_certificate_by_the_authority_of_our_chain_is_not_ours(authority: Authority) -> None:
    """Files of public authorities hold the chain too."""
    cert, key = authority.issue("sidecar")
    cert.write_bytes(cert.read_bytes() + authority.file.read_bytes())
    other = TlsConfig(**dict(zip(("cert_file", "key_file"), authority.issue("other"), strict=True)))
    files = TlsConfig(cert_file=cert, key_file=key)
    assert served(Tls(files), client_context(files))
    with pytest.raises(ssl.SSLError):
        served(Tls(other), client_context(files))


def test_an_authority_that_is_taken_out_of_the_file_vouches_no_more(authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.issue("sidecar")
    elsewhere = Authority(tmp_path / "elsewhere", "partner")
    clients = tmp_path / "clients.pem"
    clients.write_bytes(authority.file.read_bytes() + elsewhere.file.read_bytes())
    tls = Tls(TlsConfig(cert_file=cert, key_file=key, client_ca_file=clients))

    def client(by: Authority) -> ssl.SSLContext:
        made = client_context(TlsConfig(cert_file=cert, key_file=key))
        made.load_cert_chain(*by.issue("client"))
        return made

    assert served(tls, client(elsewhere))
    clients.write_bytes(authority.file.read_bytes())
    tls.look()
    assert served(tls, client(authority))
    with pytest.raises((ssl.SSLError, OSError)):
        served(tls, client(elsewhere))


def test_a_renewal_by_the_link_of_a_mounted_secret_is_seen(authority: Authority, tmp_path: Path) -> None:
    """Kubernetes puts another folder behind `..data`."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        for file, end in zip(authority.issue("sidecar"), ("crt", "key"), strict=True):
            shutil.copy(file, tmp_path / name / f"tls.{end}")
    (tmp_path / "..data").symlink_to("first")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    files = TlsConfig(cert_file=tmp_path / "tls.crt", key_file=tmp_path / "tls.key")
    tls = Tls(files)
    (tmp_path / "new").symlink_to("second")
    (tmp_path / "new").replace(tmp_path / "..data")
    tls.look()
    assert tls.failed == ""
    assert served(tls, client_context(files)) == ssl.PEM_cert_to_DER_cert((tmp_path / "second" / "tls.crt").read_text())


@pytest.mark.parametrize("name", ["sidecar.pem", "sidecar.key", "ca.pem"])
def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(authority: Authority, name: str) -> None:
    cert, key = authority.issue("sidecar")
    tls = Tls(TlsConfig(cert_file=cert, key_file=key, client_ca_file=authority.file))
    (authority.folder / name).unlink()
    os.mkfifo(authority.folder / name)
    tls.look()
    assert "no plain file" in tls.failed
