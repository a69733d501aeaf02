"""What a ledger says of a time, as one page: how much was judged, what fired, what was overridden, what failed, and whether the records are whole."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from monitor import __version__
from monitor.audit import verifier
from monitor.audit.query import VIEWS, Tables
from monitor.errors import BarographError

TEMPLATE = Path(__file__).with_name("report.html")
PEAKS = 12  # probes that are drawn
ROWS = 200  # in a table

QUERIES = {
    "totals": """SELECT count(*), coalesce(sum(tokens), 0), coalesce(sum(judged), 0), coalesce(sum(dropped), 0), count(*) FILTER (state = 'lost'),
        count(*) FILTER (state = 'open'), coalesce(avg(epoch(ended - began)), 0) FROM generations WHERE {began}""",
    "coverage": """SELECT count(*), count(*) FILTER (whole), coalesce(sum(early), 0) FROM coverage WHERE stream IN (SELECT stream FROM generations WHERE {began})""",
    "rules": """SELECT rule, mode, action, coalesce(severity, '') AS severity, coalesce(risk, '') AS risk, coalesce(g.model, '?') AS model, count(*) AS fired,
        count(DISTINCT stream) AS streams, any_value(m.generations) AS generations
        FROM verdicts v LEFT JOIN generations g USING (stream)
        LEFT JOIN (SELECT model, count(*) AS generations FROM generations WHERE {began} GROUP BY 1) m ON m.model = g.model
        WHERE event = 'fired' AND {time} GROUP BY ALL ORDER BY fired DESC""",
    "replies": "SELECT how, outcome, count(*), sum(tokens) FROM replies WHERE {time} GROUP BY ALL ORDER BY 3 DESC",
    "failures": "SELECT kind, coalesce(condition, event, ''), coalesce(decision, ''), count(*), max(why) FROM failures WHERE {time} GROUP BY ALL ORDER BY 4 DESC",
    "operators": """SELECT strftime(time, '%Y-%m-%d %H:%M'), who, what, about, reason, coalesce(outcome, '') FROM operators
        WHERE {time} AND what IS NOT NULL AND what NOT IN ('queried', 'reported', 'archived') ORDER BY time""",
    "looks": "SELECT what, count(*) FROM operators WHERE {time} AND what IN ('queried', 'reported', 'viewed') GROUP BY ALL",
    "days": "SELECT strftime(began, '%Y-%m-%d') AS day, count(*) FROM generations WHERE {began} GROUP BY 1 ORDER BY 1",
    "fired": """SELECT strftime(time, '%Y-%m-%d') AS day, rule || ' (' || mode || ')', count(*) FROM verdicts WHERE event = 'fired' AND {time}
        GROUP BY ALL ORDER BY 1""",
    "held": """SELECT strftime(time, '%Y-%m-%d') AS day, 1000 * quantile_cont(held, 0.5), 1000 * quantile_cont(held, 0.99) FROM replies
        WHERE held IS NOT NULL AND {time} GROUP BY 1 ORDER BY 1""",
    "peaks": """SELECT strftime(began, '%Y-%m-%d') AS day, entry.key, quantile_cont(entry.value, 0.5), quantile_cont(entry.value, 0.99)
        FROM (SELECT began, unnest(map_entries(TRY_CAST(peak AS MAP(VARCHAR, DOUBLE)))) AS entry FROM generations WHERE {began} AND peak IS NOT NULL)
        WHERE entry.value IS NOT NULL GROUP BY ALL ORDER BY 1""",
}  # fmt: skip


class ReportError(BarographError):
    """A report that can't be made."""


def report(folder: Path, since: float, until: float, keys: list[str], whose: str, sealed: bool = False) -> str:
    """One HTML page without anything from elsewhere. since, until: seconds since 1970. keys: the log's public keys; whose: where they came from; sealed: only what a checkpoint covers.

    Raises BarographErrors for a ledger that can't be read.
    """
    found = ask(folder, since, until, sealed)
    try:
        checked: verifier.Report | str = verifier.verify(folder, [verifier.Key.read(key) for key in keys])
    except (verifier.Wrong, OSError) as error:
        checked = str(error)
    generations, tokens, judged, dropped, lost, still_open, mean = found["totals"][0]
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        TEMPLATE.read_text("utf-8")
    )
    return page.render(
        version=__version__, since=_day(since), until=_day(until), made=_day(datetime.now(UTC).timestamp()), checked=checked, whose=whose, found=found, rows=ROWS,
        generations=generations, tokens=tokens, judged=judged, dropped=dropped, lost=lost, still_open=still_open, mean=mean, whole=found["coverage"][0][1],
        early=found["coverage"][0][2], charts=_charts(found), share=_share, per_thousand=_per_thousand,
    )  # fmt: skip


def ask(folder: Path, since: float, until: float, sealed: bool = False) -> dict[str, list[tuple[Any, ...]]]:
    """The answers of QUERIES by name."""
    within = {
        name: f"{name} >= make_timestamp({round(since * 1e6)}) AND {name} < make_timestamp({round(until * 1e6)})"
        for name in ("began", "time")
    }
    tables = Tables(folder, " ".join(VIEWS), scores=("peak",), sealed=sealed)
    try:
        return {name: tables.ask(sql.format(**within))[1] for name, sql in QUERIES.items()}
    finally:
        tables.close()


def pdf(page: str, out: Path) -> None:
    """The page as a PDF. Raises ReportError where the library for it is missing."""
    for talkative in ("weasyprint", "weasyprint.progress", "fontTools"):
        logging.getLogger(talkative).setLevel(logging.ERROR)  # they tell each step and each letter, the first when they are loaded
    try:
        from weasyprint import HTML
    except (ImportError, OSError) as error:
        raise ReportError(
            f"no PDF: {str(error).splitlines()[0]}; expected: pip install 'barograph[pdf]', and Pango (Debian: libpango-1.0-0 libpangoft2-1.0-0). Any browser prints the HTML too"
        ) from None
    HTML(string=page).write_pdf(out)


def _charts(found: dict[str, list[tuple[Any, ...]]]) -> dict[str, Markup]:
    import pygal

    charts = dict.fromkeys(("generations", "fired", "held", "peaks"), Markup(""))
    days = [day for day, _ in found["days"]]
    if days:
        charts["generations"] = _drawn(pygal.Bar, "Generations a day", days, {"generations": dict(found["days"])})
    for name, kind, title in (
        ("fired", pygal.StackedBar, "Verdicts a day"),
        ("held", pygal.Line, "Longest wait of a reply's chunk for its scores, ms"),
    ):
        rows = found[name]
        if name == "held":
            rows = [(day, label, value) for day, *values in rows for label, value in zip(("p50", "p99"), values, strict=True)]
        if rows:
            series: dict[str, dict[str, float]] = {}
            for day, label, value in rows:
                series.setdefault(label, {})[day] = value
            charts[name] = _drawn(kind, title, sorted({row[0] for row in rows}), series)
    peaks: dict[str, dict[str, float]] = {}
    for day, probe, _, high in found["peaks"]:
        peaks.setdefault(probe, {})[day] = high
    if peaks:
        title = "Drift: the 99th percentile of generations' peaks, by day (standard deviations)"
        charts["peaks"] = _drawn(pygal.Line, title, sorted({row[0] for row in found["peaks"]}), dict(list(peaks.items())[:PEAKS]))
    return charts


def _drawn(kind: Any, title: str, days: list[str], series: dict[str, dict[str, float]]) -> Markup:
    from pygal.style import Style

    style = Style(background="white", plot_background="white", font_family="sans-serif", colors=COLOURS, label_font_size=11, legend_font_size=12, title_font_size=14)  # fmt: skip
    chart = kind(
        js=[], style=style, width=860, height=300, title=title, legend_at_bottom=True, truncate_legend=-1, truncate_label=-1, margin=8, x_labels_major_count=6,
        show_minor_x_labels=False, print_values=False, pretty_print=False,
    )  # fmt: skip
    chart.x_labels = days
    for label, values in series.items():
        chart.add(label, [values.get(day) for day in days])
    drawn = chart.render(is_unicode=True, disable_xml_declaration=True)
    return Markup(re.sub(r"<script.*?</script>", "", drawn, flags=re.S))  # pygal escapes labels


COLOURS = (
    "#9b2c2c",
    "#2b6cb0",
    "#2f855a",
    "#b7791f",
    "#6b46c1",
    "#285e61",
    "#97266d",
    "#744210",
    "#4a5568",
    "#c05621",
    "#276749",
    "#2c5282",
)


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "none"


def _per_thousand(part: float, whole: float | None) -> str:
    return f"{1000 * part / whole:.1f}" if whole else "–"


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
