"""A day of abuse, in minutes: make abuse. The long form is make soak."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.abuse.__main__ import each, sequence
from tests.abuse.abuses import ABUSES


def test_the_sidecar_lives_through_each_of_them(tmp_path: Path) -> None:
    """One world, one after the other, so that each meets what the one before left."""
    found = asyncio.run(each(tmp_path, list(ABUSES)))
    check(found)


@pytest.mark.parametrize("seed", [1])
def test_the_sidecar_lives_through_any_order_of_them(tmp_path: Path, seed: int) -> None:
    check(asyncio.run(sequence(tmp_path, seed, 45)))


def check(found: dict[str, Any]) -> None:
    assert found["wrong"] == [], found
    assert min(found["ends"].get(end, 0) for end in ("whole", "halted")) > 20, found
    assert found["halts"] > 0
