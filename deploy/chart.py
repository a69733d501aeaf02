"""Copies what the chart shows of the repository into helm/barograph/files: python -m deploy.chart. A chart reads nothing outside itself."""

from __future__ import annotations

from pathlib import Path

from deploy.dashboards import files as dashboards

RULES = Path(__file__).parent / "prometheus" / "rules.yaml"
FOLDER = Path(__file__).parents[1] / "helm" / "barograph" / "files"


def files() -> dict[str, str]:
    return {"rules.yaml": RULES.read_text("utf-8"), **dashboards()}


def write() -> None:
    """Make the folder say exactly this: what is no longer made is taken away."""
    made = files()
    for old in FOLDER.iterdir():
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text, "utf-8")


if __name__ == "__main__":
    write()
