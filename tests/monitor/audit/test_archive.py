"""Copies of the ledger on a real S3 server: locked, restored, verified."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from minio import Minio
from minio.error import S3Error

from monitor.audit import verifier
from monitor.audit.archive import Archive, ArchiveError, Place, _files, archived, news
from monitor.audit.custody import Custody
from monitor.audit.retention import Retention
from tests import weed
from tests.ledgers import KEY, ledger, records


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Minio]]:
    with weed.s3(tmp_path_factory.mktemp("s3") / "weed") as made:
        yield made


@pytest.fixture
def place(server: tuple[str, Minio], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", weed.USER)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", weed.SECRET)
    endpoint, client = server
    bucket = f"b{abs(hash(request.node.name))}"
    client.make_bucket(bucket, object_lock=True)
    return Place(endpoint, bucket, "logs/one", "compliance", 200)


def test_a_copy_is_locked_restored_and_verified(place: Place, server: tuple[str, Minio], tmp_path: Path) -> None:
    kept, client = ledger(tmp_path / "l"), server[1]
    for i in range(700):
        kept.append("x", i=i)
    kept.seal()
    assert Archive(place).copy(kept.path) == (0, 700)
    first = client.stat_object(place.bucket, "logs/one/checkpoint").version_id
    assert Archive(place).copy(kept.path) == (700, 700)
    for i in range(100):
        kept.append("y", i=i)
    kept.seal()
    assert Archive(place).copy(kept.path) == (700, 800)
    assert archived(kept.path) == 800
    assert Archive(place).restore(tmp_path / "copy") == 800
    report = verifier.verify(tmp_path / "copy", [KEY])
    assert (report.problems, report.records) == ([], 800)
    assert records(tmp_path / "copy") == records(kept.path)

    bundle = "logs/one/tile/entries/000"
    version = client.stat_object(place.bucket, bundle).version_id
    with pytest.raises(S3Error, match="AccessDenied"):
        client.remove_object(place.bucket, bundle, version)
    assert b"\n700\n" in client.get_object(place.bucket, "logs/one/checkpoint", version_id=first).data


def test_records_of_copies_are_no_news(place: Place, tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l")
    kept.append("x")
    assert not news(kept.path)  # it is not sealed
    kept.seal()
    assert news(kept.path)
    for _ in range(2):
        before, size = Archive(place).copy(kept.path)
        assert not news(kept.path)
        kept.append("custody", event="archived", by="sidecar", reason="r", first=before, before=size)
        kept.seal()
        assert not news(kept.path)
    kept.append("custody", event="held", by="ann", reason="r", name="case")
    kept.seal()
    assert news(kept.path)


def test_what_was_purged_here_is_whole_there(place: Place, tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l")
    for i in range(700):
        kept.append("x", i=i)
    kept.seal()
    _, size = Archive(place).copy(kept.path)
    kept.append("custody", event="archived", by="sidecar", reason="r", first=0, before=size)
    assert Custody(kept, Retention(1e-9, basis="a test"), archive=True).act("purge", "ann", "old")["records"] == 512
    kept.seal()
    Archive(place).copy(kept.path)
    Archive(place).restore(tmp_path / "copy")
    assert [each["seq"] for each in records(tmp_path / "copy")] == list(range(702))
    assert verifier.verify(tmp_path / "copy", [KEY], since=[(kept.path / "checkpoint").read_bytes()]).problems == []


def test_an_archive_that_began_after_a_purge_restores_what_it_has(place: Place, tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l")
    for i in range(700):
        kept.append("x", i=i)
    Custody(kept, Retention(1e-9, basis="a test")).act("purge", "ann", "old")
    kept.seal()
    Archive(place).copy(kept.path)
    Archive(place).restore(tmp_path / "copy")
    report = verifier.verify(tmp_path / "copy", [KEY])
    assert (report.problems, report.purged) == ([], 512)


def test_refusals_say_where(place: Place, server: tuple[str, Minio], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ledger(tmp_path / "l")
    kept.append("x")
    kept.seal()
    with pytest.raises(ArchiveError, match="logs/one/checkpoint: NoSuchKey"):
        Archive(place).restore(tmp_path / "copy")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(ArchiveError, match="not empty; expected a new folder"):
        Archive(place).restore(tmp_path / "full")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(ArchiveError, match="SignatureDoesNotMatch"):
        Archive(place).copy(kept.path)
    assert archived(kept.path) == 0
    with pytest.raises(ArchiveError, match=r"127\.0\.0\.1:9/"):
        Archive(Place("http://127.0.0.1:9", "bbb", "", "none", 1)).copy(kept.path)


@pytest.mark.parametrize(("before", "size"), [(0, 1), (0, 256), (255, 256), (256, 257), (300, 70_000), (65_536, 65_537), (0, 65_536)])
def test_only_what_is_new_is_copied(before: int, size: int) -> None:
    """Together with what an earlier copy had, it is all that a tree of the size needs."""
    full = lambda names: {name for name in names if ".p/" not in name}  # noqa: E731
    assert full(_files(0, before)) | full(_files(before, size)) == full(_files(0, size))
    assert not full(_files(0, before)) & full(_files(before, size))
    assert {name for name in _files(before, size) if ".p/" in name} == {name for name in _files(0, size) if ".p/" in name}
