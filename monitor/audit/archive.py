"""Copies of the sealed ledger in storage that nobody overwrites: S3-compatible, with object lock. What lies there is a ledger like this one, and is verified like it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec

from monitor.audit import note
from monitor.audit.disk import Disk
from monitor.audit.reader import Reader
from monitor.audit.tiles import MAX_BUNDLE, WIDTH, bundle_path, kept_from, tile_path
from monitor.errors import BarographError
from probes.files import read_plain

AT_ONCE = 8  # files on their way
WAIT_S = 30.0
MAX_MARK = 4096
TRIES = 5


class ArchiveError(BarographError):
    """An archive that can't be reached, refuses, or holds no ledger."""


class NotThere(ArchiveError):
    """The archive is well, and has no such file."""


@dataclass(frozen=True)
class Place:
    """A bucket. `lock`: what keeps objects for `days`: compliance lets nobody remove them, governance those with a right to."""

    endpoint: str
    bucket: str
    prefix: str
    lock: Literal["compliance", "governance", "none"]
    days: float


def archived(ledger: Path) -> int:
    """How many records an archive has."""
    try:
        return int(json.loads(read_plain(_mark(ledger), MAX_MARK))["records"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 0  # then all of it is copied once more, which does no harm


def news(ledger: Path) -> bool:
    """Whether something was sealed since the last copy, apart from records of copies.

    Such a record is not itself a reason to copy again, else a quiet ledger would grow, and a locked checkpoint be stored, at every interval. Raises ReadError, TileError.
    """
    reader = Reader(ledger, archived(ledger), sealed=True)
    while some := reader.take():
        if any(not _of_a_copy(entry) for entry in some):
            return True
    return False


class Archive:
    """Raises ArchiveError from every method. Credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, else from the machine's role."""

    def __init__(self, place: Place) -> None:
        import urllib3
        from minio import Minio
        from minio.credentials.providers import ChainedProvider, EnvAWSProvider, IamAwsProvider

        secure, _, host = place.endpoint.rpartition("://")
        self._place = place
        self._pool = urllib3.PoolManager(
            timeout=WAIT_S, retries=urllib3.Retry(total=2, backoff_factor=0.5, status_forcelist=[500, 502, 503, 504])
        )
        self._client = Minio(
            host, secure=secure != "http", region="us-east-1", http_client=self._pool,
            credentials=ChainedProvider([EnvAWSProvider(), IamAwsProvider()]),
        )  # fmt: skip

    def copy(self, ledger: Path) -> tuple[int, int]:
        """Copy what was sealed since the last time, the checkpoint last. Gives how many records were there before, and how many are now."""
        before = archived(ledger)
        for _ in range(TRIES):
            try:
                return before, self._copy(ledger, before)
            except FileNotFoundError:
                continue  # a newer checkpoint came meanwhile, and its tiles took the place of these
        raise ArchiveError(
            f"{ledger}: its files change faster than they are copied, or some are missing; `barograph audit verify` tells which"
        )

    def _copy(self, ledger: Path, before: int) -> int:
        checkpoint = read_plain(ledger / "checkpoint", note.MAX_NOTE)
        size = note.Checkpoint.unverified(checkpoint).size
        if size <= before:
            return before
        names = list(_files(before, size))
        if kept_from(ledger, size):  # what was purged before there was an archive can't be copied any more
            names = [name for name in names if not name.startswith("tile/entries/") or (ledger / name).exists()]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(lambda name: self._put(name, read_plain(ledger / name, MAX_BUNDLE)), names):
                pass
        self._put("checkpoint", checkpoint)
        Disk().put({_mark(ledger): json.dumps({"records": size}).encode()})
        return size

    def restore(self, out: Path) -> int:
        """Fetch the newest copy into an empty folder. Gives the number of its records. Whether they are genuine is the verifier's to say."""
        if out.exists() and any(out.iterdir()):
            raise ArchiveError(f"{out}: not empty; expected a new folder")
        checkpoint = self._get("checkpoint")
        try:
            size = note.Checkpoint.unverified(checkpoint).size
        except note.NoteError as error:
            raise ArchiveError(f"{self._name('checkpoint')}: {error}") from None
        disk = Disk()

        def fetch(name: str) -> None:
            try:
                disk.put({out / name: self._get(name)})
            except NotThere:
                if not name.startswith("tile/entries/"):  # purged before it was archived; the verifier demands the record of that
                    raise

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(fetch, _files(0, size)):
                pass
        disk.put({out / "checkpoint": checkpoint})
        return size

    def _put(self, name: str, data: bytes) -> None:
        from minio.commonconfig import COMPLIANCE, GOVERNANCE
        from minio.retention import Retention

        more: dict[str, Any] = {}
        if self._place.lock != "none":
            until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=self._place.days)
            more["retention"] = Retention(COMPLIANCE if self._place.lock == "compliance" else GOVERNANCE, until)
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
        with self._errors(name):
            self._client.put_object(
                self._place.bucket, self._name(name), io.BytesIO(data), len(data), metadata={"x-amz-checksum-sha256": checksum}, **more
            )

    def _get(self, name: str) -> bytes:
        with self._errors(name):
            answer = self._client.get_object(self._place.bucket, self._name(name))
            try:
                data = answer.read(MAX_BUNDLE + 1)
            finally:
                answer.close()
                answer.release_conn()
        if len(data) > MAX_BUNDLE:
            raise ArchiveError(f"{self._name(name)}: larger than any file of a ledger")
        return data

    def _name(self, name: str) -> str:
        return f"{self._place.prefix.strip('/')}/{name}".lstrip("/")

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """What the client raises, as one kind of error that says where."""
        import urllib3
        from minio.error import MinioException, S3Error

        try:
            yield
        except (MinioException, urllib3.exceptions.HTTPError, ValueError) as error:
            where, code = (
                f"{self._place.endpoint}/{self._place.bucket}/{self._name(name)}",
                error.code if isinstance(error, S3Error) else "",
            )
            said = f"{where}: {code} {getattr(error, 'message', None) or type(error).__name__}".rstrip()
            raise (NotThere if code == "NoSuchKey" else ArchiveError)(said) from None


def _files(before: int, size: int) -> Iterator[str]:
    """The tiles and bundles of a tree of this size that one of `before` records lacks."""
    level, old, new = 0, before, size
    while new:
        for index in range(old // WIDTH, -(-new // WIDTH)):
            width = min(WIDTH, new - index * WIDTH)
            yield tile_path(level, index, width)
            if level == 0:
                yield bundle_path(index, width)
        level, old, new = level + 1, old // WIDTH, new // WIDTH


def _of_a_copy(entry: bytes) -> bool:
    try:
        record = msgspec.json.decode(entry)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return isinstance(record, dict) and (record.get("kind"), record.get("event")) == ("custody", "archived")


def _mark(ledger: Path) -> Path:
    return ledger.with_name(ledger.name + ".archive")
