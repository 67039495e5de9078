"""The report as one page for a browser, which loads nothing.

Bokeh draws the curves, and itables makes the tables.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import itables
import jinja2
import markdown
import pandas as pd
from bokeh.embed import file_html
from bokeh.models import (
    CheckboxGroup,
    ColumnDataSource,
    CustomJS,
    HoverTool,
    NumeralTickFormatter,
    RendererGroup,
    Span,
)
from bokeh.plotting import figure
from bokeh.resources import INLINE
from itables.javascript import generate_init_offline_itables_html

from .groups import Group
from .plots import AXES, algorithm_colours, axis_limits, shared_threshold
from .report import EXPLANATION, Report

JOB_ENTRIES = {"command", "start", "end"}  # of a manifest
# What is shown of a curve under the pointer: $name is its algorithm, @ a column of its data.
TOOLTIP_HEAD = '<b style="color: {colour}">$name</b><br>IQM <b>@iqm{{0,0.00}}</b>'
TOOLTIP_INTERVAL = ", 95 % interval @low{0,0.00} to @high{0,0.00}"
TOOLTIP_PLACE = "<br>@steps{0,0} steps, @seconds{0,0.0} s"
# An entry of the legend: a box, a stroke as the curves are drawn, the name.
LEGEND_STYLE = """
.bk-input-group { flex-flow: row wrap; gap: .35rem 1.25rem; white-space: normal; }
.bk-input-group { overflow-wrap: anywhere; }
.bk-input-group > label { display: flex; align-items: center; gap: .35em; cursor: pointer; }
input { flex: none; width: 1.05em; height: 1.05em; margin: 0; }
span { display: flex; align-items: center; gap: .4em; font: 15px/1.3 system-ui, sans-serif; }
span::before { content: ""; flex: none; width: 1.8em; }
"""
ENTRY_STYLE = """
label:nth-child({number}) {{ accent-color: {colour}; }}
label:nth-child({number}) span::before {{ border-top: 3px {dash} {colour}; }}
"""
SHOW_CHECKED = """
algorithms.forEach((algorithm, i) => (algorithm.visible = this.active.includes(i)))
"""
# A table shows all rows at once, with nothing around it. A click on a column's head sorts it.
TABLE_OPTIONS = {
    "paging": False,
    "layout": {"topStart": None, "topEnd": None, "bottomStart": None, "bottomEnd": None},
    "maxBytes": 0,
    "text_in_header_can_be_selected": False,
    "showIndex": False,
    "display_logo_when_loading": False,
    "classes": "display compact",
    "style": "width:100%;margin:0",
    "connected": False,
}


@dataclass
class Style:
    """How an algorithm's curves are drawn in every panel."""

    colour: str
    dash: str
    """solid, or dashed for a reference"""
    shown: RendererGroup
    """what its entry in the legend shows and hides"""


def make_styles(groups: list[Group]) -> dict[str, Style]:
    """The style of each algorithm."""
    styles = {}
    references = {group.algorithm: group.reference for group in groups}
    for algorithm, colour in algorithm_colours(groups).items():
        dash = "dashed" if references[algorithm] else "solid"
        styles[algorithm] = Style(colour, dash, RendererGroup())
    return styles


def make_legend(styles: dict[str, Style]) -> CheckboxGroup:
    """The legend: a box an algorithm, which shows and hides its curves everywhere."""
    css = LEGEND_STYLE
    for number, style in enumerate(styles.values(), 1):
        css += ENTRY_STYLE.format(number=number, colour=style.colour, dash=style.dash)
    legend = CheckboxGroup(
        labels=list(styles),
        active=list(range(len(styles))),
        name="legend",
        stylesheets=[css],
    )
    shown = [style.shown for style in styles.values()]
    legend.js_on_change("active", CustomJS(args={"algorithms": shown}, code=SHOW_CHECKED))
    return legend


def curve_data(group: Group) -> ColumnDataSource:
    """A group's curve and interval, from the bin in which all of its runs have begun."""
    columns = {"steps": group.steps, "seconds": group.seconds, "iqm": group.iqm_curve}
    if group.band is not None:
        low, high = group.band
        columns["low"] = low
        columns["high"] = high
    data = {}
    for name, column in columns.items():
        # Seven digits are enough, and half the size.
        data[name] = column[group.first_bin :].astype("float32")
    return ColumnDataSource(data)


def empty_panel(groups: list[Group], axis: str, ylabel: str) -> figure:
    """An environment's panel over "steps" or "seconds", before anything is drawn."""
    start, end = axis_limits(groups, axis)
    plot = figure(
        name=f"{groups[0].env_id} by {axis}",
        x_axis_label=AXES[axis],
        y_axis_label=ylabel,
        x_range=(start, end),
        x_axis_type="log" if start > 0 else "linear",
        active_drag=None,
        tools="box_zoom,reset,fullscreen,save",
        height=300,
        sizing_mode="stretch_width",
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    plot.y_range.only_visible = True
    plot.axis.axis_label_text_font_style = "normal"
    plot.axis.formatter = NumeralTickFormatter(format="0,0.[00]")
    plot.axis.minor_tick_line_color = None
    plot.outline_line_color = None
    plot.grid.grid_line_alpha = 0.6
    return plot


def draw_group(plot: figure, data: ColumnDataSource, group: Group, style: Style, axis: str) -> None:
    """Draw a group's curve, its interval, and what is shown under the pointer."""
    if len(data.data["iqm"]) == 1:  # a single point is no line
        curve = plot.scatter(axis, "iqm", source=data, color=style.colour, size=6)
    else:
        curve = plot.line(axis, "iqm", source=data, color=style.colour, width=2, dash=style.dash)
    curve.group = style.shown
    # A wide, invisible line, on which the pointer finds the curve.
    target = plot.line(axis, "iqm", source=data, name=group.algorithm, width=16, alpha=0)
    target.group = style.shown
    tooltip = TOOLTIP_HEAD.format(colour=style.colour)
    if group.band is not None:
        band = plot.varea(
            axis, "low", "high", source=data, color=style.colour, alpha=0.18, level="underlay"
        )
        band.group = style.shown
        tooltip += TOOLTIP_INTERVAL
    hover = HoverTool(
        renderers=[target],
        tooltips=tooltip + TOOLTIP_PLACE,
        line_policy="nearest",
        attachment="vertical",
        visible=False,
    )
    plot.add_tools(hover)


def make_panels(groups: list[Group], styles: dict[str, Style], ylabel: str) -> list[figure]:
    """An environment's panels, one for each of AXES. They share the data of the curves."""
    data = [curve_data(group) for group in groups]
    threshold = shared_threshold(groups)
    panels = []
    for axis in AXES:
        plot = empty_panel(groups, axis, ylabel)
        if threshold is not None:
            plot.add_layout(Span(location=threshold, line_dash="dotted"))
        for group, source in zip(groups, data):
            draw_group(plot, source, group, styles[group.algorithm], axis)
        panels.append(plot)
    return panels


def sort_key(cell: str) -> float | str:
    """What a cell is sorted by: the number it begins with, or else its text.

    A dash or an empty cell is sorted like the largest number.
    """
    number = re.match(r"(−?\d[\d,]*(?:\.\d+)?)( [kM])?(?= |$)", cell)
    if number:
        units = {None: 1, " k": 1e3, " M": 1e6}
        return float(number[1].replace("−", "-").replace(",", "")) * units[number[2]]
    if cell == "" or cell.startswith("–"):
        return float("inf")
    return cell


def html_table(table_id: str, table: list[list[str]]) -> str:
    """A table as HTML. A column of numbers is sorted by a hidden column of their values."""
    head = table[0]
    rows = table[1:]
    # A line does not end within an interval.
    cells = [[cell.replace(" to ", "\xa0to\xa0") for cell in row] for row in rows]
    frame = pd.DataFrame(cells, columns=head)
    definitions = []
    for column, name in enumerate(head):
        keys = [sort_key(row[column]) for row in rows]
        if all(isinstance(key, float) for key in keys):
            hidden = len(frame.columns)
            frame[f"{name}, value"] = keys
            definition = {
                "targets": column,
                "orderData": [hidden, column],
                "className": "dt-right",
            }
            definitions.append(definition)
    hidden_columns = list(range(len(head), len(frame.columns)))
    definitions.append({"targets": hidden_columns, "visible": False})
    return itables.to_html_datatable(
        frame, table_id=table_id, columnDefs=definitions, **TABLE_OPTIONS
    )


def html_report(report: Report) -> str:
    """The report as HTML. What comes from files is escaped, by jinja2, Bokeh and itables each."""
    groups = [group for env_groups in report.by_env.values() for group in env_groups]
    styles = make_styles(groups)
    models = [make_legend(styles)]
    for env_groups in report.by_env.values():
        models += make_panels(env_groups, styles, report.ylabel)
    manifests = []
    for group in groups:
        manifests += [c.manifest for c in group.curves if JOB_ENTRIES <= c.manifest.keys()]
    tables = {
        "finals": html_table("finals", report.finals),
        "results": html_table("results", report.results),
        "improvements": html_table("improvements", report.improvements),
    }
    if len(report.published) > 1:
        tables["published"] = html_table("published", report.published)
    if len(report.across) > 1:
        tables["across"] = html_table("across", report.across)
    variables = {
        "command": report.command,
        "facts": report.facts,
        "notes": report.notes,
        "environments": list(report.by_env),
        "axes": AXES,
        "tables": tables,
        "explanation": markdown.markdown(EXPLANATION),
        "manifests": manifests,
        "itables": generate_init_offline_itables_html(itables.options.dt_bundle),
    }
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    templates = jinja2.Environment(loader=loader, autoescape=True)
    templates.filters["command_line"] = shlex.join
    template = templates.get_template("page.html")
    return file_html(models, INLINE, report.title, template=template, template_variables=variables)
