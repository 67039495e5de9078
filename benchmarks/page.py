"""The report as one page for a browser, which loads nothing: Bokeh draws the curves, itables makes the tables."""

import re
import shlex
from pathlib import Path

import itables
import jinja2
import markdown
import pandas as pd
from bokeh.embed import file_html
from bokeh.models import CheckboxGroup, ColumnDataSource, CustomJS, HoverTool, NumeralTickFormatter, RendererGroup, Span
from bokeh.plotting import figure
from bokeh.resources import INLINE
from itables.javascript import generate_init_offline_itables_html

from .plots import AXES, colours, limits

# What is read off a curve: $ is its renderer's, @ its source's.
READING = '<b style="color: {colour}">$name</b><br>IQM <b>@iqm{{0,0.00}}</b>{between}<br>'
READING += "@steps{{0,0}} steps, @seconds{{0,0.0}} s"
BETWEEN = ", 95 % interval @low{0,0.00} to @high{0,0.00}"
# An entry of the legend: a box, a stroke as the curves are drawn, the name.
LEGEND = """
.bk-input-group { flex-flow: row wrap; gap: .35rem 1.25rem; white-space: normal; overflow-wrap: anywhere; }
.bk-input-group > label { display: flex; align-items: center; gap: .35em; cursor: pointer; }
input { flex: none; width: 1.05em; height: 1.05em; margin: 0; }
span { display: flex; align-items: center; gap: .4em; font: 15px/1.3 system-ui, sans-serif; }
span::before { content: ""; flex: none; width: 1.8em; }
"""
ENTRY = """
label:nth-child({number}) {{ accent-color: {colour}; }}
label:nth-child({number}) span::before {{ border-top: 3px {dash} {colour}; }}
"""
# Of a table: all rows at once, nothing around it, a click anywhere on a column's head sorts.
TABLE = {"paging": False, "layout": dict.fromkeys(("topStart", "topEnd", "bottomStart", "bottomEnd")), "maxBytes": 0}
TABLE |= {"text_in_header_can_be_selected": False, "showIndex": False, "display_logo_when_loading": False}
TABLE |= {"classes": "display compact", "style": "width:100%;margin:0", "connected": False}


def switches(colour: dict[str, str], dash: dict[str, str]) -> tuple[CheckboxGroup, dict[str, RendererGroup]]:
    """The legend, and what each algorithm's curves belong to so that its entry shows and hides them everywhere."""
    shown = {algorithm: RendererGroup() for algorithm in colour}
    entries = [ENTRY.format(number=i, colour=colour[name], dash=dash[name]) for i, name in enumerate(colour, 1)]
    options = {"name": "legend", "stylesheets": [LEGEND + "".join(entries)]}
    legend = CheckboxGroup(labels=list(colour), active=list(range(len(colour))), **options)
    code = "algorithms.forEach((algorithm, i) => (algorithm.visible = this.active.includes(i)))"
    legend.js_on_change("active", CustomJS(args={"algorithms": list(shown.values())}, code=code))
    return legend, shown


def source(group) -> ColumnDataSource:
    """A group's curve and interval, from the bin all have begun by; seven digits are enough, and half the size."""
    columns = {"steps": group.steps, "seconds": group.seconds, "iqm": group.curve}
    if group.band is not None:
        columns |= {"low": group.band[0], "high": group.band[1]}
    return ColumnDataSource({name: column[group.first :].astype("float32") for name, column in columns.items()})


def panel(groups: list, sources: list, shown: dict, colour: dict, dash: dict, x: str, ylabel: str) -> figure:
    """An environment's curves with their intervals over `x`, "steps" or "seconds"."""
    start, end = limits(groups, x)
    options = {"x_range": (start, end), "x_axis_type": "log" if start else "linear", "active_drag": None}
    options |= {"tools": "box_zoom,reset,fullscreen,save", "height": 300, "sizing_mode": "stretch_width"}
    plot = figure(name=f"{groups[0].env_id} by {x}", x_axis_label=AXES[x], y_axis_label=ylabel, **options)
    plot.toolbar.logo, plot.toolbar.autohide, plot.y_range.only_visible = None, True, True
    plot.axis.axis_label_text_font_style, plot.axis.formatter = "normal", NumeralTickFormatter(format="0,0.[00]")
    plot.axis.minor_tick_line_color, plot.outline_line_color, plot.grid.grid_line_alpha = None, None, 0.6
    thresholds = {group.threshold for group in groups}
    if len(thresholds) == 1 and None not in thresholds:
        plot.add_layout(Span(location=thresholds.pop(), line_dash="dotted"))
    for group, data in zip(groups, sources):
        name, tone = group.algorithm, colour[group.algorithm]
        curve = plot.line(x, "iqm", source=data, color=tone, width=2, dash=dash[name])
        near = plot.line(x, "iqm", source=data, name=name, width=16, alpha=0)  # where the pointer finds the curve
        curve.group = near.group = shown[name]
        if group.band is not None:
            band = plot.varea(x, "low", "high", source=data, color=tone, alpha=0.18, level="underlay")
            band.group = shown[name]
        reading = READING.format(colour=tone, between=BETWEEN if group.band is not None else "")
        options = {"line_policy": "nearest", "attachment": "vertical", "visible": False}
        plot.add_tools(HoverTool(renderers=[near], tooltips=reading, **options))
    return plot


def value(cell: str) -> float | str:
    """What a cell is sorted by: the number it begins with, a dash or nothing like the largest, text as text."""
    if found := re.match(r"(−?[\d,.]+)( [kM])?(?= |$)", cell):
        unit = {None: 1, " k": 1e3, " M": 1e6}[found[2]]
        return float(found[1].replace("−", "-").replace(",", "")) * unit
    return float("inf") if cell[:1] in ("–", "") else cell


def sortable(name: str, lines: list[list[str]]) -> str:
    """A table, its head first, as HTML with `name` for its id; a hidden column for each of numbers is what sorts it."""
    head, *rows = lines
    columns = [[value(cell) for cell in column] for column in zip(*rows)]
    numbers = [i for i, column in enumerate(columns) if all(isinstance(cell, float) for cell in column)]
    hidden = {f"{head[i]}, value": columns[i] for i in numbers}
    defs = [{"targets": i, "orderData": [at, i], "className": "dt-right"} for at, i in enumerate(numbers, len(head))]
    defs.append({"targets": list(range(len(head), len(head) + len(numbers))), "visible": False})
    whole = [[cell.replace(" to ", "\xa0to\xa0") for cell in row] for row in rows]  # no line ends within an interval
    frame = pd.DataFrame(whole, columns=head).assign(**hidden)
    return itables.to_html_datatable(frame, table_id=name, columnDefs=defs, **TABLE)


def page(title: str, by_env: dict[str, list], ylabel: str, tables: dict[str, list[list[str]]], **said) -> str:
    """The page as HTML. `tables` are lines of cells, their heads first; `said` goes into page.html as well.

    What comes from files is escaped, by jinja2, Bokeh and itables each.
    """
    groups = [group for groups in by_env.values() for group in groups]
    colour = colours(groups)
    dash = {group.algorithm: "dashed" if group.reference else "solid" for group in groups}
    legend, shown = switches(colour, dash)
    models = [legend]
    for members in by_env.values():
        sources = [source(group) for group in members]
        models += [panel(members, sources, shown, colour, dash, x, ylabel) for x in AXES]
    said |= {
        "environments": list(by_env),
        "axes": AXES,
        "tables": {name: sortable(name, lines) for name, lines in tables.items() if len(lines) > 1},
        "explanation": markdown.markdown(said["explanation"]),
        "manifests": [curve.manifest for group in groups for curve in group.curves if curve.manifest],
        "itables": generate_init_offline_itables_html(itables.options.dt_bundle),
    }
    templates = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    templates.filters["command_line"] = shlex.join
    return file_html(models, INLINE, title, template=templates.get_template("page.html"), template_variables=said)
