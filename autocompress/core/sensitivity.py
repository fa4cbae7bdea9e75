"""What each option of each site would cost, predicted: the sensitivity table, the input of the solver."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import TypeVar

import msgspec

from autocompress.core.plan import Step

_Size = TypeVar("_Size", int, float)


class SensitivityTable(msgspec.Struct, frozen=True, kw_only=True):
    """Predicted sensitivity of each option alone, in nats of KL divergence from the original's answers.

    `prune`: group → channels kept → sensitivity; `bits`: layer → weight bits → sensitivity; `share`: layer → method →
    share of the
    weights kept → sensitivity. The untouched option is not listed: its sensitivity is nothing. Harm never falls as an
    option gets
    smaller.
    """

    prune: dict[str, dict[int, float]] = {}
    bits: dict[str, dict[int, float]] = {}
    share: dict[str, dict[str, dict[float, float]]] = {}

    @classmethod
    def of(cls, options: Iterable[tuple[Step, float, float]]) -> SensitivityTable:
        """From steps, each with the share of the weights that its factors keep (0 where it has none), and its
        sensitivity."""
        prune: dict[str, dict[int, float]] = {}
        bits: dict[str, dict[int, float]] = {}
        share: dict[str, dict[str, dict[float, float]]] = {}
        for step, kept, sensitivity in options:
            if step.technique == "prune":
                prune.setdefault(step.site, {})[int(step.args["keep"])] = sensitivity
            elif step.technique == "quantize":
                bits.setdefault(step.site, {})[int(step.args["weight_bits"])] = sensitivity
            else:
                share.setdefault(step.site, {}).setdefault(str(step.args["method"]), {})[kept] = sensitivity
        return cls(prune={site: _monotone(sensitivities) for site, sensitivities in prune.items()},
                   bits={site: _monotone(sensitivities) for site, sensitivities in bits.items()},
                   share={site: {method: _monotone(sensitivities) for method, sensitivities in methods.items()}
                          for site, methods in share.items()})


def _monotone(sensitivities: dict[_Size, float]) -> dict[_Size, float]:
    """Largest option first; less of a layer never sensitivities less: what says so is noise."""
    keys = sorted(sensitivities, reverse=True)
    return dict(zip(keys, accumulate((sensitivities[key] for key in keys), max), strict=True))
