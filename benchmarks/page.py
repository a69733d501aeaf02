"""Does the page stay smooth with 256 live streams, and what does it cost the sidecar?

    python -m benchmarks.page

The engine is synthetic (benchmarks/synthetic): 256 replies run at any time, each with so many tokens a second, all through the gateway. Headless
Chromium shows the live view; after `settle` seconds it counts, over `seconds`, the browser's own long tasks (of 50 ms or more on the main thread) and the
times between two frames; and the same on an empty page, which says what the machine does by itself. Beside it, in this process: what following one judged frame of 256 streams costs, and what one step of a viewer's feed does.
Everything shares the machine's cores: the browser, which draws without a GPU, the engine, the clients and the sidecar.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.report import emit
from benchmarks.synthetic.talk import SETTINGS, talk
from monitor.admin.feed import Feed
from monitor.config import Config
from monitor.http import openai
from tests import ledgers
from tests.e2e.test_page import CHROMIUM, FLAGS
from tests.monitor.pipeline.test_tracks import Followed
from tests.stack import Stack, eventually

WATCH = """
globalThis.seen = {long: [], frames: [], last: 0, on: false};
new PerformanceObserver(list => { if (seen.on) for (const each of list.getEntries()) seen.long.push(each.duration); }).observe({type: 'longtask'});
const frame = now => { if (seen.on && seen.last) seen.frames.push(now - seen.last); seen.last = now; requestAnimationFrame(frame); };
requestAnimationFrame(frame);
"""


def browse(stack: Stack, settle: float, seconds: float) -> dict[str, Any]:
    from playwright.sync_api import sync_playwright

    sidecar = psutil.Process(stack.processes["sidecar"].pid)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=[*FLAGS, "--enable-precise-memory-info"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.add_init_script(WATCH)
        before = sum(sidecar.cpu_times()[:2])
        time.sleep(5)
        alone = (sum(sidecar.cpu_times()[:2]) - before) / 5
        page.goto("about:blank")
        page.evaluate("seen.on = true")
        page.wait_for_timeout(1000 * seconds)
        empty = page.evaluate("seen")
        page.goto(stack.admin("/page"))
        page.locator(".row").nth(15).wait_for()
        page.wait_for_timeout(1000 * settle)
        heap = page.evaluate("seen.on = true; performance.memory.usedJSHeapSize")
        before, tokens = sum(sidecar.cpu_times()[:2]), stack.metric("barograph_tokens_judged_total")
        started = time.monotonic()
        page.wait_for_timeout(1000 * seconds)
        passed = time.monotonic() - started
        seen = page.evaluate("seen.on = false; ({...seen, heap: performance.memory.usedJSHeapSize})")
        busy = (sum(sidecar.cpu_times()[:2]) - before) / passed
        judged = (stack.metric("barograph_tokens_judged_total") - tokens) / passed
        shown = page.locator(".bar").first.inner_text()
        browser.close()
    return {
        "shown": shown.split("\n")[0], "tokens_per_s": round(judged), "long_tasks": len(seen["long"]), "longest_task_ms": max(seen["long"], default=0),
        "frames": frames(seen), "empty_page": {"long_tasks": len(empty["long"]), **frames(empty)}, "heap_mib": [round(heap / 2**20, 1), round(seen["heap"] / 2**20, 1)],
        "sidecar_cores": {"alone": round(alone, 2), "with_one_viewer": round(busy, 2)},
    }  # fmt: skip


def frames(seen: dict[str, Any]) -> dict[str, Any]:
    """How long it took from frame to frame, in milliseconds."""
    p50, p99, most = np.quantile(seen["frames"], [0.5, 0.99, 1]).round(1).tolist()
    return {
        "n": len(seen["frames"]),
        "p50_ms": p50,
        "p99_ms": p99,
        "most_ms": most,
        "over_50_ms": sum(each > 50 for each in seen["frames"]),
    }


def follow(streams: int, frames: int = 640) -> dict[str, float]:
    """Microseconds that a frame takes, followed and not, and that a viewer's step takes."""
    taken: dict[bool, list[float]] = {True: [], False: []}
    steps: list[float] = []
    for followed in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            rig = Followed(Config().load_bank(), Path(folder) / "ledger")
            if not followed:
                rig.pipeline._followers = ()
            rig.frame(begins=[(number, f"r{number}", 0) for number in range(streams)])
            feed = Feed(rig.tracks, 1)
            for position in range(frames):
                started = time.perf_counter()
                rig.frame([(number, position, 0.5) for number in range(streams)])
                taken[followed].append(time.perf_counter() - started)
                if followed and position % 4 == 3:
                    started = time.perf_counter()
                    openai.event(feed.step())
                    steps.append(time.perf_counter() - started)
            ledgers.close_all()
    mean = {side: 1e6 * float(np.mean(times)) for side, times in taken.items()}
    return {
        "frame_us": round(mean[False], 1), "followed_us": round(mean[True], 1), "added_us": round(mean[True] - mean[False], 1),
        "step_us": round(1e6 * float(np.median(steps)), 1), "step_p99_us": round(1e6 * float(np.quantile(steps, 0.99)), 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--rate", type=float, default=10, help="tokens a second of each")
    parser.add_argument("--settle", type=float, default=5)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    inside = follow(options.streams)
    lengths = tuple(range(100, 500, 13))
    with (
        tempfile.TemporaryDirectory() as folder,
        Stack(Path(folder), SETTINGS, engine=False) as stack,
        talk(stack, options.streams, options.rate, lengths),
    ):
        eventually(lambda: stack.metric("barograph_streams_running") >= 0.95 * options.streams, "all streams run", 60)
        found = browse(stack, options.settle, options.seconds)
    emit("page", streams=options.streams, rate=options.rate, seconds=options.seconds, browser=found, inside=inside)


if __name__ == "__main__":
    main()
