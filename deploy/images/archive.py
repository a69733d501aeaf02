"""An image in an OCI archive, read without any container tool: python -m deploy.images.archive ARCHIVE SBOM says what came out."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Of a layer, as OCI has it: this name means that a file of a layer below is gone.
WHITEOUT = ".wh."


class Archive:
    """`manifest` and `config` are those of its one image."""

    def __init__(self, path: Path) -> None:
        self.path = path
        index = json.loads(self._file("index.json"))
        (about,) = index["manifests"]
        self.digest: str = about["digest"]
        self.manifest: dict[str, Any] = json.loads(self._blob(self.digest))
        self.config: dict[str, Any] = json.loads(self._blob(self.manifest["config"]["digest"]))

    @property
    def compressed(self) -> int:
        return sum(layer["size"] for layer in self.manifest["layers"])

    def files(self) -> dict[str, tuple[tarfile.TarInfo, str]]:
        """Every path of the image with what the archive says of it, and the digest of a plain file's bytes."""
        found: dict[str, tuple[tarfile.TarInfo, str]] = {}
        for layer in self._layers():
            for member in layer:
                path = "/" + member.name.strip("./").rstrip("/")
                if WHITEOUT in path:
                    raise ValueError(f"{self.path}: {path}: a layer takes files away; expected images that only add")
                body = layer.extractfile(member) if member.isfile() else None
                found[path] = (member, hashlib.file_digest(body, "sha256").hexdigest() if body is not None else "")
        return found

    def unpack(self, folder: Path) -> Path:
        """With owners and modes, so as root."""
        for layer in self._layers():
            layer.extractall(folder, numeric_owner=True, filter="fully_trusted")
        folder.chmod(0o755)
        return folder

    def _layers(self) -> Iterator[tarfile.TarFile]:
        for about in self.manifest["layers"]:
            with (
                tarfile.open(self.path) as archive,
                archive.extractfile(_blob(about["digest"])) as packed,  # type: ignore[union-attr]
                gzip.open(packed) as raw,
                tarfile.open(fileobj=raw, mode="r:") as layer,
            ):
                yield layer

    def _blob(self, digest: str) -> bytes:
        raw = self._file(_blob(digest))
        if (got := f"sha256:{hashlib.sha256(raw).hexdigest()}") != digest:
            raise ValueError(f"{self.path}: a blob hashes to {got}; expected {digest}")
        return raw

    def _file(self, name: str) -> bytes:
        with tarfile.open(self.path) as archive, archive.extractfile(name) as body:  # type: ignore[union-attr]
            return body.read()


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def main(archive: Path, sbom: Path) -> None:
    image = Archive(archive)
    whole = sum(member.size for member, _ in image.files().values() if member.isfile())
    kinds = Counter(part.get("purl", "").partition("/")[0] for part in json.loads(sbom.read_text())["components"])
    print(f"{archive}: {image.compressed / 1e6:.1f} MB compressed, {whole / 1e6:.1f} MB unpacked, {image.digest}")
    print(f"{sbom}: {kinds['pkg:pypi']} Python packages, {kinds['pkg:deb']} of Debian")


if __name__ == "__main__":
    main(*(Path(each) for each in sys.argv[1:3]))
