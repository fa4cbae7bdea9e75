"""What each option of each site would cost in accuracy, predicted: the sensitivity table, the input of the solver."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import TypeVar

import msgspec

from autocompress.core.plan import Step

_Size = TypeVar("_Size", int, float)


class Damages(msgspec.Struct, frozen=True, kw_only=True):
    """Predicted harm of each option alone, in nats of KL divergence from the original's answers.

    `prune`: group → channels kept → harm; `bits`: layer → weight bits → harm; `share`: layer → method → share of the
    weights kept → harm. The untouched option is not listed: its harm is nothing. Harm never falls as an option gets
    smaller.
    """

    prune: dict[str, dict[int, float]] = {}
    bits: dict[str, dict[int, float]] = {}
    share: dict[str, dict[str, dict[float, float]]] = {}

    @classmethod
    def of(cls, options: Iterable[tuple[Step, float, float]]) -> Damages:
        """From steps, each with the share of the weights that its factors keep (0 where it has none), and its harm."""
        prune: dict[str, dict[int, float]] = {}
        bits: dict[str, dict[int, float]] = {}
        share: dict[str, dict[str, dict[float, float]]] = {}
        for step, kept, harm in options:
            if step.technique == "prune":
                prune.setdefault(step.site, {})[int(step.args["keep"])] = harm
            elif step.technique == "quantize":
                bits.setdefault(step.site, {})[int(step.args["weight_bits"])] = harm
            else:
                share.setdefault(step.site, {}).setdefault(str(step.args["method"]), {})[kept] = harm
        return cls(prune={site: _monotone(harms) for site, harms in prune.items()},
                   bits={site: _monotone(harms) for site, harms in bits.items()},
                   share={site: {method: _monotone(harms) for method, harms in methods.items()}
                          for site, methods in share.items()})


def _monotone(harms: dict[_Size, float]) -> dict[_Size, float]:
    """Largest option first; less of a layer never harms less: what says so is noise."""
    keys = sorted(harms, reverse=True)
    return dict(zip(keys, accumulate((harms[key] for key in keys), max), strict=True))
