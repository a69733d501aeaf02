"""Writes the tables of docs/probes.md and README.md from the cards of the shipped banks, so that no figure is typed by hand.

python -m deploy.cards
"""

from __future__ import annotations

from benchmarks.tables import DOCS, put
from monitor.config import BANKS
from probes.bank import Bank, Figure, ProbeCard

PROBES = ("desperation", "panic", "hostility")
PAGE, FRONT = DOCS / "probes.md", DOCS.parent / "README.md"


def shipped() -> list[Bank]:
    return [Bank.load(folder) for folder in sorted(BANKS.iterdir(), reverse=True) if (folder / "card.json").is_file()]


def figure(card: ProbeCard, suite: str) -> Figure | None:
    """By the beginning of its name."""
    return next((each for each in card.evaluation if each.suite.startswith(suite)), None)


def _value(value: float | None, interval: tuple[float, float] | None, rival: float | None = None, percent: bool = False) -> str:
    if value is None:
        return "–"
    scale, digits = (100, 1) if percent else (1, 2)
    shown = f"{scale * value:.{digits}f}" + (" %" if percent else "")
    if interval is not None:
        shown += f" [{scale * interval[0]:.{digits}f}, {scale * interval[1]:.{digits}f}]"
    return shown + (f" ({rival:.2f})" if rival is not None else "")


def _area(card: ProbeCard, suite: str) -> str:
    found = figure(card, suite)
    return "–" if found is None else _value(found.auroc, found.auroc_ci, found.baselines.get("TF-IDF"))


def _of(card: ProbeCard, suite: str, what: str, percent: bool = False) -> str:
    found = figure(card, suite)
    return "–" if found is None else _value(getattr(found, what), getattr(found, f"{what}_ci"), percent=percent)


def _cause(card: ProbeCard) -> str:
    if card.cause is None:
        return "not tried"
    rivals = {"random": card.cause.random_slope, "matched": card.cause.matched_slope or 0.0, **card.cause.cross}
    worst = max(rivals, key=lambda name: rivals[name])
    said = "yes" if card.causal else "**no**"
    return f"{said}: {_value(card.cause.slope, card.cause.slope_ci)}, most of the rest {rivals[worst]:.2f} ({worst})"


ROWS = {
    "method, layer": lambda card: f"{card.method}, {card.layer}",
    "AUROC on unseen topics, against texts of the same topics and forms (TF-IDF)": lambda card: _area(card, "held-out topics"),
    "the same against all other emotions that are not near it": lambda card: _area(card, "the other emotions"),
    "found above what 1 % of one half of all other test texts exceed": lambda card: _of(card, "held-out topics", "tpr_at_1"),
    "found by the default rule": lambda card: _of(card, "held-out topics", "tpr"),
    "false alarms of the default rule there": lambda card: _of(card, "held-out topics", "fpr"),
    "windows over the shipped 1 % threshold, benign topical replies": lambda card: _of(card, "benign topical", "windows_over", percent=True),
    "the same, ordinary replies": lambda card: _of(card, "benign ordinary", "windows_over", percent=True),
    "GoEmotions dev, human labels (TF-IDF)": lambda card: _area(card, "human labels: goemotions_dev"),
    "implied, no emotional word (TF-IDF)": lambda card: _area(card, "implied"),
    "paraphrased (TF-IDF)": lambda card: _area(card, "paraphrase"),
    "affirmed against denied, pairs (TF-IDF)": lambda card: _area(card, "negation"),
    "mentioned, not felt (TF-IDF)": lambda card: _area(card, "mention"),
    "other languages (TF-IDF)": lambda card: _area(card, "foreign"),
    "topics and hard cases together: ahead of the best rival": lambda card: _of(card, "topics and hard cases together", "value"),
    "the same, ahead of the best reader of text": lambda card: _of(card, "against readers of text", "value"),
    "neutral reply to an upset against a calm user; 0.5 is no leak": lambda card: _area(card, "speaker leak").split(" (")[0],
    "first 8 tokens of held-out texts": lambda card: _area(card, "held-out topics, first 8"),
    "first 32 tokens": lambda card: _area(card, "held-out topics, first 32"),
    "tokens of warning before a probe on the embeddings": lambda card: _of(card, "tokens of warning", "value"),
    "first score with the tone of the finished reply, users alike": lambda card: _of(card, "first score with", "value"),
    "40 tokens of it in 4,000 of something else": lambda card: _area(card, "40 tokens"),
    "cause: rise of its words by the dose": _cause,
}  # fmt: skip


def table(bank: Bank) -> str:
    cards = [bank[name] for name in PROBES if name in bank.names]
    lines = [f"**{bank.card.model.name}** ({bank.card.model.layers} layers, width {bank.card.model.width})", ""]
    lines += ["| | " + " | ".join(card.name for card in cards) + " |", "| --- |" + " --- |" * len(cards)]
    for label, cell in ROWS.items():
        cells = [cell(card) for card in cards]
        if set(cells) != {"–"}:
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    alarms = "; ".join(
        f"{each.suite}: {_value(each.fpr, each.fpr_ci, percent=True)} of {each.negatives}" for each in bank.card.false_alarms
    )
    rated = "; ".join(
        f"{name} {_of(bank[name], 'correlation with ratings', 'value')}" for name in ("valence", "arousal") if name in bank.names
    )
    counts = bank.card.calibration
    lines += [
        "", f"{alarms[:1].upper()}{alarms[1:]}. Correlation with human ratings of unseen sentences: {rated}.",
        f"Units and thresholds come from {counts['replies']:.0f} replies to {counts['prompts']:.0f} prompts, {counts['tokens']:.0f} tokens.",
    ]  # fmt: skip
    return "\n".join(lines)


# README's few: of one suite, without intervals.
SHORT: dict[str, tuple[str, str, bool]] = {
    "AUROC on topics that no step has seen": ("held-out topics", "auroc", False),
    "found above what 1 % of other unseen texts exceed": ("held-out topics", "tpr_at_1", False),
    "AUROC on human labels (GoEmotions, unseen part)": ("human labels: goemotions_dev", "auroc", False),
    "ahead of the best rival, the model's own word embeddings among them; topics and hard cases": (
        "topics and hard cases together",
        "value",
        False,
    ),
    "ahead of the best reader of text (TF-IDF, word list, sentence encoder), the same texts": ("against readers of text", "value", False),
    "windows over the 1 % threshold, topical harmless replies": ("benign topical", "windows_over", True),
}


def side_by_side() -> str:
    """All shipped banks in one table, a column a probe."""
    banks = shipped()
    head = [f"{bank.card.model.name}: {name}" if not i else name for bank in banks for i, name in enumerate(PROBES)]
    lines = ["| | " + " | ".join(head) + " |", "| --- |" + " --- |" * len(head)]
    for label, (suite, what, percent) in SHORT.items():
        found = [figure(bank[name], suite) for bank in banks for name in PROBES]
        cells = ["–" if each is None else _value(getattr(each, what), None, percent=percent) for each in found]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    causal = [{True: "yes", False: "no", None: "not tried"}[bank[name].causal] for bank in banks for name in PROBES]
    lines.append("| cause shown | " + " | ".join(causal) + " |")
    alarms = [(bank.card.model.name, each) for bank in banks for each in bank.card.false_alarms]
    said = [f"{round((each.fpr or 0) * each.negatives)} of {each.negatives} {each.suite.split()[0]} ones ({name})" for name, each in alarms]
    return "\n".join([*lines, "", f"Replies to harmless prompts in which a default rule alarms: {', '.join(said)}."])


def written() -> str:
    return "\n\n".join(table(bank) for bank in shipped())


if __name__ == "__main__":
    put(PAGE, "cards", written())
    put(FRONT, "cards", side_by_side())
