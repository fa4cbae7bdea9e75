"""Results in a few lines on standard output."""

from __future__ import annotations

import shlex
from typing import Any

from autocompress.cli.console import line, print_table
from autocompress.core.evaluation import LATENCY, further_latencies
from autocompress.core.metric import Metric
from autocompress.report.text import format_factor, format_metric, format_speedup, title_of
from autocompress.study import SearchResult

Row = tuple[str, str, str, str]


def print_summary(result: SearchResult) -> None:
    """The exported file beside the original, where it is, and how to look further."""
    document, facts = result.to_dict(), result.artifact
    best = document["best"]
    if facts is not None:
        print_facts(facts, result.metric, _estimates(result, best["metrics"]) if best is not None else None)
        line(f"model    {facts['path']}")
    folder = shlex.quote(str(result.folder))
    line(f"page     {document['report']}")
    line(f"trials   {counts(document)}")
    for row in document["rarest"]:
        line(f"rare     {row['class']}, {row['training_samples']} training samples: {row['right']} of "
             f"{row['test_samples']} right, {row['original_right']} by the original")
    for warned in document["warnings"]:
        line(f"warning  {warned['message']}")
    line(f"further  autocompress show {folder} --trial {best['trial'] if best else 'N'}")
    line(f"         autocompress export {folder} --trial N --out DIR")


def _estimates(result: SearchResult, metrics: dict[str, float]) -> list[Row]:
    """Latency on each device that this machine cannot measure."""
    view = result.view()
    return [compare(f"{title_of(name, view.targets or (view.profile,))}, estimated", name, result.baseline[name],
                    metrics[name], result.metric)
            for name in (LATENCY, *further_latencies(metrics)) if view.source(name) == "estimated"]


def print_facts(facts: dict[str, Any], metric: Metric, further: list[Row] | None = None) -> None:
    """What was verified of an exported file, beside the original: both were run on the test split, on this machine."""
    rows = [
        *(compare(f"Test {each.words}", each.name, facts[f"baseline_{each.name}"], facts[each.name], metric)
          for each in metric.every),
        compare("Size", "size_bytes", facts["baseline_size_bytes"], facts["size_bytes"], metric),
        (*compare("Latency here", "latency_ms", facts["baseline_latency_ms"], facts["latency_ms"], metric)[:3],
         format_speedup(facts.get("speedup"))),
    ]
    print_table(("", "original", "exported", "change"), [*rows, *(further or [])], whole=True)
    line("")


def compare(title: str, name: str, before: float | None, after: float, metric: Metric) -> Row:
    """A row: the metric `name` of the original, of what it became, and the change as a difference or a factor. `metric`
    is the task's."""
    of = metric.named(name)
    if of is not None:
        change = "" if before is None else of.format_change(after - before)
    elif name == metric.finer:
        change = "" if before is None else f"{after - before:+.4f}"
    else:
        words = ("faster", "slower") if name.startswith(LATENCY) else ("smaller", "larger")
        change = format_factor(before / after if before and after else None, *words)
    return title, format_metric(name, before, metric), format_metric(name, after, metric), change


def counts(document: dict[str, Any]) -> str:
    """`32: 30 complete, 2 infeasible; 5 on the front`."""
    trials: dict[str, int] = document["trials"]
    kinds = ", ".join(f"{count} {kind}" for kind, count in trials.items() if count)
    return f"{sum(trials.values())}: {kinds or 'none'}; {len(document['front'])} on the front"
