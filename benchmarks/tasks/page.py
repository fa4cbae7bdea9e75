"""The rows of the benchmark as Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import Any

from subject import Subject

QUARTER = 0.25
SHARES = (QUARTER, 0.1)


def shown(figure: dict[str, Any] | None, unit: str) -> str:
    """A value with its standard error, in the unit of its metric."""
    if figure is None:
        return "–"
    factor, digits = (100, 1) if unit == "%" else (1, 2 if unit else 4)
    return f"{factor * figure['value']:.{digits}f} ± {factor * figure['error']:.{digits}f}"


def gain(row: dict[str, Any], other: str, subject: Subject) -> float:
    """How much better ours is than another file, in the metric; below 0 where it is worse."""
    difference: float = row["ours"]["value"] - row[other]["value"]
    return difference if subject.higher_is_better else -difference


def shortfalls(rows: Sequence[dict[str, Any]], subjects: dict[str, Subject]) -> list[str]:
    """Where ours falls short of the goal, one line each."""
    lines = []
    for row in rows:
        subject, where = subjects[row["network"]], f"{row['network']} at {row['share']:g}"
        if "ours" not in row:
            lines.append(f"* {where}: no file (exit {row['exit']}).")
            continue
        if row["share"] == QUARTER and gain(row, "float", subject) < -row["float"]["error"]:
            lines.append(f"* {where}: more than one standard error from the original.")
        if "int8" in row and gain(row, "int8", subject) < 0:
            lines.append(f"* {where}: int8 is ahead ({shown(row['int8'], subject.unit)} {subject.unit} in "
                         f"{row['int8']['bytes']:,} bytes).")
        if "int8" in row and row["ours"]["bytes"] > row["int8"]["bytes"]:
            lines.append(f"* {where}: int8 is smaller.")
    return lines


def line(row: dict[str, Any], subject: Subject) -> str:
    """One row of the table."""
    whole, integer, ours = row["float"], row.get("int8"), row.get("ours")

    def size(figure: dict[str, Any] | None) -> str:
        return "–" if figure is None else f"{figure['bytes']:,}"

    def ratio(figure: dict[str, Any] | None) -> str:
        return "–" if figure is None else f"{figure['ms'] / whole['ms']:.2f}"

    cells = [f"{row['network']}, {row['share']:g}", subject.metric, shown(whole, subject.unit),
             shown(integer, subject.unit), f"**{shown(ours, subject.unit)}**", size(whole), size(integer), size(ours),
             ratio(integer), ratio(ours), f"{row['seconds']} of {row['timeout']}, {row['processor_seconds']}",
             str(sum(row["trials"].values())) if "trials" in row else "–", f"{row['peak_rss_mb']:,}", str(row["load"])]
    return f"| {' | '.join(cells)} |"


def page(rows: Sequence[dict[str, Any]], subjects: Sequence[Subject]) -> str:
    """The page."""
    named = {subject.name: subject for subject in subjects}
    lines = [
        "# One network of each kind", "",
        "`python benchmarks/tasks --packages DIR --shared DIR`: a row is one `autocompress search --budget BYTES "
        f"--timeout TIME`, seed 0. Machine class: {os.cpu_count()} cores, {platform.machine()}, no GPU, shared "
        "with other work: the load is that of the machine when the search ended, and the seconds of processor are "
        "what the search had of its time. Metrics are of the file in ONNX Runtime on test samples that no search "
        "saw, computed by the benchmark and not by the product, with their standard errors by bootstrap over "
        "samples. int8 is `onnxruntime.quantization` of a plain `torch.onnx.export`, weights per channel: static "
        "(uint8 activations, 128 samples), dynamic for transformers and recurrent networks. Times are processor "
        "time of one sample and thread, files taking turns, as a ratio to the plain export's.", "",
        "| network, share | metric | original | int8 | ours | bytes: original | int8 | ours | time: int8 | ours | "
        "seconds, of processor | trials | peak RSS, MB | load |", "|---" * 14 + "|"]
    lines += [line(row, named[row["network"]]) for row in rows]
    lines += ["", "The goal: at a quarter of the bytes within one standard error of the original, and ahead of int8 at "
              "the same or fewer bytes everywhere. What falls short:", ""]
    lines += shortfalls(rows, named) or ["* nothing."]
    odd = [f"* {row['network']} at {row['share']:g}: {row['int8_failure']}" for row in rows if row["int8_failure"]]
    lines += ["", "int8 could not be made:", "", *odd] if odd else []
    ahead = [f"{row['network']} at {row['share']:g}" for row in rows if "ours" in row and "int8" in row
             and gain(row, "int8", named[row["network"]]) > row["float"]["error"]]
    lines += ["", "Differences of less than a standard error tell nothing. By more than that ours is ahead of int8 in: "
              f"{', '.join(ahead) or 'no row; it is smaller, and as good as can be told'}."]
    untrained = [f"{row['network']} at {row['share']:g}" for row in rows
                 if any(warning["code"] == "search-fell-short" for warning in row.get("warnings", []))]
    lines += ["", f"The time ended before any file was trained: {', '.join(untrained)}."] if untrained else []
    there = {row["network"] for row in rows}
    missing = [f"{subject.name} at {share:g}" for subject in subjects for share in SHARES
               if not any((row["network"], row["share"]) == (subject.name, share) for row in rows)]
    lines += ["", f"No row yet: {', '.join(missing)}."] if missing else []
    lines += ["", "| network | kind | what it is |", "|---|---|---|"]
    lines += [f"| {subject.name} | {subject.kind} | {subject.source}{'; ' if subject.note else ''}{subject.note} |"
              for subject in subjects if subject.name in there]
    return "\n".join(lines) + "\n"
