"""The page's pieces that are plain markup. Every text that comes from a study passes `html.escape`."""

from __future__ import annotations

from html import escape
from typing import Any

import pandas as pd

from autocompress.core.evaluation import LATENCY, latency_on
from autocompress.report.markup import table_frame, table_row, text_table
from autocompress.report.style import FAILED, NO_RUNG, RUNG_COLOURS, rung_colour
from autocompress.report.tables import front_frame, plan_rows
from autocompress.report.text import (
    STATUSES,
    describe_plan,
    factor,
    finer_of,
    finite,
    format_factor,
    format_metric,
    format_rung,
    format_speedup,
    in_order,
    nearest_miss,
    title_of,
)
from autocompress.report.view import StudyView

_SHAPES = {
    "complete": '<circle cx="6" cy="6" r="4.5" fill="{c}"/>',
    "infeasible": '<circle cx="6" cy="6" r="4" fill="none" stroke="{c}" stroke-width="1.8"/>',
    "duplicate": '<path d="M6 1l5 5-5 5-5-5z" fill="none" stroke="{c}" stroke-width="1.6"/>',
    "failed": '<path d="M2 2l8 8M10 2l-8 8" stroke="{c}" stroke-width="1.8"/>',
    "running": '<path d="M2 1h8L2 11h8z" fill="{c}"/>',
}
# Units of quality (`Reference.scale`) that the best may lose before the page marks it.
WORSE = 0.01
_LESS = {"size_bytes": ("smaller", "larger"), "latency_ms": ("faster", "slower"), "macs": ("fewer", "more")}


def facts(view: StudyView) -> str:
    """What was searched, in one line; a space of several lines folds away."""
    counts = pd.Series([STATUSES[c.status] for c in view.candidates], dtype="object").value_counts()
    tally = ", ".join(f"{count} {status}" for status, count in counts.items())
    items = {"profiles" if view.targets else "profile": view.profile, "seed": str(view.seed),
             "trials": f"{len(view.candidates)} ({tally})"}
    folded = ""
    if "\n" in view.space.strip():
        folded = f"<details><summary>search space</summary><pre>{escape(view.space)}</pre></details>"
    else:
        items["space"] = view.space
    return _list(items) + folded


def cards(view: StudyView) -> str:
    """The headline: original → best, from the exported file where it was measured, else from the trial."""
    best = view.trial(view.best)
    trial = view.metrics_of(best) if best else {}
    tiles = []
    quality = (each.name for each in view.metric.every)
    for metric in in_order((*quality, "size_bytes", *_latencies(view), "macs"), view.metric):
        before, after, source = finite(view.baseline, metric), finite(trial, metric), view.source(metric, best)
        elsewhere = metric == LATENCY and source == "estimated"  # the file was run on this machine
        if view.shipped and view.shipped.get(metric) is not None and not elsewhere:
            after, source = float(view.shipped[metric]), "measured"
            before = float(view.shipped.get(f"baseline_{metric}") or before or 0) or None
        together = None
        if metric.startswith(LATENCY) and source == "measured":
            together = format_speedup(view.timed_together(-1 if view.best is None else view.best))
        tiles.append(_card(view, metric, before, after, source if after is not None or best is None else "", together))
    return f'<div class="cards">{"".join(tiles)}</div>'


def verdict(view: StudyView) -> str:
    """Whether there is a best trial, and whether its file was verified."""
    if view.best is None:
        rows = [(c.trial, c.metrics) for c in view.candidates if c.metrics and c.status != "failed"]
        nearest = nearest_miss(view.budget, rows, view.reference, view.targets)
        return f'<p class="verdict bad">No trial is inside the budget. {escape(nearest)}</p>'
    text = f"Best inside the budget: trial {view.best}{_although(view)}"
    if view.shipped is None:
        return f'<p class="verdict">{text}, not exported yet.</p>'
    path = escape(str(view.shipped.get("path", "")))
    if view.shipped.get("verified"):
        return (f'<p class="verdict">{text}, exported to <code>{path}</code> and verified in its runtime. '
                f"Above: the file itself, {escape(view.metric.words)} on the test data. Below: the trials, on the "
                "validation data.</p>")
    return f'<p class="verdict bad">{text}, exported to <code>{path}</code>, but <b>not verified</b>.</p>'


def warnings(view: StudyView) -> str:
    """What the user was warned of."""
    return "".join(f'<p class="verdict bad">Warning: {escape(warned.message)}</p>' for warned in view.warnings)


def _although(view: StudyView) -> str:
    """What tells it from a trial that is better in the task's metric, where there is one."""
    best, metric = view.trial(view.best), view.metric
    if best is None or metric.error not in best.metrics:
        return ""
    top = max((c.metrics for c in view.candidates if view.feasible(c)), key=metric.quality, default=best.metrics)
    if metric.quality(best.metrics) >= metric.quality(top):
        return ""
    error, highest = (escape(metric.format(value)) for value in (best.metrics[metric.error], top[metric.name]))
    return (f" (the least {escape(finer_of(metric))} of those within ± {error}, the standard error, of the best "
            f"{escape(metric.name)}, {highest})")


def key(view: StudyView) -> str:
    """The key of the three Pareto figures: a button for each status, a colour for each rung."""
    present = {c.status for c in view.candidates}
    buttons = [
        f'<button type="button" aria-pressed="true" data-trace="{label}"><svg width="12" height="12">'
        f'{_SHAPES[status].format(c=FAILED if status == "failed" else _swatch(status))}</svg>{label}</button>'
        for status, label in STATUSES.items() if status in present]
    rungs = [f'<span><i style="background:{rung_colour(rung)}"></i>{escape(format_rung(rung))}</span>'
             for rung in sorted({c.rung for c in view.candidates if c.rung is not None})]
    return f'<div class="key">{"".join(buttons)}{"".join(rungs)}</div>'


def front_table(view: StudyView) -> str:
    """The front by its own order, the best marked."""
    if not view.front:
        return '<p class="hint">The front is empty: no complete trial is inside the budget.</p>'
    rows, metric = [], view.metric
    for row in front_frame(view).to_dict("records"):
        candidate = view.trial(row["trial"])
        change = row[f"{metric.name}_change"]
        cells = [
            (f"{row['trial']}{' · best' if row['is_best'] else ''}", "n"),
            (format_metric(metric.name, _number(row[metric.name]), metric), "n"),
            ("" if pd.isna(change) else metric.format_change(change).removesuffix(" points"), "n"),
            (format_metric("size_bytes", _number(row["size_bytes"])), "n"), (_times(row["size_factor"]), "n"),
            *((text, "n") for name in _latencies(view) for text in (
                format_metric(name, _number(row[name])), _times(row[name.replace(LATENCY, "latency_factor")]))),
            (format_metric("macs", _number(row["macs"])), "n"),
            (format_rung(candidate.rung if candidate else None), "one"), (str(row["origin"]), ""),
            (describe_plan(view.layers, candidate.plan if candidate else None, view.techniques), "say"),
        ]
        rows.append((cells, "best" if row["is_best"] else ""))
    times = [head for name in _latencies(view) for head in (escape(title_of(name, view.targets)), "")]
    difference = "Δ points" if metric.is_share else "Δ"
    heads = ["Trial", escape(metric.heading), difference, "Size", "", *times, "MACs", "Scored", "From", "Plan"]
    return text_table(heads, rows, numeric=6 + len(times))


def plan_table(view: StudyView) -> str:
    """One row a layer of the original; norms that fold away are left to their convolution."""
    best = view.trial(view.best)
    if best is None or best.plan is None:
        return '<p class="hint">There is no best plan to show.</p>'
    lines = []
    for row in plan_rows(view.layers, best.plan, view.parts, view.techniques):
        if row["kind"] == "norm" and row["note"].startswith("folds"):
            continue
        cut = f"{row['removed']:.0%}" if row["removed"] else "–"
        float_layer = row["weight_bits"] >= 32
        share = row["bytes"] / row["bytes_before"] if row["bytes"] is not None and row["bytes_before"] else None
        bar = "" if share is None else f'<span class="bar"><i style="width:{min(100, 100 * share):.1f}%"></i></span>'
        cells = [
            (escape(row["layer"]), "name"), (escape(row["kind"]), ""),
            (_channels(row["in_before"], row["in_after"]), "n"), (_channels(row["out_before"], row["out_after"]), "n"),
            (cut, "n"),
            (", ".join(filter(None, ("float 32" if float_layer else f"{row['weight_bits']} bit", row["sparsity"]))),
             "n"),
            ("float 32" if row["activation_bits"] >= 32 else f"{row['activation_bits']} bit", "n"),
            (escape(f"{row['method']} {row['rank']}".strip() or "–"), ""),
            (format_metric("size_bytes", row["bytes_before"]), "n"),
            (format_metric("size_bytes", row["bytes"]) + bar, "n"), (escape(row["note"]), "say" if row["note"] else ""),
        ]
        lines.append(table_row(cells, "same" if row["note"] else ""))
    heads = ["Layer", "Kind", "In", "Out", "Cut", "Weights", "Activations", "Decomposed",
             "Bytes before", "Bytes after", "Note"]
    return table_frame(heads, lines, {2, 3, 4, 5, 6, 8, 9})


def untouched_table(view: StudyView) -> str:
    """Layer and reason; a long list folds away."""
    if not view.untouched:
        return '<p class="hint">Some technique touches each layer.</p>'
    rows = [([(name, "name"), (why, "say")], "") for name, why in view.untouched.items()]
    table = text_table(["Layer", "Why"], rows, numeric=0)
    many = len(view.untouched)
    return table if many <= 15 else f"<details><summary>{many} layers</summary>{table}</details>"


def _latencies(view: StudyView) -> list[str]:
    return [LATENCY, *map(latency_on, view.targets[1:])]


def _card(view: StudyView, metric: str, before: float | None, after: float | None, source: str,
          together: str | None = None) -> str:
    """One figure; `together` is the change where it does not follow from the two values: of files timed in turn."""
    mark = f'<span class="mark {escape(source)}">{escape(source)}</span>' if source else ""
    change, worse, kind = "", "", metric.partition("@")[0]
    if view.reference is not None and before is not None and after is not None and metric == view.metric.name:
        lost = view.metric.drop(before, after) > WORSE * view.reference.scale
        change, worse = view.metric.format_change(after - before), " class=worse" if lost else ""
    elif kind in _LESS:
        ratio = factor(before, after)
        change = format_factor(ratio, *_LESS[kind]) if together is None else together
        worse = " class=worse" if any(word in change for word in ("slower", "larger", "more")) else ""
    was = f"from {escape(format_metric(metric, before, view.metric))}" if before is not None else ""
    return (f'<div class="card"><div class="what"><span>{escape(title_of(metric, view.targets, view.metric))}</span>'
            f'{mark}</div><div class="now">{escape(format_metric(metric, after, view.metric))}</div>'
            f'<div class="was">{f"<strong{worse}>{change}</strong> " if change else ""}{was}</div></div>')


def _swatch(status: str) -> str:
    return RUNG_COLOURS[1] if status == "complete" else NO_RUNG


def _list(items: dict[str, str]) -> str:
    return '<ul class="facts">' + "".join(f"<li><b>{k}</b>{escape(v)}</li>" for k, v in items.items()) + "</ul>"


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _times(ratio: Any) -> str:
    return "" if pd.isna(ratio) else f"÷ {ratio:.1f}"


def _channels(before: int, after: int) -> str:
    return f"{before}" if before == after else f"{before} → {after}"
