"""Writes deploy/grafana/ from monitor/grafana/dashboards.py: python -m deploy.dashboards"""

from __future__ import annotations

from pathlib import Path

from monitor.grafana.dashboards import dashboards

FOLDER = Path(__file__).parent / "grafana"


def files() -> dict[str, str]:
    return {f"{name}.json": text for name, text in dashboards().items()}


if __name__ == "__main__":
    for name, text in files().items():
        (FOLDER / name).write_text(text, "utf-8")
