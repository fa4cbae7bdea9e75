"""The sensitivity table of a network for one space: which options there are, and what each would do to it."""

from __future__ import annotations

import math

from autocompress.backend.sensitivity.fisher import sensitivities
from autocompress.core.plan import Step
from autocompress.core.sensitivity import SensitivityTable
from autocompress.space.space import Space
from autocompress.study.workbench import Workbench
from autocompress.techniques.base import Option


def sensitivity(bench: Workbench, space: Space, seconds: float = math.inf) -> SensitivityTable:
    """Predict the sensitivity, in nats, of every option that `space` has at every site, on the bench's calibration
    data; of fewer options, on fewer samples, where `seconds` are too short.

    Raises:
        TrialError: where they are too short for any.
    """
    choices = options(space)
    nats = sensitivities(bench.network.compressor, [step for step, _ in choices], seconds)
    return SensitivityTable.of((step, option, cost) for (step, option), cost in zip(choices, nats, strict=True)
                               if not math.isnan(cost))


def options(space: Space) -> list[tuple[Step, Option]]:
    """Steps whose sensitivity is predicted, each with its place in the table: numbers of channels, then widths, then
    what else there is."""
    rows = sorted(space.used, key=lambda row: (row.acts_on != "group", not row.after_training))
    return [option for row in rows for option in row.options(space)]
