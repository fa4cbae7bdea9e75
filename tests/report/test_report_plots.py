"""Figures: what is drawn, and that each trial is drawn once."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import msgspec
import pytest

from autocompress.core.budget import Budget
from autocompress.core.evaluation import Candidate
from autocompress.errors import InputError
from autocompress.report.plots import AXES, pareto_figure, plan_figure, progress_figure, timings_figure
from autocompress.report.style import ACCENT
from autocompress.report.view import StudyView


def _traces(figure: Any, meta: str) -> list[Any]:
    return [trace for trace in figure.data if trace.meta == meta]


def _points(figure: Any) -> dict[int, tuple[float, float]]:
    points: dict[int, tuple[float, float]] = {}
    for trace in _traces(figure, "trials"):
        assert len(trace.x) == len(trace.y) == len(trace.customdata) == len(trace.hovertext)
        for number, x, y in zip(trace.customdata, trace.x, trace.y, strict=True):
            assert number not in points
            points[number] = (x, y)
    return points


@pytest.mark.parametrize("x", AXES)
def test_every_trial_is_one_point_inside_the_window(view: StudyView, x: str) -> None:
    figure = pareto_figure(view, x)
    points = _points(figure)
    assert sorted(points) == [c.trial for c in view.candidates]
    (x_low, x_high), (y_low, y_high) = figure.layout.xaxis.range, figure.layout.yaxis.range
    for cost, accuracy in points.values():
        assert x_low < math.log10(cost) < x_high
        assert y_low < accuracy < y_high


def test_points_stand_at_their_metrics_and_duplicates_at_their_original(view: StudyView) -> None:
    points = _points(pareto_figure(view))
    for candidate in view.candidates:
        metrics = candidate.metrics
        if "size_bytes" in metrics and metrics["accuracy"] == metrics["accuracy"]:
            assert points[candidate.trial] == (metrics["size_bytes"], 100 * metrics["accuracy"])
    assert points[11] == points[5]


def test_trials_without_metrics_stand_in_their_band(view: StudyView) -> None:
    figure = pareto_figure(view)
    points = _points(figure)
    lowest = min(100 * c.metrics["accuracy"] for c in view.candidates
                 if c.metrics and math.isfinite(c.metrics["accuracy"]))
    band = figure.layout.shapes[-1]
    for number in (8, 17, 23, 30, 41):
        assert points[number][1] < lowest
        assert band.y0 < points[number][1] < band.y1
    assert len({points[number] for number in (8, 17, 23, 30, 41)}) == 5
    assert points[30][0] == 600_000
    assert "no metrics" in [note.text for note in figure.layout.annotations]


def test_a_trial_without_latency_stands_at_the_left_by_its_accuracy(view: StudyView) -> None:
    figure = pareto_figure(view, "latency_ms")
    points, candidate = _points(figure), view.candidates[29]
    assert points[29][1] == 100 * candidate.metrics["accuracy"]
    assert points[29][0] < min(c.metrics["latency_ms"] for c in view.candidates if "latency_ms" in c.metrics)


def test_status_and_rung_are_told_apart(view: StudyView) -> None:
    figure = pareto_figure(view)
    traces = _traces(figure, "trials")
    assert len({trace.marker.symbol for trace in traces}) == len({c.status for c in view.candidates}) == 5
    shown = {number: colour for t in traces for number, colour in zip(t.customdata, t.marker.color, strict=True)}
    rungs = {c.trial: c.rung for c in view.candidates if c.status in ("complete", "infeasible")}
    assert len({(rung, shown[trial]) for trial, rung in rungs.items()}) == len(set(rungs.values())) == 3


def test_front_best_original_and_limits_are_drawn(view: StudyView) -> None:
    figure = pareto_figure(view)
    line, rings = _traces(figure, "front")
    assert line.line.color == ACCENT
    assert len(rings.x) == len(view.front)
    assert list(line.x) == sorted(line.x) and list(line.y) == sorted(line.y)
    best = view.trial(view.best)
    assert best is not None
    (ring,) = _traces(figure, "best")
    assert (ring.x[0], ring.y[0]) == (best.metrics["size_bytes"], 100 * best.metrics["accuracy"])
    (star,) = _traces(figure, "baseline")
    assert (star.x[0], star.y[0]) == (view.baseline["size_bytes"], 100 * view.baseline["accuracy"])
    assert 800_000 in [shape.x0 for shape in figure.layout.shapes if shape.x0 == shape.x1]
    assert pytest.approx(90.12) in [shape.y0 for shape in figure.layout.shapes if shape.y0 == shape.y1]


def test_hover_says_what_the_trial_is_and_escapes_it(view: StudyView) -> None:
    texts = {number: text for trace in _traces(pareto_figure(view), "trials")
             for number, text in zip(trace.customdata, trace.hovertext, strict=True)}
    assert "Trial 0" in texts[0] and "from uniform" in texts[0] and "quantize 11 layers" in texts[0]
    assert "Accuracy" in texts[0] and "(measured)" in texts[0] and "(estimated)" in texts[0]
    assert "<img" not in "".join(texts.values())
    assert "&lt;img src=x" in "".join(texts.values())
    assert "repeats trial 5" in texts[11]


def test_another_axis_is_refused(view: StudyView) -> None:
    with pytest.raises(InputError, match="x must be one of size_bytes, latency_ms, macs, but got 'params'"):
        pareto_figure(view, "params")


@pytest.mark.parametrize("x", AXES)
def test_a_study_in_which_nothing_worked_is_still_drawn(view: StudyView, x: str) -> None:
    failed = tuple(Candidate(trial=n, status="failed", reason="nan") for n in range(5))
    bare = msgspec.structs.replace(view, candidates=failed, front=(), best=None, baseline={}, budget=Budget(),
                                   parts=(), timings={}, artifact=None)
    assert len(_points(pareto_figure(bare, x))) == 5
    assert not _traces(pareto_figure(bare, x), "front")
    for figure in (plan_figure(bare), progress_figure(bare), timings_figure(bare)):
        assert figure.to_json()


def test_plan_figure_shows_each_layer_with_weights(view: StudyView) -> None:
    figure = plan_figure(view)
    count = sum(layer.kind in ("conv", "linear") for layer in view.layers.layers)
    assert [len(trace.x) for trace in figure.data] == [count] * 5
    assert "<b>" not in "".join(figure.layout.xaxis4.ticktext)
    best = view.trial(view.best)
    assert best is not None and best.plan is not None
    bits = Counter(step.args["weight_bits"] for step in best.plan.find("quantize").values())
    assert Counter(figure.data[1].y) == bits + Counter({32: count - bits.total()})


def test_best_so_far_never_falls_and_counts_only_trials_inside(view: StudyView) -> None:
    by_name = {trace.name: trace for trace in progress_figure(view).data if trace.fill is None}
    line = [value for value in by_name["best so far"].y if value is not None]
    assert line == sorted(line)
    best = view.trial(view.best)
    assert best is not None and line[-1] == 100 * best.metrics["accuracy"]
    assert len(by_name["inside the budget"].x) == sum(view.feasible(c) for c in view.candidates)


def test_timings_show_each_phase(view: StudyView) -> None:
    (bars,) = timings_figure(view).data
    assert sorted(bars.x) == sorted(view.timings.values())
    assert "export <i>" not in "".join(timings_figure(view).layout.yaxis.ticktext)
