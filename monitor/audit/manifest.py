"""Who vouches for files: a signed note (c2sp.org/signed-note) over a list of their sha256, in the form that `sha256sum --check` reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from monitor.audit.note import MAX_NOTE, NoteError, PublicKey, Signer, opened, signed
from probes.files import read_plain

SUFFIX = ".note"
MAX_FILES = 256
LINE = re.compile(r"([0-9a-f]{64})  (?!\s)([^\\\x00-\x1f\ud800-\udfff]{1,255})")


class TrustError(NoteError):
    """Files that nobody vouches for whom we trust, or that are not what was signed."""


@dataclass(frozen=True)
class Manifest:
    """Files by name, each with the sha256 of its bytes."""

    files: Mapping[str, str]

    @classmethod
    def of(cls, contents: Mapping[str, bytes]) -> Manifest:
        return cls({name: sha256(content).hexdigest() for name, content in contents.items()})

    @classmethod
    def parse(cls, text: str) -> Manifest:
        """Raises TrustError."""
        lines = text.removesuffix("\n").split("\n")
        found = [LINE.fullmatch(line) for line in lines[: MAX_FILES + 1]]
        if not found or len(lines) > MAX_FILES or not all(found):
            raise TrustError(f"what was signed is no list of files; expected 1 to {MAX_FILES} lines as sha256sum writes them")
        return cls({match[2]: match[1] for match in found if match is not None})

    @property
    def text(self) -> str:
        return "".join(f"{digest}  {name}\n" for name, digest in sorted(self.files.items()))

    def sign(self, signer: Signer) -> bytes:
        """The note. Raises TrustError for names that its text cannot hold, NoteError when the signer fails."""
        odd = [name for name in self.files if not LINE.fullmatch(f"{'0' * 64}  {name}")]
        if odd:
            raise TrustError(
                f"{odd[0][:80]!r} cannot be told in a list; expected names in UTF-8 without backslashes and control characters"
            )
        Manifest.parse(self.text)  # its bound
        return signed(self.text, [signer])

    def vouched(self, note: Path, keys: Sequence[PublicKey]) -> str:
        """The name of the key under `note`, which lists these files with these digests. Raises TrustError."""
        try:
            raw = read_plain(note, MAX_NOTE)
        except OSError as error:
            raise TrustError(f"{note}: {error.strerror}; expected a signature, as `barograph trust sign` makes one") from None
        try:
            text, by = opened(raw, keys)
            said = Manifest.parse(text)
        except NoteError as error:
            raise TrustError(f"{note}: {error}") from None
        for name, digest in self.files.items():
            if (expected := said.files.get(name)) != digest:
                why = "it is not in the list that was signed" if expected is None else f"sha256 {digest[:16]}…, signed was {expected[:16]}…"
                raise TrustError(f"{note.parent / name}: {why}")
        return by[0].name


@dataclass(frozen=True)
class Trust:
    """Whose signatures count, and whether files without one are taken. What is installed with the program (`own`) needs none: who can change that can change us."""

    keys: tuple[PublicKey, ...] = ()
    required: bool = False
    own: tuple[Path, ...] = ()

    def owns(self, what: Path) -> bool:
        """Whether this is installed with the program. `what`: where it is read, with its links followed before: one that is followed again may lead elsewhere by then."""
        return any(what.is_relative_to(folder.resolve()) for folder in self.own)

    def check(self, note: Path, files: Mapping[str, str]) -> str:
        """Who vouches for `files` (name → sha256 of what was read); empty where nobody does and nobody has to. Raises TrustError.

        A signature that is there and does not hold is refused even where none is required.
        """
        if not self.keys:
            return ""
        if not self.required and not note.exists():
            return ""
        return Manifest(files).vouched(note, self.keys)


def note_of(what: Path) -> Path:
    """Where the signature of a rule file or of a bank's folder lies: beside the file, or in the folder."""
    return what / f"bank{SUFFIX}" if what.is_dir() else what.with_name(what.name + SUFFIX)
