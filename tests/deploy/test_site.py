"""The pages as a site: every page is in the navigation, every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

from deploy import site
from tests.docs import ROOT


def test_it_is_built_and_asks_nobody_else(tmp_path: Path) -> None:
    site.make(tmp_path / "site")
    text = (tmp_path / "site" / "docs" / "sre.html").read_text("utf-8")
    assert "For the SRE" in text
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"?(https?://[^\"\s>]+)", page.read_text("utf-8", "replace"))
        assert not [each for each in loaded if "squidfunk" not in each], page


def test_every_page_is_in_the_navigation() -> None:
    def named(nav: object) -> set[str]:
        if isinstance(nav, str):
            return {nav}
        parts = nav.values() if isinstance(nav, dict) else nav
        return set().union(*map(named, parts))  # type: ignore[arg-type]

    pages = {str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")}
    assert pages <= named(site.NAV)
