"""Tables of the probe commands, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from probes.bank import Bank
    from probes.compare import Drift
    from probes.label_free import LabelFree

COLOUR = {"PASS": "green", "INCONCLUSIVE": "yellow", "RECALIBRATE": "red", "REFIT": "red"}


def evaluation_table(bank: Bank) -> None:
    console = Console(width=170)
    for card in bank.card.probes:
        if not card.evaluation:
            continue
        table = Table(
            "texts",
            "with / without",
            "AUROC",
            "AUPRC",
            "found at 1 %",
            "found by the default rule",
            "false alarms",
            "other detectors",
            title=f"{card.name} (layer {card.layer}, {card.method})",
            title_justify="left",
        )
        for each in card.evaluation:
            main = _interval(each.auroc, each.auroc_ci) if each.value is None else _interval(each.value, each.value_ci)
            rate = _interval(each.fpr, each.fpr_ci) if each.windows_over is None else _interval(each.windows_over, each.windows_over_ci)
            table.add_row(
                each.suite, f"{each.positives} / {each.negatives}", main, _interval(each.auprc, each.auprc_ci),
                _interval(each.tpr_at_1, each.tpr_at_1_ci), _interval(each.tpr, each.tpr_ci), rate, ", ".join(f"{name} {value:.3f}" for name, value in each.baselines.items()),
            )  # fmt: skip
        console.print(table)
    for each in bank.card.false_alarms:
        console.print(f"{each.suite}: {_interval(each.fpr, each.fpr_ci)} of {each.negatives}")
    console.print(
        "Found at 1 %: above what 1 % of one half of the other texts exceed. Found and false alarms: by the default rule's condition; of harmless replies,\n"
        "windows over the shipped 1 % threshold. A quiet probe is no proof of calm."
    )


def cause_table(bank: Bank, names: Sequence[str]) -> None:
    table = Table(
        "probe",
        "causal",
        "rank correlation",
        "rise by dose (95 %; random, matched, worst other concept)",
        "change of the words' log-odds by dose",
        "doses that beat matched directions",
    )
    for name in names:
        card, cause = bank[name], bank[name].cause
        if cause:
            own = " ".join(f"{dose:+g}:{value:+.2f}" for dose, value in zip(cause.doses, cause.outcomes["words"], strict=True))
            proven = ", ".join(f"{dose:+g}" for dose in cause.proven) or ("none" if cause.matched else "not tried")
            causal = "[green]yes[/green]" if card.causal else "[red]no[/red]"
            rivals = ", ".join(
                "–" if each is None else f"{each:.2f}"
                for each in (cause.random_slope, cause.matched_slope, max(cause.cross.values(), default=None))
            )
            table.add_row(
                name, causal, f"{cause.monotone['words']:+.2f}", f"{_interval(cause.slope, cause.slope_ci)} ({rivals})", own, proven
            )
    Console(width=150).print(table)


def drift_table(drifts: Sequence[Drift]) -> None:
    table = Table("probe", "verdict", "shift of neutral z", "AUROC before", "after (change)", "old threshold's rate (5 %)")
    for each in drifts:
        before = after = "–"
        if each.auroc:
            change = each.auroc[2]
            before, after = f"{each.auroc[0]:.3f}", f"{each.auroc[1]:.3f} ({change[0]:+.3f} to {change[1]:+.3f})"
        verdict = f"[{COLOUR[each.verdict]}]{each.verdict}[/]"
        table.add_row(each.probe, verdict, _interval(*each.shift), before, after, _interval(*each.fpr))
    Console(width=130).print(table)


def label_free_table(found: LabelFree) -> None:
    console = Console(width=130)
    colour = COLOUR.get(found.verdict, "red")
    console.print(
        f"[{colour}]{found.verdict}[/]: divergence {_interval(*found.divergence)} nats; chance alone stays below {found.chance:.3f} in 99 of 100 draws"
    )
    table = Table("probe that moved most", "shift of its mean", "ratio of deviations")
    for name, shift, deviation in found.moved:
        table.add_row(name, f"{shift:+.3f}", f"{deviation:.3f}")
    console.print(table)


def _interval(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" + (f" [dim]{interval[0]:.2f} to {interval[1]:.2f}[/dim]" if interval else "")
