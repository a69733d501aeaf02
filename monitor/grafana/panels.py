"""Panels as the dashboards use them: a title that asks something, one line of help, queries with their legends. Needs the extra `grafana`."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders import common as shared
from grafana_foundation_sdk.builders import dashboard as board
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common, units
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = model.DataSourceRef(type_val="prometheus", uid="${source}")
WIDTH = 24
Query = tuple[str, str]  # PromQL, and a legend in Grafana's form
GREEN, AMBER, RED, BLUE = "green", "#EAB839", "red", "blue"


class Place:
    """Where the next panel goes: left to right, then below."""

    def __init__(self) -> None:
        self._x = self._y = self._tallest = 0

    def take(self, width: int, height: int) -> model.GridPos:
        if self._x + width > WIDTH:
            self._x, self._y, self._tallest = 0, self._y + self._tallest, 0
        found = model.GridPos(h=height, w=width, x=self._x, y=self._y)
        self._x, self._tallest = self._x + width, max(self._tallest, height)
        return found

    def row(self) -> model.GridPos:
        self._x, self._y, self._tallest = 0, self._y + self._tallest, 0
        found = model.GridPos(h=1, w=WIDTH, x=0, y=self._y)
        self._y += 1
        return found


class Board:
    """A dashboard as it grows."""

    def __init__(self, uid: str, title: str, about: str, hours: str = "now-1h") -> None:
        self._place = Place()
        self._made = (
            board.Dashboard(title).uid(uid).description(about).tags(["barograph"]).time(hours, "now").refresh("10s").timezone("browser")
            .tooltip(model.DashboardCursorSync.CROSSHAIR).readonly().with_variable(
                board.DatasourceVariable("source").label("Prometheus").type("prometheus")
            )
        )  # fmt: skip
        self._made.link(
            board.DashboardLink("Barograph")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags(["barograph"])
            .as_dropdown(True)
            .keep_time(True)
            .include_vars(True)
        )
        self._made.annotation(
            board.AnnotationQuery().name("Armed verdicts").datasource(model.DataSourceRef(type_val="grafana", uid="-- Grafana --")).enable(True)
            .icon_color(RED).type("tags").target(board.AnnotationTarget().limit(100).match_any(False).tags(["barograph", "verdict"]).type("tags"))
        )  # fmt: skip

    def choose(self, name: str, label: str, query: str, one: str = "") -> None:
        """A variable: values of a label. Exactly one is chosen, at first `one`; without that any number, at first all."""
        made = (
            board.QueryVariable(name).label(label).datasource(SOURCE).query(query)
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(model.VariableSort.ALPHABETICAL_ASC)
        )  # fmt: skip
        if not one:
            made = made.include_all(True).all_value(".*").multi(True)
        made = made.current(model.VariableOption(selected=True, text=one or "All", value=one or "$__all"))
        self._made.with_variable(made)

    def row(self, title: str) -> None:
        self._made.with_row(board.Row(title).grid_pos(self._place.row()))

    def stat(
        self, title: str, help_: str, query: str, unit: str = units.Short, bounds: tuple[tuple[float, str], ...] = (), width: int = 4
    ) -> None:
        """One number. bounds: from which value on it has which colour."""
        made = stat.Panel().graph_mode(common.BigValueGraphMode.AREA).color_mode(common.BigValueColorMode.VALUE).unit(unit)
        made = (
            made.thresholds(_thresholds(bounds))
            .no_value("0")
            .reduce_options(shared.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        )
        self._put(made, title, help_, [(query, "")], width, 4, instant="$__range" in query)

    def lines(
        self, title: str, help_: str, *queries: Query, unit: str = units.Short, bounds: tuple[tuple[float, str], ...] = (), width: int = 12,
        stacked: bool = False, exemplars: bool = False,
    ) -> None:  # fmt: skip
        made = (
            timeseries.Panel().unit(unit).line_width(2).fill_opacity(30 if stacked else 8).show_points(common.VisibilityMode.NEVER)
            .legend(shared.VizLegendOptions().display_mode(common.LegendDisplayMode.LIST).placement(common.LegendPlacement.BOTTOM).show_legend(True))
        )  # fmt: skip
        if stacked:
            made = made.stacking(shared.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
        if bounds:
            made = made.thresholds(_thresholds(bounds)).thresholds_style(
                shared.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
            )
        self._put(made, title, help_, list(queries), width, 8, exemplars=exemplars)

    def heat(self, title: str, help_: str, query: str, width: int = 12) -> None:
        """Of a histogram's buckets, by their label `le`."""
        made = heatmap.Panel().calculate(False)
        self._put(made, title, help_, [(query, "{{le}}")], width, 8, form=PromQueryFormat.HEATMAP)

    def table(self, title: str, help_: str, query: str, width: int = 12) -> None:
        self._put(table.Panel(), title, help_, [(query, "")], width, 8, form=PromQueryFormat.TABLE, instant=True)

    def build(self) -> Any:
        return self._made.build()

    def _put(
        self, panel: Any, title: str, help_: str, queries: list[Query], width: int, height: int,
        form: PromQueryFormat = PromQueryFormat.TIME_SERIES, instant: bool = False, exemplars: bool = False,
    ) -> None:  # fmt: skip
        panel = panel.title(title).description(help_).datasource(SOURCE).grid_pos(self._place.take(width, height))
        for number, (query, legend) in enumerate(queries):
            target = prometheus.Dataquery().expr(query).legend_format(legend).ref_id(chr(ord("A") + number)).format(form).datasource(SOURCE)
            target = target.instant() if instant else target.range()
            panel = panel.with_target(target.exemplar(True) if exemplars and number == 0 else target)
        self._made.with_panel(panel)


def _thresholds(bounds: tuple[tuple[float, str], ...]) -> board.ThresholdsConfig:
    steps = [
        model.Threshold(value=None, color=GREEN if bounds else BLUE),
        *(model.Threshold(value=value, color=colour) for value, colour in bounds),
    ]
    return board.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)
