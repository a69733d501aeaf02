"""NNsight, imported with our settings. Import it from here and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("NNSIGHT_CONFIG", str(Path(__file__).with_name("nnsight.yaml")))

import nnsight  # the setting above is read at import
from nnsight import TransformersModel, save

VERSION: str = nnsight.__version__

__all__ = ["VERSION", "TransformersModel", "save"]
