"""PYTHON deploy/room.py FOLDER GB: ends with a sentence where the disk that FOLDER lies on, or will, has less free than that.

pip says so after minutes of fetching, and not where. Nothing but Python is needed.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def missing(folder: Path, gigabytes: float) -> str:
    """The sentence, or nothing."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free / 1e9
    if free >= gigabytes:
        return ""
    return f"not enough room on the disk of {there}: {free:.1f} GB are free, about {gigabytes:g} GB are needed"


if __name__ == "__main__":
    if sentence := missing(Path(sys.argv[1]), float(sys.argv[2])):
        print(sentence, file=sys.stderr)
        sys.exit(2)
