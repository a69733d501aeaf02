"""How long the whole bank takes: all texts read, all methods at all layers, 178 probes, calibrated. Nothing is taken from an earlier run.

Human-labelled files are given with `--labelled`, as for `barograph probes fit`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import emit
from monitor import models
from probes.bank import Bank


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labelled", type=Path, action="append", default=[])
    parser.add_argument("--model", default=models.BUNDLED)
    options = parser.parse_args()
    files = [part for path in options.labelled for part in ("--labelled", str(path))]
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        command = [
            "-m",
            "monitor",
            "probes",
            "fit",
            "--model",
            options.model,
            "--out",
            f"{folder}/bank",
            "--work",
            f"{folder}/work",
            *files,
        ]
        subprocess.run([sys.executable, *command], check=True)
        seconds = time.monotonic() - started
        card = Bank.load(Path(folder) / "bank").card
    emit(
        "fit" if options.model == models.BUNDLED else f"fit_{options.model}",
        model=card.model.name,
        minutes=round(seconds / 60, 2),
        probes=len(card.probes),
        labelled=[path.name for path in options.labelled],
        calibration=card.calibration,
    )


if __name__ == "__main__":
    main()
