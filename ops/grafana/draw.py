"""From `spec` to Grafana's JSON, by the types that Grafana generates of its own schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as enums
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode, HeatmapColorScale

from ops.grafana.spec import Dashboard, Kind, Panel

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
COLUMNS = 60
"""Of a heat map: enough to see when, few enough to be asked quickly."""
MARK_STEP = "5s"
"""How exactly a mark is placed; Grafana's own default is a minute."""
NEUTRAL = "text"

Builder: TypeAlias = timeseries.Panel | stat.Panel | bargauge.Panel | heatmap.Panel | statetimeline.Panel


def _lines(panel: Panel) -> Builder:
    legend = (
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(enums.LegendDisplayMode.LIST)
        .placement(enums.LegendPlacement.BOTTOM)
        .calcs([])
    )
    tooltip = common.VizTooltipOptions().mode(enums.TooltipDisplayMode.MULTI).sort(enums.SortOrder.DESCENDING)
    drawn = timeseries.Panel().legend(legend).tooltip(tooltip).line_width(1).fill_opacity(5)
    drawn = drawn.show_points(enums.VisibilityMode.AUTO)
    if panel.kind is Kind.STACK:
        drawn = drawn.fill_opacity(60).stacking(common.StackingConfig().mode(enums.StackingMode.NORMAL))
    if panel.limits:
        style = common.GraphThresholdsStyleConfig().mode(enums.GraphThresholdsStyleMode.DASHED)
        drawn = drawn.thresholds_style(style)
    return drawn


def _number(panel: Panel) -> Builder:
    coloured = bool(panel.limits or panel.words)
    return (
        stat.Panel()
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_mode(enums.BigValueColorMode.VALUE if coloured else enums.BigValueColorMode.NONE)
        .graph_mode(enums.BigValueGraphMode.AREA if not panel.words else enums.BigValueGraphMode.NONE)
    )


def _bars(panel: Panel) -> Builder:
    return (
        bargauge.Panel()
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .orientation(enums.VizOrientation.HORIZONTAL)
        .display_mode(enums.BarGaugeDisplayMode.BASIC)
    )


def _heat(panel: Panel) -> Builder:
    # One hue: the brighter the more, whatever the theme.
    colors = (
        heatmap.HeatmapColorOptions()
        .mode(HeatmapColorMode.SCHEME)
        .scheme("Oranges")
        .scale(HeatmapColorScale.LINEAR)
        .steps(64)
    )
    if panel.low is not None and panel.high is not None:
        colors = colors.min(panel.low).max(panel.high)
    return (
        heatmap.Panel()
        .calculate(False)
        .color(colors)
        .cell_gap(1)
        .cell_values(heatmap.CellValues().unit(panel.unit))
        .show_legend()
        .max_data_points(COLUMNS)
    )


def _states(panel: Panel) -> Builder:
    return statetimeline.Panel().merge_values(True).row_height(0.8).fill_opacity(70)


DRAWN: dict[Kind, Callable[[Panel], Builder]] = {
    Kind.LINES: _lines,
    Kind.STACK: _lines,
    Kind.NUMBER: _number,
    Kind.BARS: _bars,
    Kind.HEAT: _heat,
    Kind.STATES: _states,
}


def _panel(panel: Panel, number: int) -> Builder:
    drawn: Builder = DRAWN[panel.kind](panel)
    drawn = drawn.id(number).title(panel.title).description(panel.description).unit(panel.unit)
    drawn = drawn.datasource(SOURCE).span(panel.width).height(panel.height)
    base = models.Threshold(value=None, color=panel.below if panel.limits else NEUTRAL)
    steps = [base, *(models.Threshold(value=each.value, color=each.color) for each in panel.limits)]
    drawn = drawn.thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
    if panel.kind in (Kind.LINES, Kind.STACK):
        drawn = drawn.color_scheme(
            dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC_BY_NAME)
        )
    elif panel.kind is not Kind.HEAT:
        drawn = drawn.color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
    if panel.low is not None:
        drawn = drawn.min(panel.low)
    if panel.high is not None:
        drawn = drawn.max(panel.high)
    if panel.silent:
        drawn = drawn.no_value(panel.silent)
    if panel.words:
        found = {
            str(value): models.ValueMappingResult(text=text, color=color, index=place)
            for place, (value, (text, color)) in enumerate(panel.words.items())
        }
        drawn = drawn.mappings([models.ValueMap(found)])
    for place, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expr).ref_id(chr(ord("A") + place)).datasource(SOURCE)
        target = target.instant() if panel.kind is Kind.BARS else target.range()
        drawn = drawn.with_target(target.legend_format(query.legend or "__auto"))
    return drawn


def draw(spec: Dashboard) -> str:
    """The dashboard's JSON, as its file holds it."""
    job = (
        dashboard.QueryVariable("job")
        .label("stream")
        .description("The scrape job: one stream, one consumer group.")
        .query("label_values(streamlearn_build_info, job)")
        .datasource(SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )
    drawn = (
        dashboard.Dashboard(spec.title)
        .uid(spec.uid)
        .description(spec.description)
        .tags(["streamlearn"])
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("10s")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").label("data source").type("prometheus"))
        .with_variable(job)
        .link(
            dashboard.DashboardLink("streamlearn")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["streamlearn"])
            .keep_time(True)
            .include_vars(True)
        )
    )
    number = 0
    for row in spec.rows:
        drawn = drawn.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            number += 1
            drawn = drawn.with_panel(_panel(panel, number))
    for mark in spec.marks:
        line = dashboard.AnnotationQuery().name(mark.name).enable(True).icon_color(mark.color)
        drawn = drawn.annotation(line.datasource(SOURCE).expr(mark.expr))
    written: dict[str, Any] = json.loads(json.dumps(drawn.build(), cls=JSONEncoder))
    for mark, query in zip(spec.marks, written["annotations"]["list"], strict=True):
        # Of Prometheus' annotations only: the generated types know none of a data source's own fields.
        query |= {"titleFormat": mark.name, "textFormat": mark.text, "step": MARK_STEP}
    return json.dumps(written, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
