"""A replay for people: the table, the plot, and the summary for programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from monitor.commands.charts import spark
from monitor.errors import BarographError
from rules.replay import Recording, Replay

SHOWN = 5  # places for each rule
BINS = 48


def summary(candidate: Replay, present: Replay) -> dict[str, Any]:
    """Of every rule of either side: how often it fired on each, and where they differ."""
    return {
        "tokens": candidate.tokens,
        "streams": candidate.streams,
        "seconds": round(candidate.seconds, 3),
        "rules": {
            rule: {
                "candidate": _counts(candidate, rule),
                "present": _counts(present, rule),
                "only_candidate": [list(key) for key in _only(candidate, present, rule)],
                "only_present": [list(key) for key in _only(present, candidate, rule)],
            }
            for rule in dict.fromkeys((*candidate.rules, *present.rules))
        },
    }


def show(candidate: Replay, present: Replay, recorded: Sequence[Recording]) -> None:
    console = Console()
    hours = candidate.seconds / 3600
    console.print(
        f"{candidate.tokens} tokens of {candidate.streams} streams, {hours:.2f} hours; what would have fired, the candidate's mode aside",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    for name in ("rule", "action", "candidate", "present", "new", "gone", "per 1k tokens", "per day", "streams", "over time"):
        table.add_column(name, justify="left" if name in ("rule", "action", "over time") else "right")
    for rule in dict.fromkeys((*candidate.rules, *present.rules)):
        fires, before = candidate.of(rule), present.of(rule)
        new, gone = _only(candidate, present, rule), _only(present, candidate, rule)
        per_day = candidate.per_day(rule)
        action = (fires or before)[0].verdict.rule.action.name.lower() if fires or before else ""
        table.add_row(
            rule if rule in candidate.rules else f"{rule} (not in the candidate)",
            action,
            str(len(fires)) if rule in candidate.rules else "–",
            str(len(before)) if rule in present.rules else "–",
            Text(f"+{len(new)}", style="yellow" if new else "dim"),
            Text(f"-{len(gone)}", style="yellow" if gone else "dim"),
            f"{candidate.per_thousand(rule):.3f}",
            f"{per_day:.1f}" if per_day is not None else "–",
            str(len({fire.stream for fire in fires})),
            spark(_over_time(candidate, rule).tolist(), 0),
        )
    console.print(table)
    for rule in candidate.rules:
        new = _only(candidate, present, rule)
        for _, stream, position in new[:SHOWN]:
            fire = next(each for each in candidate.of(rule) if each.stream == stream and each.verdict.position == position)
            values = ", ".join(f"{name} = {value:.3g}" for name, value in fire.verdict.signals.items())
            console.print(Text(f"  + {rule} at token {position} of {stream}: {values}"), highlight=False)
        if len(new) > SHOWN:
            console.print(Text(f"  + … {len(new) - SHOWN} more of {rule}", style="dim"))


def draw(candidate: Replay, present: Replay, path: Path) -> None:
    """Fires over the time of the recording, one row a rule: the candidate's above, the present rules' below."""
    try:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot
    except ImportError:
        raise BarographError("--plot needs matplotlib: pip install matplotlib") from None
    rules = list(dict.fromkeys((*candidate.rules, *present.rules)))
    figure, axes = pyplot.subplots(len(rules), 1, sharex=True, squeeze=False, figsize=(9, 0.9 + 0.8 * len(rules)))
    edges = np.linspace(0, max(candidate.seconds, 1e-9), BINS + 1)
    for row, rule in zip(axes[:, 0], rules, strict=True):
        row.stairs(_over_time(candidate, rule), edges, fill=True, color="#c44e52", label="candidate")
        row.stairs(-_over_time(present, rule), edges, fill=True, color="#8c8c8c", label="present")
        row.axhline(0, color="black", linewidth=0.5)
        most = max(1, int(_over_time(candidate, rule).max()), int(_over_time(present, rule).max()))
        row.set_ylim(-1.1 * most, 1.1 * most)
        row.set_yticks([-most, 0, most], [str(most), "0", str(most)])
        row.set_ylabel(rule, rotation=0, ha="right", va="center", fontsize=8)
        row.tick_params(labelsize=7)
    axes[0, 0].legend(loc="upper right", fontsize=7)
    axes[-1, 0].set_xlabel("seconds of the recording")
    figure.suptitle(f"fires over {candidate.tokens} tokens of {candidate.streams} streams", fontsize=10)
    figure.tight_layout()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise BarographError(f"cannot write {path}: {error}") from None
    finally:
        pyplot.close(figure)


def _counts(replay: Replay, rule: str) -> dict[str, Any] | None:
    if rule not in replay.rules:
        return None
    fires = replay.of(rule)
    return {
        "fires": len(fires),
        "streams": len({fire.stream for fire in fires}),
        "per_1k_tokens": round(replay.per_thousand(rule), 4),
        "per_day": round(per_day, 2) if (per_day := replay.per_day(rule)) is not None else None,
    }


def _only(one: Replay, other: Replay, rule: str) -> list[tuple[str, str, int]]:
    known = {fire.key for fire in other.of(rule)}
    return [fire.key for fire in one.of(rule) if fire.key not in known]


def _over_time(replay: Replay, rule: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    times = np.array([fire.time - replay.first for fire in replay.of(rule)])
    counts, _ = np.histogram(times, BINS, (0, max(replay.seconds, 1e-9)))
    return counts.astype(np.int64)
