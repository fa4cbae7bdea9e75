"""What each technique and step of the best plan bought, in rows of text: the same on the page and on the screen."""

from __future__ import annotations

from html import escape

from autocompress.core.attribution import Attribution, StepShare, TechniqueShare
from autocompress.core.layer import LayerTable
from autocompress.core.metric import Metric
from autocompress.core.plan import Plan, Step
from autocompress.report.markup import capitalised, text_table
from autocompress.report.text import format_metric
from autocompress.report.view import StudyView
from autocompress.techniques.apply import Techniques
from autocompress.techniques.table import TECHNIQUES

# Steps of each kind in the table: those that save most, and those of the largest predicted sensitivity.
SHOWN = 8
METRICS = {"size_bytes": "size", "macs": "MACs", "latency_ms": "latency", "peak_memory_bytes": "memory"}
STEP_HEADS = ("step", "site", "does", "size saved", "predicted sensitivity")
HINT = ("Savings are what the plan would lose without the technique, or without the step, all else as it is: they "
        "overlap and do not add up. The task's metric is before training. Estimated, but for that metric, and for "
        "latency on a device that measures it.")


def technique_heads(metric: Metric) -> tuple[str, ...]:
    """Headings of `technique_rows`; `metric` is the task's."""
    saved = (f"{title} saved" for title in METRICS.values())
    return ("technique", "sites", *saved, metric.words, "alone saves", "note")


def technique_rows(attribution: Attribution, metric: Metric) -> list[tuple[str, ...]]:
    """One row a technique, under `technique_heads`."""
    rows = []
    for share in attribution.techniques:
        saved = [_saved(metric, attribution.without(share, metric)) for metric in METRICS]
        sizes = (attribution.original["size_bytes"], share.alone["size_bytes"]) if share.alone else None
        alone = _saved("size_bytes", sizes)
        rows.append((share.technique, str(share.sites), *saved, _cost(attribution, share, metric), alone, share.note))
    return rows


def step_rows(attribution: Attribution, plan: Plan, layers: LayerTable,
              techniques: Techniques = TECHNIQUES) -> list[tuple[str, ...]]:
    """One row for each step that saves most or has the largest sensitivity, under `STEP_HEADS`, in order of size."""
    steps = {(step.technique, step.site): step for step in plan.steps}

    def does(step: Step) -> str:
        row = techniques.get(step.technique)
        return "–" if row is None else row.describe(step, layers)

    def saved(share: StepShare) -> float:
        return -1.0 if share.saved_bytes is None else share.saved_bytes

    savers = sorted(attribution.steps, key=lambda share: -saved(share))
    harmful = sorted((s for s in savers if s.sensitivity is not None), key=lambda share: -(share.sensitivity or 0.0))
    shares = [share for share in savers if share in savers[:SHOWN] or share in harmful[:SHOWN]]
    total = sum(share.sensitivity or 0.0 for share in attribution.steps)
    size = attribution.estimated["size_bytes"]
    return [
        (
            share.technique,
            share.site,
            does(steps[share.technique, share.site]),
            _saved("size_bytes", None if share.saved_bytes is None else (size + share.saved_bytes, size)),
            "–"
            if share.sensitivity is None
            else f"{share.sensitivity:.2g} nats ({share.sensitivity / max(total, 1e-12):.0%})",
        )
        for share in shares
    ]


def attribution_tables(view: StudyView) -> str:
    """Both as markup."""
    attribution, best = view.attribution, view.trial(view.best)
    if attribution is None or best is None or best.plan is None:
        return '<p class="hint">It was not found out for the best plan.</p>'
    techniques = [([(row[0], ""), *((cell, "n") for cell in row[1:-1]), (row[-1], "say" if row[-1] else "")], "")
                  for row in technique_rows(attribution, view.metric)]
    steps = [([(row[0], ""), (row[1], "name"), (row[2], ""), (row[3], "n"), (row[4], "n")], "")
             for row in step_rows(attribution, best.plan, view.layers, view.techniques)]
    return "".join(text_table([escape(capitalised(head)) for head in heads], rows, numeric=0)
                   for heads, rows in ((technique_heads(view.metric), techniques), (STEP_HEADS, steps)))


def _saved(metric: str, pair: tuple[float, float] | None) -> str:
    """`3.10 MB (40%)`; with a minus sign where there is more with it than without."""
    if pair is None:
        return "–"
    without, plan = pair
    sign = "−" if plan > without else ""
    share = f" ({(without - plan) / without:.0%})".replace("-", "−") if without > 0 else ""
    return f"{sign}{format_metric(metric, abs(without - plan))}{share}"


def _cost(attribution: Attribution, share: TechniqueShare, metric: Metric) -> str:
    cost = attribution.cost(share, metric)
    return "–" if cost is None else metric.format_change(-cost + 0.0).replace("-", "−")
