"""Makes a site of the pages, as they lie: python -m deploy.site FOLDER. Strict: a link that leads nowhere ends it."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).parents[1]
COPIED = ("docs", "examples", "deploy/prometheus", "deploy/grafana")  # whole folders; of the rest only what a page links to
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "deploy/README.md", "helm/README.md")
LINK = re.compile(r"\]\(([^)\s#]+)")
NAV: list[dict[str, object]] = [
    {"Barograph": "README.md"},
    {"SRE": [
        {"Start": "docs/sre.md"}, {"Deploy": "deploy/README.md"}, {"Helm": "helm/README.md"}, {"vLLM": "docs/vllm.md"}, {"Gateway": "docs/gateway.md"},
        {"Configuration": "docs/configuration.md"}, {"Grafana": "docs/grafana.md"}, {"Page": "docs/page.md"}, {"Reliability": "docs/reliability.md"},
        {"Benchmarks": "docs/benchmarks.md"}, {"Compatibility": "docs/compatibility.md"}, {"Upgrading": "docs/upgrading.md"}, {"Runbook of the monitor": "docs/runbooks/monitor.md"},
    ]},
    {"Policy engineer": [
        {"Start": "docs/policy-engineer.md"}, {"Rules": "docs/rules.md"}, {"Actions": "docs/actions.md"}, {"Kafka": "docs/kafka.md"},
        *({f"Runbook: {name}": f"docs/runbooks/{name}.md"} for name in ("desperation", "panic", "hostility", "frustration", "drift")),
    ]},
    {"Auditor": [
        {"Start": "docs/auditor.md"}, {"Ledger": "docs/ledger.md"}, {"Evidence": "docs/evidence.md"}, {"EU AI Act": "docs/eu-ai-act.md"},
        {"Threat model": "docs/threat-model.md"}, {"Security": "SECURITY.md"},
    ]},
    {"Probe scientist": [{"Start": "docs/probe-scientist.md"}, {"Probes": "docs/probes.md"}]},
    {"Reference": [
        {"Settings": "docs/reference/configuration.md"}, {"Commands": "docs/reference/commands.md"}, {"Metrics": "docs/metrics.md"},
        {"Structure": "docs/structure.md"}, {"Changelog": "CHANGELOG.md"}, {"Contributing": "CONTRIBUTING.md"},
    ]},
]  # fmt: skip


def make(out: Path) -> None:
    """Raises mkdocs' errors, or SystemExit for a page that the navigation lacks."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "pages"
        for name in COPIED:
            shutil.copytree(
                ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__", "*.py" if name.startswith("deploy") else "")
            )
        for name in PAGES:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)
        for page in list(place.rglob("*.md")):
            _bring(page, place)
        config = {
            "site_name": "Barograph", "docs_dir": str(place), "site_dir": str(out), "use_directory_urls": False, "nav": NAV,
            "theme": {"name": "material", "font": False, "features": ["navigation.tabs", "search.highlight", "content.code.copy"]},
            "plugins": ["search"], "markdown_extensions": ["tables", "fenced_code", {"toc": {"permalink": True}}],
            "validation": {"nav": {"omitted_files": "warn"}, "links": {"not_found": "warn", "anchors": "warn", "unrecognized_links": "warn"}},
        }  # fmt: skip
        file = Path(folder) / "mkdocs.yml"
        file.write_text(yaml.safe_dump(config))
        build(load_config(str(file), strict=True))


def _bring(page: Path, place: Path) -> None:
    """What a page links to comes with it; a folder is named by its README, or not linked."""
    text = page.read_text("utf-8")
    source = ROOT / page.relative_to(place)
    for target in set(LINK.findall(text)):
        if "://" in target or target.startswith("mailto:"):
            continue
        there = (source.parent / target).resolve()
        name = place / there.relative_to(ROOT)
        if there.is_dir():
            index = there / "README.md"
            text = (
                text.replace(f"]({target})", f"]({target.rstrip('/')}/README.md)")
                if index.exists()
                else re.sub(rf"\[([^\]]*)\]\({re.escape(target)}\)", r"`\1`", text)
            )
        elif there.exists() and not name.exists():
            name.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(there, name)
    page.write_text(text, "utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve())
