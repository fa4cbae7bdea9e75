"""The results as Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import msgspec
from contenders import CONTENDERS, OURS
from measures import Results, Row

from autocompress.quantities import format_bytes

MOMENTS = tuple(step / 8 for step in range(1, 9))
"""Shares of the time at which hypervolume is shown."""


def page(files: Sequence[Path]) -> str:
    """Everything measured so far."""
    lines = ["# Searchers beside one another", "",
             "Every contender proposes plans of one space, and each plan is evaluated in the same way: its calibrated "
             "file, no training, in ONNX Runtime on validation images; bytes are those of the file, latency is "
             "estimated with the rates of the profile `host`, so that nothing is timed. The clock counts seconds of "
             "processor of one process with one thread, everything included that is the contender's own: asking, "
             "sensitivity table, evaluations. Tracing, export of the original and statistics of the calibration data "
             "are made beforehand for all; rounded layers and the table are nobody's but the run's that made them. A "
             f"shared machine of {os.cpu_count()} cores, {platform.machine()}.", "",
             "Hypervolume is of validation error, logarithm of bytes and logarithm of latency, files inside the budget "
             "only: the share of the box between the reference point and no error at the least bytes and latency of "
             "the space. Test accuracies are of the file that is most accurate on validation images within the size, "
             "rebuilt. *projected*: plans are moved into the budget, and up to it, along the moves that the "
             "table calls least harmful, before they are evaluated; *sized*: into a size within it that the "
             "sampler chooses as one knob more; otherwise the budget is a constraint that the "
             "sampler learns from (random search cannot). Contenders that draw nothing ran once; they take "
             "sizes ever finer between the budget and the smallest that can be reached. Nobody is told the further "
             "sizes at which files are judged. Mean over the seeds; in brackets least and most.", ""]
    for path in files:
        lines += section(msgspec.json.decode(path.read_bytes(), type=Results))
    return "\n".join(lines)


def section(runs: Results) -> list[str]:
    """One network."""
    box, original = runs.box, runs.original
    seeds = sorted({row.seed for row in runs.rows})
    lines = [f"## {runs.network}", "",
             f"`{command(runs, seeds)}`", "",
             f"Original {100 * original['accuracy']:.2f}% on {runs.images} validation images, "
             f"{format_bytes(original['size_bytes'])}, {original['latency_ms']:.3f} ms. Space `{runs.space}`, budget "
             f"{format_bytes(runs.sizes[0])}. Box: error {box.error:g} to 0, {format_bytes(box.size_bytes[1])} to "
             f"{format_bytes(box.size_bytes[0])}, {box.latency_ms[1]:.3f} to {box.latency_ms[0]:.3f} ms.", ""]
    head = ["contender", "seeds", "files", "inside %", "not evaluating %", "hypervolume",
            *(f"test % at {format_bytes(size)}" for size in runs.sizes)]
    lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    probes = [row.probe_s for row in runs.rows]
    by_name = {name: rows for name in CONTENDERS if (rows := [r for r in runs.rows if r.contender == name])}
    for name, rows in by_name.items():
        idle = [100 * (1 - r.evaluating_s / r.spent_s) for r in rows]
        inside = [100 * r.inside / max(r.evaluated, 1) for r in rows]
        cells = [name, str(len(rows)), _mean([r.evaluated for r in rows], "{:.0f}"), _mean(inside, "{:.0f}"),
                 _mean(idle, "{:.0f}")]
        cells.append(_mean([r.hypervolume(runs.seconds) for r in rows], "{:.3f}", spread=True))
        cells += [_accuracy(rows, size) for size in runs.sizes]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", f"How steady the machine was: one evaluation, the same before every run, took "
              f"{_mean(probes, '{:.1f}', spread=True)} s."]
    lines += ["", runs.note] if runs.note else []
    return [*lines, "", *_verdict(runs, by_name), *_curves(runs, by_name), *_trained(runs, by_name)]


def command(runs: Results, seeds: Sequence[int]) -> str:
    """How to measure it again."""
    base = "" if runs.network == "digits" else " --base DIR"
    sizes = " ".join(format_bytes(size).replace(" ", "") for size in runs.sizes)
    return (f"OMP_NUM_THREADS=1 python benchmarks/search --network {runs.network}{base} --seconds {runs.seconds:g} "
            f"--images {runs.images} --sizes {sizes} --space {runs.space} --seeds {' '.join(map(str, seeds))}")


def _verdict(runs: Results, by_name: dict[str, list[Row]]) -> list[str]:
    """Ours beside the best of the others."""
    final = {name: sum(r.hypervolume(runs.seconds) for r in rows) / len(rows) for name, rows in by_name.items()}
    others = {name: value for name, value in final.items() if name != OURS}
    if OURS not in by_name or not others or not max(others.values()):
        return []
    best = max(others, key=others.__getitem__)
    ours = by_name[OURS]
    ratios = [row.hypervolume(runs.seconds) / others[best] for row in ours]
    reached = [row.reached(others[best]) for row in ours]
    there = [seconds for seconds in reached if seconds <= runs.seconds]
    text = (f"Final hypervolume of ours over that of the best other ({best}): {_mean(ratios, '{:.3f}', spread=True)}. "
            f"{len(there)} of {len(ours)} runs reach {others[best]:.3f}")
    text += f", after {_mean(there, '{:.0f}', spread=True)} of {runs.seconds:g} s." if there else "."
    tables = [row.table_s for row in ours]
    return [text + f" The sensitivity table takes {_mean(tables, '{:.0f}')} s of that.", ""]


def _curves(runs: Results, by_name: dict[str, list[Row]]) -> list[str]:
    """How hypervolume rises, and what all runs come to together: what there was to be found."""
    lines = ["Hypervolume over seconds of processor, mean over the seeds:", "",
             "| contender | " + " | ".join(f"{share * runs.seconds:g} s" for share in MOMENTS) + " |",
             "|---" * (1 + len(MOMENTS)) + "|"]
    for name, rows in by_name.items():
        rising = (_mean([r.hypervolume(share * runs.seconds) for r in rows], "{:.3f}") for share in MOMENTS)
        lines.append(f"| {name} | " + " | ".join(rising) + " |")
    ours = by_name.get(OURS, [])
    others = [row for name, rows in by_name.items() if name != OURS for row in rows]
    all_, of_ours, of_others = (runs.box.hypervolume([p for row in rows for p in row.points])
                                for rows in (runs.rows, ours, others))
    return [*lines, "", f"Of the files of all runs together: {all_:.3f}; of the {len(ours)} of ours {of_ours:.3f}, of "
            f"the {len(others)} of the others {of_others:.3f}.", ""]


def _trained(runs: Results, by_name: dict[str, list[Row]]) -> list[str]:
    """What distillation made of the files, at the sizes where it was asked for."""
    lines = []
    for size in runs.sizes:
        scores = {name: [p.trained for r in rows for p in r.picks if p.limit == size and p.trained is not None]
                  for name, rows in by_name.items()}
        if any(scores.values()):
            lines += [f"After {runs.seconds:g} more seconds of distillation of the file of "
                      f"{format_bytes(size)}:", "", "| contender | test % |", "|---|---|"]
            lines += [f"| {name} | {_mean([100 * a for a in found_], '{:.2f}', spread=True)} |"
                      for name, found_ in scores.items() if found_]
            lines.append("")
    return lines


def _accuracy(rows: Sequence[Row], size: int) -> str:
    picked = [100 * p.test for r in rows for p in r.picks if p.limit == size]
    missing = f", none in {len(rows) - len(picked)}" if picked and len(picked) < len(rows) else ""
    return _mean(picked, "{:.1f}", spread=True) + missing


def _mean(values: Sequence[float], form: str, spread: bool = False) -> str:
    if not values:
        return "–"
    text = form.format(sum(values) / len(values))
    return text + f" ({form.format(min(values))}..{form.format(max(values))})" if spread and len(values) > 1 else text
