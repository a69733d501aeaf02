"""A real S3 server on loopback, SeaweedFS, for as long as a test needs it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import urllib3
from minio import Minio
from minio.error import S3Error

NAMES = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc", "admin", "admin.grpc")
USER, SECRET = "testkey", "testsecret"
WEED = Path(sys.executable).parent / "weed"


@contextmanager
def s3(folder: Path) -> Iterator[tuple[str, Minio]]:
    """Its endpoint and a client of it."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in NAMES]
    ports = {name: each.getsockname()[1] for name, each in zip(NAMES, sockets, strict=True)}
    for each in sockets:
        each.close()
    (folder / "data").mkdir(parents=True)
    who = {"name": "t", "actions": ["Admin", "Read", "Write", "List", "Tagging"], "credentials": [{"accessKey": USER, "secretKey": SECRET}]}
    (folder / "s3.json").write_text(json.dumps({"identities": [who]}))
    given = [f"-{name.partition('.')[0]}.port{'.grpc' if '.' in name else ''}={port}" for name, port in ports.items()]
    command = [
        WEED, "-logtostderr=true", f"-config_dir={folder}", "mini", f"-dir={folder}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *given,
        "-master.telemetry=false", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={folder}/s3.json",
        f"-filer.localSocket={folder}/f.sock", f"-s3.localSocket={folder}/s3.sock",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, env={"HOME": str(folder), "GOMAXPROCS": "1"})
    pool = urllib3.PoolManager(retries=False, timeout=10)
    client = Minio(f"127.0.0.1:{ports['s3']}", USER, SECRET, secure=False, region="us-east-1", http_client=pool)
    try:
        until = time.monotonic() + 120
        while True:
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            try:
                client.list_buckets()
                break
            except (urllib3.exceptions.HTTPError, S3Error):
                assert time.monotonic() < until, (folder / "log").read_text()[-2000:]
                time.sleep(0.05)
        yield f"http://127.0.0.1:{ports['s3']}", client
    finally:
        process.kill()  # what it holds is thrown away, and it takes its time otherwise
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
        for name, port in ports.items():  # it puts these there whatever it is told
            Path(f"/tmp/seaweedfs-{name.partition('.')[0]}-grpc-{port}.sock").unlink(missing_ok=True)
