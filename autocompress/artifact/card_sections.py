"""Sections of the model card beside its figures: who pays, how robust, what bought it, how it is used, whose it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from autocompress.core.attribution import Attribution
from autocompress.core.metric import Metric
from autocompress.quantities import format_percent
from autocompress.report.attribution_tables import HINT, technique_heads, technique_rows

# Classes in the card's table, those that lose most; the manifest has all.
SHOWN_CLASSES = 10
TO_FILL_IN = "*not said: export with `{flag}`*"


def by_class(quality: dict[str, Any]) -> str:
    """What each class pays, those that lose most first, and the calibration error; empty where there are no classes."""
    rows = sorted(quality.get("classes", []), key=lambda row: (row["file"] - row["original"], row["class"]))
    if not rows:
        return ""
    table = _table(("class", "samples", "original", "this file", "change"), [
        (row["class"], str(row["samples"]), format_percent(row["original"]), format_percent(row["file"]),
         f"{100 * (row['file'] - row['original']):+.1f} points") for row in rows[:SHOWN_CLASSES]])
    rest = f" The other {len(rows) - SHOWN_CLASSES} are in `manifest.json`." if len(rows) > SHOWN_CLASSES else ""
    errors = quality.get("calibration_error") or {}
    calibrated = "" if not errors else (
        f"\n\nProbabilities are off by {format_percent(errors['file'])} on average (expected calibration error, 15 "
        f"bins), those of\nthe original by {format_percent(errors['original'])}.")
    return f"""
## Who pays

Share of the test samples of each class that are answered rightly, classes that lose most first.{rest}

{table}{calibrated}
"""


def robustness(quality: dict[str, Any], metric: Metric) -> str:
    """The metric on disturbed samples; empty where none was measured."""
    disturbed = quality.get("robustness") or {}
    if not disturbed:
        return ""
    rows = [(row["disturbance"], metric.format(row["original"]), metric.format(row["file"]))
            for row in disturbed["rows"]]
    return f"""
## Disturbed inputs

{metric.words} on {disturbed["samples"]} test samples.

{_table(("disturbance", "original", "this file"), rows)}
"""


def watermark(facts: dict[str, Any] | None, metric: Metric) -> str:
    """What the mark of the owner costs; empty where there is none."""
    if not facts:
        return ""
    rows = [(one.words, one.format(facts["without"][one.name]), one.format(facts["with"][one.name]))
            for one in metric.every]
    return f"""
## Watermark

{facts["moved"]:,} of {facts["weights"]:,} integer weights were moved by one level, so that they bear a mark of the
owner. Another key than the owner's shows as much with a probability below 2^{facts["chance_exponent"]:.0f}.

{_table(("on the test split", "without it", "this file"), rows)}
"""


def attribution(document: dict[str, Any] | None, metric: Metric) -> str:
    """What each technique bought; empty where no search found that out."""
    if document is None:
        return ""
    shares = technique_rows(msgspec.convert(document, Attribution), metric)
    return f"""
## What each technique bought

{_table(technique_heads(metric), shares)}

{HINT}
"""


def use(encrypted: bool) -> str:
    """How it is verified and used with autocompress."""
    keys = " --decrypt secret.key" if encrypted else ""
    key = ', decrypt="secret.key"' if encrypted else ""
    return f"""
## With autocompress

```
autocompress verify .{keys}
autocompress predict . INPUT…{keys}
```

```python
import autocompress

network = autocompress.load("."{key})
print({{name: facts.shape for name, facts in network.inputs.items()}})  # call it with such arrays
```
"""


def words(licence: str, intended_use: str) -> str:
    """The licence and the intended use, or how they are filled in."""
    return f"""
## Licence and intended use

* Licence: {licence or TO_FILL_IN.format(flag="--licence TEXT")}
* Intended use: {intended_use or TO_FILL_IN.format(flag="--intended-use TEXT")}
"""


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; a cell cannot end its row."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in row)} |" for row in lines)
