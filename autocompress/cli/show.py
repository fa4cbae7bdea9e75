"""`autocompress show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from autocompress.cli.console import line, print_json, print_table, say
from autocompress.cli.option_groups import Command
from autocompress.core.evaluation import LATENCY

if TYPE_CHECKING:
    from autocompress.core.attribution import Attribution
    from autocompress.core.evaluation import Candidate
    from autocompress.core.plan import Receipt
    from autocompress.report.view import StudyView

_EXAMPLES = """\b
Examples:
  autocompress show studies/digits-2mb
  autocompress show studies/digits-2mb --trial 7 --json
"""


@click.command(cls=Command, epilog=_EXAMPLES, short_help="Print a trial: its metrics and its plan, layer by layer.")
@click.argument("study", metavar="STUDY")
@click.option("--trial", metavar="N|best", default="best", help="The trial to print. Default: best.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def show(study: str, trial: str, as_json: bool) -> None:
    """Print one trial of STUDY, the folder of a search: its metrics, and what its plan makes of each layer."""
    from autocompress.study import open_study

    result = open_study(study)
    candidate, view = result.candidate(trial), result.view()
    if result.artifact_fault:
        say(f"warning: {result.artifact_fault}; `autocompress search --resume --out {study}` exports it anew")
    if as_json:
        print_json(document(view, candidate))
    else:
        _print(view, candidate)


def document(view: StudyView, candidate: Candidate) -> dict[str, Any]:
    """The document of `--json`: metrics of the validation split, the steps, the layers they make, the receipts."""
    import msgspec

    from autocompress.report.rung_correlation import agreement

    return {
        "study": view.name, "trial": candidate.trial, "status": candidate.status, "reason": candidate.reason,
        "origin": candidate.origin, "rung": candidate.rung, "duplicate_of": candidate.duplicate_of,
        "metrics": candidate.metrics, "sources": candidate.best.sources if candidate.best else {},
        "baseline": view.baseline, "speedup": view.timed_together(candidate.trial) or None,
        "plan_fingerprint": candidate.plan.fingerprint if candidate.plan else None,
        "plan": msgspec.to_builtins(candidate.plan), "layers": layer_rows(view, candidate),
        "attribution": msgspec.to_builtins(_attribution(view, candidate)),
        "agreement": msgspec.to_builtins(agreement(view)), "warnings": msgspec.to_builtins(view.warnings),
        "receipts": msgspec.to_builtins(candidate.receipts),
    }


def layer_rows(view: StudyView, candidate: Candidate) -> list[dict[str, Any]]:
    """One row for each layer of the original; none when the trial has no plan."""
    from autocompress.estimate import flatten
    from autocompress.report.tables import plan_rows
    from autocompress.techniques.apply import at_hand, resolve

    if candidate.plan is None:
        return []
    parts = resolve(view.layers, at_hand(candidate.plan, view.techniques), view.techniques)
    return plan_rows(view.layers, candidate.plan, tuple(flatten(parts)), view.techniques)


def summarise(receipts: tuple[Receipt, ...]) -> str:
    """What applying the plan resolved: `prune 4 (kept 61 channels), quantize 9`."""
    by_technique: dict[str, list[dict[str, Any]]] = {}
    for receipt in receipts:
        by_technique.setdefault(receipt.technique, []).append(receipt.facts)
    texts = []
    for technique, facts in by_technique.items():
        if technique == "inherit" and not any(fact["layers"] for fact in facts):
            continue  # looked into, and not done
        channels = sum(len(fact["kept"]) for fact in facts if isinstance(fact.get("kept"), list))
        before, after = (sum(int(fact.get(f"weights_{when}", 0)) for fact in facts) for when in ("before", "after"))
        epochs = sum(float(fact.get("epochs", 0)) for fact in facts)
        detail = (f" ({epochs:g} epochs)" if epochs else f" (kept {channels} channels)" if channels
                  else f" ({before} → {after} weights)" if before else "")
        texts.append(f"{technique} {len(facts)}{detail}")
    return ", ".join(texts)


def _attribution(view: StudyView, candidate: Candidate) -> Attribution | None:
    """What the techniques of this trial's plan bought; it is found out for the best."""
    return view.attribution if view.attribution and view.attribution.trial == candidate.trial else None


def _print(view: StudyView, candidate: Candidate) -> None:
    from autocompress.cli.summary import compare
    from autocompress.report.attribution_tables import HINT, STEP_HEADS, step_rows, technique_heads, technique_rows
    from autocompress.report.rung_correlation import agreement, agreement_heads, agreement_rows
    from autocompress.report.text import describe_plan, describe_source, format_rung, in_order, title_of

    reason = f" ({candidate.reason})" if candidate.reason else ""
    best = ", the best" if candidate.trial == view.best else ""
    line(f"trial {candidate.trial} of {view.name}{best}: {candidate.status}{reason}")
    line(f"scored   {format_rung(candidate.rung)}; proposed by {candidate.origin}")
    line(f"limits   {view.budget.describe(view.metric)}")
    for warned in view.warnings:
        line(f"warning  {warned.message}")
    line(f"plan     {describe_plan(view.layers, candidate.plan, view.techniques)}")
    if candidate.best is not None:
        line(f"applied  {summarise(candidate.receipts) or 'nothing'}")
        line("")
        print_table(("", "original", f"trial {candidate.trial}", "change", ""), [
            (*compare(title_of(name, view.targets, view.metric) + (", validation" if name == view.metric.name else ""),
                      name, view.baseline.get(name), candidate.metrics[name], view.metric)[:3],
             _change(view, candidate, name),
             describe_source(name, candidate.metrics, view.source(name, candidate)))
            for name in in_order(candidate.metrics, view.metric)
        ])
    rows = [row for row in layer_rows(view, candidate) if row["kind"] != "norm"]  # they fold into their neighbours
    if rows:
        line("")
        print_table(("layer", "kind", "in", "out", "bits", "factors", "bytes", "note"), [_cells(row) for row in rows])
    attribution = _attribution(view, candidate)
    if attribution is not None and candidate.plan is not None:
        line("")
        print_table(technique_heads(view.metric), technique_rows(attribution, view.metric))
        line("")
        print_table(STEP_HEADS, step_rows(attribution, candidate.plan, view.layers, view.techniques))
        line("")
        line(HINT)
    levels = agreement(view)
    if levels.correlations:
        line("")
        print_table(agreement_heads(levels), agreement_rows(levels))


def _change(view: StudyView, candidate: Candidate, metric: str) -> str:
    """Against the original; of a measured latency, only where the two files were timed together."""
    from autocompress.cli.summary import compare
    from autocompress.report.text import format_speedup

    if metric.startswith(LATENCY) and view.source(metric, candidate) == "measured":
        return format_speedup(view.timed_together(candidate.trial))
    return compare("", metric, view.baseline.get(metric), candidate.metrics[metric], view.metric)[3]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    def change(before: int, after: int) -> str:
        return str(before) if before == after else f"{before}→{after}"

    bits = f"{row['weight_bits']}w/{row['activation_bits']}a"
    return (row["layer"], row["kind"], change(row["in_before"], row["in_after"]),
            change(row["out_before"], row["out_after"]), bits, f"{row['method']} {row['rank']}".strip(),
            "" if row["bytes"] is None else f"{row['bytes']:,}", row["note"])
