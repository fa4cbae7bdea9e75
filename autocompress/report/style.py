"""How figures look and what their points say: colours, symbols, the bare figure, hover texts.

Backgrounds are transparent and colours of middle lightness: they suit light and dark.
"""

from __future__ import annotations

import html

import plotly.graph_objects as go

from autocompress.core.evaluation import Candidate, Metrics
from autocompress.report.text import STATUSES, describe_plan, format_metric, format_rung, shorten, title_of
from autocompress.report.view import StudyView

SYMBOLS = {
    "complete": "circle", "infeasible": "circle-open", "duplicate": "diamond-open",
    "failed": "x-thin-open", "running": "hourglass",
}
RUNG_COLOURS = ("#6fa8c9", "#2f78d0", "#7a4fd8")
NO_RUNG, FAILED, ACCENT, ORIGINAL, LIMIT = "#8b93a1", "#d6455d", "#e8720c", "#12967a", "#c0398b"
GRID, BAND = "rgba(128,136,150,0.22)", "rgba(128,136,150,0.10)"


def rung_colour(rung: int | None) -> str:
    """One colour a rung; the last one serves every rung above."""
    return NO_RUNG if rung is None else RUNG_COLOURS[max(0, min(rung, len(RUNG_COLOURS) - 1))]


def blank_figure(height: int) -> go.Figure:
    """An empty figure of `height` pixels in the house style."""
    return style(go.Figure(), height)


def style(figure: go.Figure, height: int) -> go.Figure:
    """Give a figure the house style: quiet grid, no background, titles of its rows at the left."""
    figure.update_layout(
        template="none", height=height, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif", "size": 12,
              "color": "#5b6472"},
        margin={"l": 10, "r": 14, "t": 30, "b": 10}, hoverlabel={"align": "left"}, hovermode="closest")
    for update in (figure.update_xaxes, figure.update_yaxes):
        update(gridcolor=GRID, zeroline=False, linecolor=GRID, automargin=True, title_standoff=8)
    figure.update_annotations(font_size=13, x=0, xanchor="left")
    return figure


def metric_lines(view: StudyView, metrics: Metrics, candidate: Candidate | None) -> str:
    """Each metric with its unit and source, escaped, one a line."""
    lines = []
    for name, value in metrics.items():
        source = view.source(name, candidate)
        suffix = f" ({source})" if source else ""
        lines.append(f"{title_of(name, view.targets, view.metric)} {format_metric(name, value, view.metric)}{suffix}")
    return "<br>".join(html.escape(line, quote=False) for line in lines)


def hover(view: StudyView, candidate: Candidate) -> str:
    """Trial, metrics, origin and plan, or of most trials of a large study the first two alone; escaped, since the text
    is read as markup."""
    if candidate.trial not in view.hovers:
        view.hovers[candidate.trial] = _hover(view, candidate)
    return view.hovers[candidate.trial]


def _hover(view: StudyView, candidate: Candidate) -> str:
    head = f"<b>Trial {candidate.trial}</b> · {STATUSES[candidate.status]} · {html.escape(format_rung(candidate.rung))}"
    if candidate.trial not in view.in_detail:
        metrics = view.metrics_of(candidate)
        brief = ", ".join(format_metric(name, metrics[name], view.metric)
                          for name in (view.metric.name, "size_bytes") if name in metrics)
        return "<br>".join(line for line in (head, html.escape(brief, quote=False)) if line)
    lines = [head, metric_lines(view, view.metrics_of(candidate), candidate),
             html.escape(f"from {shorten(candidate.origin, 40)}", quote=False)]
    described = describe_plan(view.layers, candidate.plan, view.techniques)
    lines += [html.escape(phrase, quote=False) for phrase in described.split(" · ")]
    if candidate.duplicate_of is not None:
        lines.append(f"repeats trial {candidate.duplicate_of}")
    if candidate.reason:
        lines.append(f"<i>{html.escape(shorten(candidate.reason, 90), quote=False)}</i>")
    return "<br>".join(line for line in lines if line)
