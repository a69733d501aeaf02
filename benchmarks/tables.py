"""Writes tables of docs/benchmarks.md from what the benchmarks kept, so that no figure is typed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS

DOCS = Path(__file__).parents[1] / "docs"


def put(path: Path, name: str, table: str) -> None:
    """Replace what stands between the marks of `name`."""
    text = path.read_text("utf-8")
    begin, end = next(line for line in text.splitlines() if line.startswith(f"<!-- {name}: ")), f"<!-- /{name} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(f"{before}{begin}\n{table}\n{end}{after}", "utf-8")


def vllm(line: dict[str, Any], control: dict[str, Any]) -> str:
    """One row for each choice of probes and layers, and for each number of streams; the control of two servers alike last."""
    rows = [
        "| probes at each of so many layers | streams | speed with over without | ms a token, p50 / p99, with | without | first token ms, p50 / p99, with | without |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    alike = {streams: each for streams, each in control.items() if streams.startswith("streams_")}
    for name, found in {**line, "control": alike}.items():
        if not name.startswith(("probes_", "control")):
            continue
        what = "control: two servers alike" if name == "control" else "{1} at {3}".format(*name.split("_"))
        for streams, each in found.items():
            sides = [each["with"], each["without"]]
            rows.append(
                f"| {what} | {streams.split('_')[1]} | {each['ratio']:.3f} [{each['ratio_ci95'][0]:.3f}, {each['ratio_ci95'][1]:.3f}] | "
                + " | ".join(
                    f"{side[f'{each}_ms_p50']:.1f} / {side[f'{each}_ms_p99']:.1f}" for each in ("token", "first_token") for side in sides
                )
                + " |"
            )
    about = f"{line['machine']}; {line['engine']}, {line['mode']} tap; {line['model']} in {line['dtype']}."
    return "\n".join([*rows, "", about])


def main() -> None:
    line, control = (json.loads((RESULTS / f"tap_overhead_vllm{which}.json").read_text()) for which in ("", "_control"))
    put(DOCS / "benchmarks.md", "vllm", vllm(line, control))


if __name__ == "__main__":
    main()
