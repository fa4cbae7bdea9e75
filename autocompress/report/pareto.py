"""The task's metric against a cost, every trial drawn, or of thousands those of `StudyView.drawn`.

The traces with meta `trials` hold each of them exactly once; whatever repeats a trial (front, best) or is
none (the original, the key of colours) carries another meta.
"""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from autocompress.core.evaluation import LATENCY, Candidate, Metrics, latency_on
from autocompress.core.front import non_dominated
from autocompress.errors import InputError
from autocompress.report.style import (
    ACCENT,
    BAND,
    FAILED,
    LIMIT,
    ORIGINAL,
    SYMBOLS,
    blank_figure,
    hover,
    metric_lines,
    rung_colour,
)
from autocompress.report.text import STATUSES, axis_title, finite, format_metric, format_rung, title_of
from autocompress.report.view import StudyView

# Costs against which the metric is drawn, with the title and the number format of the axis.
AXES = {"size_bytes": ("Size, bytes", "~s"), LATENCY: ("Latency, ms", "~g"), "macs": ("MACs", "~s")}
_LANES = 3


@dataclass(frozen=True)
class _Window:
    """The drawn range, x in log10, and where the trials without a metric go."""

    x: tuple[float, float]
    y: tuple[float, float]
    left: float | None
    bottom: float | None


def axes(view: StudyView) -> dict[str, tuple[str, str]]:
    """`AXES`, with the latency on each device where there are several."""
    names = (LATENCY, *map(latency_on, view.targets[1:])) if view.targets else ()
    return AXES | {name: (f"{html.escape(title_of(name, view.targets))}, ms", AXES[LATENCY][1]) for name in names}


def pareto_figure(view: StudyView, x: str = "size_bytes") -> go.Figure:
    """The task's metric against `size_bytes`, `latency_ms`, `macs` or, with several devices, `latency_ms@ID`, on a
    logarithmic axis, every trial of `view.drawn` as a point.

    A trial without one of the two metrics stands in the band "no metrics" at the bottom or the left. The
    line joins the front's members that no other member beats in these two metrics; members that are there
    for another one are ringed. InputError for another x.
    """
    legal = axes(view)
    if x not in legal:
        raise InputError(f"x must be one of {', '.join(legal)}, but got {x!r}")
    x_title, tick_format = legal[x]
    spots = {c.trial: _coordinates(view, view.metrics_of(c), x) for c in view.candidates}
    base = _coordinates(view, view.baseline, x)
    window = _window([*spots.values(), base], view.budget.bounds.get(x), len(spots), view)
    figure = blank_figure(height=480)
    for status in sorted(SYMBOLS, key=lambda s: (s == "complete", s != "failed")):
        group = [c for c in view.drawn if c.status == status]
        if group:
            figure.add_trace(_trial_trace(view, status, group, spots, window))
    for rung in sorted({c.rung for c in view.candidates if c.rung is not None}):
        figure.add_trace(go.Scatter(
            x=[None], y=[None], mode="markers", meta="key", name=html.escape(format_rung(rung)), legend="legend2",
            marker={"color": rung_colour(rung), "size": 9, "symbol": "square"}, hoverinfo="skip"))
    _add_front(figure, view, spots)
    if base[0] is not None and base[1] is not None:
        figure.add_trace(go.Scatter(
            x=[base[0]], y=[base[1]], mode="markers+text", meta="baseline", name="original", text=["original"],
            textposition="bottom center", textfont={"color": ORIGINAL, "size": 12},
            marker={"symbol": "star", "size": 15, "color": ORIGINAL}, hoverinfo="text",
            hovertext=["<b>The original</b><br>" + metric_lines(view, view.baseline, None)]))
    _add_limits(figure, view, x, window)
    decades = window.x[1] - window.x[0]
    # few enough ticks that Plotly labels 1, 2, 5 of a decade and not all nine, which collide on a phone
    figure.update_xaxes(type="log", range=window.x, title=f"{x_title} (log scale)", tickformat=tick_format,
                        tickangle=0, nticks=5 if decades < 1 else min(6, int(decades / 0.31)))
    figure.update_yaxes(range=window.y, title=html.escape(axis_title(view.metric)),
                        ticksuffix=html.escape(view.metric.suffix))
    figure.update_layout(
        legend={"orientation": "h", "y": -0.2, "x": 0, "yanchor": "top"},
        legend2={"orientation": "h", "y": -0.3, "x": 0, "yanchor": "top", "itemclick": False,
                 "itemdoubleclick": False}, margin_b=120)
    return figure


def _coordinates(view: StudyView, metrics: Metrics, x: str) -> tuple[float | None, float | None]:
    cost = finite(metrics, x)
    return (cost if cost is not None and cost > 0 else None), view.value(metrics)


def _window(points: list[tuple[float | None, float | None]], bound: float | None, trials: int,
            view: StudyView) -> _Window:
    costs = [math.log10(x) for x, _ in points if x is not None] + ([math.log10(bound)] if bound else [])
    heights = [y for _, y in points if y is not None]
    x_low, x_high = (min(costs), max(costs)) if costs else (0.0, 1.0)
    y_low, y_high = (min(heights), max(heights)) if heights else (0.0, view.metric.drawn(1.0))
    least = view.metric.drawn(0.02 * (view.reference.scale if view.reference else 1.0))
    x_span, y_span = max(x_high - x_low, 0.2), max(y_high - y_low, least)
    trial_points = points[:trials]  # the original comes last and is not placed in a band
    left = x_low - 0.13 * x_span if any(x is None and y is not None for x, y in trial_points) else None
    bottom = y_low - 0.10 * y_span if any(y is None for _, y in trial_points) else None
    return _Window(
        x=(x_low - (0.20 if left is not None else 0.07) * x_span, x_high + 0.07 * x_span),
        y=(y_low - (0.24 if bottom is not None else 0.09) * y_span, y_high + 0.09 * y_span),
        left=left, bottom=bottom)


def _placed(
    trial: int, index: int, count: int, spot: tuple[float | None, float | None], window: _Window
) -> tuple[float, float]:
    """Where the trial is drawn: its metrics, or a place in a band; lanes keep neighbours apart."""
    x, y = spot
    low, high = window.x
    if y is None:
        bottom = window.bottom if window.bottom is not None else window.y[0]
        y = bottom - (trial % _LANES) / _LANES * 0.8 * (bottom - window.y[0])
        x = x or 10 ** (low + (0.10 + 0.86 * (index + 0.5) / count) * (high - low))
    elif x is None:
        left = window.left if window.left is not None else low
        x = 10 ** (left - (trial % _LANES) / _LANES * 0.8 * (left - low))
    return x, y


def _trial_trace(view: StudyView, status: str, group: list[Candidate],
                 spots: dict[int, tuple[float | None, float | None]], window: _Window) -> go.Scatter:
    order = {c.trial: i for i, c in enumerate(c for c in view.drawn if spots[c.trial] == (None, None))}
    places = [_placed(c.trial, order.get(c.trial, 0), max(len(order), 1), spots[c.trial], window) for c in group]
    colours = [FAILED if status == "failed" else rung_colour(c.rung) for c in group]
    return go.Scatter(
        x=[x for x, _ in places], y=[y for _, y in places], mode="markers", meta="trials", name=STATUSES[status],
        customdata=[c.trial for c in group], hoverinfo="text", hovertext=[hover(view, c) for c in group],
        marker={"symbol": SYMBOLS[status], "size": 9, "color": colours,
                "opacity": 0.95 if status in ("complete", "failed") else 0.7,
                "line": {"width": 0 if status == "complete" else 1.6, "color": colours}})


def _add_front(figure: go.Figure, view: StudyView, spots: dict[int, tuple[float | None, float | None]]) -> None:
    points = sorted((x, y) for x, y in (spots.get(n, (None, None)) for n in view.front)
                    if x is not None and y is not None)
    if points:
        sign = -1 if view.metric.higher_is_better else 1
        joined = [points[i] for i in non_dominated([(x, sign * y) for x, y in points])]
        figure.add_trace(go.Scatter(
            x=[x for x, _ in joined], y=[y for _, y in joined], mode="lines", meta="front", name="front",
            line={"color": ACCENT, "width": 2}, hoverinfo="skip"))
        figure.add_trace(go.Scatter(
            x=[x for x, _ in points], y=[y for _, y in points], mode="markers", meta="front", name="on the front",
            marker={"symbol": "circle-open", "size": 13, "color": ACCENT, "line": {"width": 1.8}}, hoverinfo="skip"))
    best_x, best_y = spots.get(view.best, (None, None)) if view.best is not None else (None, None)
    if best_x is not None and best_y is not None:
        figure.add_trace(go.Scatter(
            x=[best_x], y=[best_y], mode="markers+text", meta="best", name="best", text=["<b>best</b>"],
            textposition="top center", textfont={"color": ACCENT, "size": 13}, hoverinfo="skip",
            marker={"symbol": "circle-open", "size": 20, "color": ACCENT, "line": {"width": 3}}))


def _add_limits(figure: go.Figure, view: StudyView, x: str, window: _Window) -> None:
    line = {"color": LIMIT, "dash": "dash", "width": 1.5}
    label: dict[str, Any] = {"font": {"color": LIMIT, "size": 12}, "showarrow": False}
    if (bound := view.budget.bounds.get(x)) is not None:
        figure.add_vline(x=bound, line=line)
        figure.add_annotation(x=math.log10(bound), y=1, yref="paper", yanchor="bottom",
                              text=f"budget {format_metric(x, bound)}", **label)
    reference, metric = view.reference, view.metric
    allowed = None if reference is None else view.budget.most_drop(reference)
    if reference is not None and allowed is not None and math.isfinite(reference.value):
        level = metric.drawn(reference.value - allowed if metric.higher_is_better else reference.value + allowed)
        word = "lowest" if metric.higher_is_better else "highest"
        shown = f"{level:.1f}%" if metric.is_share else html.escape(metric.format(level))
        figure.add_hline(y=level, line=line)
        figure.add_annotation(x=1, xref="paper", xanchor="right", y=level, yanchor="top",
                              text=f"{word} allowed {shown}", **label)
    band: dict[str, Any] = {"fillcolor": BAND, "line_width": 0, "layer": "below"}
    note: dict[str, Any] = {"text": "no metrics", "showarrow": False, "font_size": 11}
    if window.bottom is not None:
        top = window.bottom + 0.35 * (window.bottom - window.y[0])
        figure.add_shape(type="rect", xref="paper", x0=0, x1=1, y0=window.y[0], y1=top, **band)
        figure.add_annotation(x=0, xref="paper", xanchor="left", y=window.y[0], yanchor="bottom", **note)
    if window.left is not None:
        edge = 10 ** (window.left + 0.35 * (window.left - window.x[0]))
        figure.add_shape(type="rect", yref="paper", y0=0, y1=1, x0=10 ** window.x[0], x1=edge, **band)
        figure.add_annotation(x=window.x[0], xanchor="left", y=1, yref="paper", yanchor="top", textangle=-90, **note)
