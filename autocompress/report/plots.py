"""Figures of a study: the Pareto figures, the best plan layer by layer, progress and time."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autocompress.quantities import format_seconds
from autocompress.report.pareto import AXES, axes, pareto_figure
from autocompress.report.style import ACCENT, NO_RUNG, ORIGINAL, RUNG_COLOURS, blank_figure, hover, style
from autocompress.report.tables import plan_rows
from autocompress.report.text import format_metric, shorten
from autocompress.report.view import StudyView

__all__ = ["AXES", "axes", "pareto_figure", "plan_figure", "progress_figure", "timings_figure"]


def plan_figure(view: StudyView) -> go.Figure:
    """The best plan from input to output: kept channels, weight bits, rank share and bytes of each layer."""
    best = view.trial(view.best)
    rows = []
    if best is not None and best.plan is not None:
        rows = [r for r in plan_rows(view.layers, best.plan, view.parts, view.techniques)
                if r["kind"] in ("conv", "linear")]
    titles = ("Channels kept", "Weight bits", "Rank share", "Bytes, before and after")
    figure = make_subplots(rows=4, cols=1, shared_xaxes=True, vertical_spacing=0.07, row_heights=[1, 1, 1, 1.4],
                           subplot_titles=titles)
    style(figure, height=620)
    at = list(range(len(rows)))
    names = [html.escape(shorten(row["layer"], 60), quote=False) for row in rows]
    kept_percent = [100 * (1 - row["removed"]) for row in rows]
    bits = [row["weight_bits"] for row in rows]
    ranks = [None if row["rank_share"] is None else 100 * row["rank_share"] for row in rows]
    _bars(figure, 1, at, kept_percent, RUNG_COLOURS[1], [
        f"{n}<br>{r['out_before']} → {r['out_after']} channels" for n, r in zip(names, rows, strict=True)])
    _bars(figure, 2, at, bits, [NO_RUNG if b >= 32 else RUNG_COLOURS[2] for b in bits], [
        f"{n}<br>weights {r['weight_bits']} bit, activations {r['activation_bits']} bit"
        for n, r in zip(names, rows, strict=True)])
    _bars(figure, 3, at, ranks, ACCENT, [
        f"{n}<br>{html.escape(r['method'], quote=False) or 'not decomposed'} {r['rank']}"
        for n, r in zip(names, rows, strict=True)])
    sizes = [f"{n}<br>{format_metric('size_bytes', r['bytes_before'])} → {format_metric('size_bytes', r['bytes'])}"
             for n, r in zip(names, rows, strict=True)]
    _bars(figure, 4, at, [r["bytes_before"] for r in rows], "rgba(139,147,161,0.35)", sizes)
    _bars(figure, 4, at, [r["bytes"] for r in rows], ORIGINAL, sizes)
    figure.update_layout(barmode="overlay", bargap=0.25, showlegend=False)
    figure.update_yaxes(range=[0, 105], tickvals=[0, 50, 100], ticktext=["0%", "50%", "100%"], row=1, col=1)
    figure.update_yaxes(type="log", range=[math.log10(0.9), math.log10(45)], tickvals=[2, 4, 8, 32], row=2, col=1)
    figure.update_yaxes(range=[0, 105], tickvals=[0, 50, 100], ticktext=["0%", "50%", "100%"], row=3, col=1)
    figure.update_yaxes(tickformat="~s", ticksuffix="B", rangemode="tozero", nticks=4, row=4, col=1)
    figure.update_xaxes(showgrid=False, range=[-0.6, max(len(rows), 1) - 0.4])
    figure.update_xaxes(tickvals=at, ticktext=[html.escape(shorten(r["layer"], 22), quote=False) for r in rows],
                        tickangle=-60, tickfont_size=10 if len(rows) <= 40 else 8, row=4, col=1)
    return figure


def progress_figure(view: StudyView) -> go.Figure:
    """Above: the task's metric of each trial, and the best so far inside the budget. Below: how many were inside."""
    metric = view.metric
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.12, row_heights=[3, 1],
                           subplot_titles=(f"{html.escape(metric.heading)}, best so far inside the budget",
                                           "Trials inside the budget"))
    style(figure, height=400)
    numbers, best_so_far, inside_so_far = [], [], []
    best, inside = None, 0
    for candidate in sorted(view.candidates, key=lambda c: c.trial):
        if view.feasible(candidate):
            inside += 1
            value = metric.drawn(candidate.metrics[metric.name])
            best = value if best is None else (max if metric.higher_is_better else min)(best, value)
        numbers.append(candidate.trial)
        best_so_far.append(best)
        inside_so_far.append(inside)
    kinds = (("outside or not finished", False, NO_RUNG), ("inside the budget", True, RUNG_COLOURS[1]))
    for name, feasible, colour in kinds:
        group = [c for c in view.drawn
                 if view.feasible(c) is feasible and view.value(view.metrics_of(c)) is not None]
        figure.add_trace(go.Scatter(
            x=[c.trial for c in group], y=[view.value(view.metrics_of(c)) for c in group], mode="markers",
            name=name, marker={"color": colour, "size": 6, "opacity": 0.75}, hoverinfo="text",
            hovertext=[hover(view, c) for c in group]), row=1, col=1)
    figure.add_trace(go.Scatter(x=numbers, y=best_so_far, mode="lines", name="best so far", hoverinfo="skip",
                                line={"color": ACCENT, "width": 2.5, "shape": "hv"}), row=1, col=1)
    figure.add_trace(go.Scatter(x=numbers, y=inside_so_far, mode="lines", fill="tozeroy", showlegend=False,
                                line={"color": RUNG_COLOURS[1], "width": 1.5, "shape": "hv"}, name="inside the budget",
                                fillcolor="rgba(47,120,208,0.18)"), row=2, col=1)
    if (original := view.value(view.baseline)) is not None:
        figure.add_hline(y=original, line={"color": ORIGINAL, "dash": "dot", "width": 1.5}, row=1, col=1)
    figure.update_yaxes(ticksuffix=html.escape(metric.suffix), row=1, col=1)
    figure.update_yaxes(rangemode="tozero", nticks=4, row=2, col=1)
    figure.update_xaxes(title="Trial", row=2, col=1)
    figure.update_layout(legend={"orientation": "h", "y": -0.2, "yanchor": "top"}, margin_b=90)
    return figure


def timings_figure(view: StudyView) -> go.Figure:
    """Seconds of each phase, the longest on top."""
    phases = sorted(view.timings.items(), key=lambda item: item[1])
    figure = blank_figure(height=max(180, 90 + 30 * len(phases)))
    figure.add_trace(go.Bar(
        x=[seconds for _, seconds in phases], y=list(range(len(phases))), orientation="h", marker_color=RUNG_COLOURS[1],
        text=[format_seconds(seconds) for _, seconds in phases], textposition="auto", hoverinfo="text",
        hovertext=[f"{html.escape(name, quote=False)}: {seconds:.3g} s" for name, seconds in phases]))
    figure.update_yaxes(tickvals=list(range(len(phases))), showgrid=False,
                        ticktext=[html.escape(shorten(name), quote=False) for name, _ in phases])
    figure.update_xaxes(title="Seconds", rangemode="tozero")
    return figure


def _bars(figure: go.Figure, row: int, at: list[int], values: Sequence[Any], colour: Any, hover: list[str]) -> None:
    figure.add_trace(go.Bar(x=at, y=values, marker_color=colour, hovertext=hover, hoverinfo="text"), row=row, col=1)
