"""The sensitivity table of a network for one space: every option of every site with its predicted cost."""

from __future__ import annotations

import math

from autocompress.backend.sensitivity.fisher import sensitivities
from autocompress.core.plan import Step
from autocompress.core.sensitivity import SensitivityTable
from autocompress.space.space import Space
from autocompress.study.workbench import Workbench
from autocompress.techniques.base import Option


def sensitivity(bench: Workbench, space: Space, seconds: float = math.inf) -> SensitivityTable:
    """Predict the sensitivity of every option at every site of a space, on the bench's calibration data.

    Args:
        bench: with the original and its compressor.
        space: the knobs.
        seconds: that it may take; where that is too short, it looks at fewer samples, and then at fewer options.

    Returns:
        The table, in nats.

    Raises:
        TrialError: where `seconds` are too short for any option.
    """
    choices = options(space)
    nats = sensitivities(bench.network.compressor, [step for step, _ in choices], seconds)
    return SensitivityTable.of((step, option, cost) for (step, option), cost in zip(choices, nats, strict=True)
                               if not math.isnan(cost))


def options(space: Space) -> list[tuple[Step, Option]]:
    """Steps whose sensitivity is predicted, each with its place in the table: those on groups first, then widths, then
    others.

    Args:
        space: the knobs.
    """
    rows = sorted(space.used, key=lambda row: (row.acts_on != "group", not row.after_training))
    return [option for row in rows for option in row.options(space)]
