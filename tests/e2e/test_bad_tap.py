"""A tap that delays, drops, repeats and reorders what it sends. benchmarks/bad_tap.py does the same with 10,000 generations."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks import bad_tap
from benchmarks.synthetic.tap import Faults
from tests.stack import Stack


def test_nothing_unjudged_leaves_and_every_request_ends(tmp_path: Path) -> None:
    with Stack(tmp_path, bad_tap.SETTINGS, bad_tap.RULES, engine=False) as stack:
        found = asyncio.run(bad_tap.run(stack, 1500, Faults(drop=0.005, delay=0.02, seed=7)))
        log = stack.log("sidecar")
    assert found["generations"] >= 1500
    assert (found["unjudged"], found["after_halt"], found["did_not_end"]) == (0, 0, 0)
    assert found["tokens_after_verdict"]["p100"] == 0
    # The faults were there, and what they did not meet went well.
    assert min(found["tap"].values()) > 0
    assert min(found.get(end, 0) for end in ("whole", "halted", "closed_missing_score")) > 20
    assert found.keys() <= {
        "unjudged", "after_halt", "did_not_end", "generations", "tokens", "whole", "halted", "closed_missing_score", "status_503", "client_left",
        "seconds", "tap", "tokens_after_verdict",
    }  # fmt: skip
    assert "Traceback" not in log
