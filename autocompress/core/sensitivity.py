"""The sensitivity table: how much each option of each site is predicted to change the network's answers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from autocompress.core.plan import Scalar, Step
from autocompress.errors import InputError

# The technique and the site of a step.
Decision = tuple[str, str]
# An option of one site, such as `(24,)` channels kept or `("svd", 0.4)`. Its last number says how much is left.
Option = tuple[Scalar, ...]
# Techniques by the fields that earlier releases kept their options in.
FORMER = {"prune": "prune", "bits": "quantize", "share": "decompose"}


class SensitivityTable(msgspec.Struct, frozen=True):
    """The predicted sensitivity of each option alone, in nats of KL divergence from the original's answers.

    Attributes:
        entries: nats by decision (technique and site) and option. An option that leaves its site untouched is not
            listed: it costs nothing. Of options that are alike before their last number, the largest comes first, and a
            smaller one costs no less.
    """

    entries: dict[Decision, dict[Option, float]] = {}

    @classmethod
    def of(cls, options: Iterable[tuple[Step, Option, float]]) -> SensitivityTable:
        """A table of steps.

        Args:
            options: each step with its option and its predicted sensitivity in nats.
        """
        entries: dict[Decision, dict[Option, float]] = {}
        for step, option, nats in options:
            entries.setdefault((step.technique, step.site), {})[option] = nats
        return cls({decision: _monotone(costs) for decision, costs in entries.items()})

    def costs(self, technique: str, site: str) -> dict[Option, float]:
        """The nats of each option of a decision, of a `technique` at a `site`; an empty dict where none was predicted.
        """
        return self.entries.get((technique, site), {})

    def document(self) -> list[dict[str, Any]]:
        """Return the table as plain data, with an entry for each option."""
        return [{"technique": technique, "site": site, "option": list(option), "nats": nats}
                for (technique, site), costs in self.entries.items() for option, nats in costs.items()]

    @classmethod
    def read(cls, document: Any) -> SensitivityTable:
        """Read a table from plain data, as `document` returns it or as earlier releases wrote it.

        Those wrote `prune`, `bits` and `share`, each by site.

        Raises:
            InputError: The document is neither.
        """
        try:
            if isinstance(document, Mapping):
                return cls._read_former(document)
            return cls.of((Step(entry["site"], entry["technique"], {}), tuple(entry["option"]), float(entry["nats"]))
                          for entry in document)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"a sensitivity table must be a list of technique, site, option and nats, but: "
                             f"{error!r}") from None

    @classmethod
    def _read_former(cls, document: Mapping[str, Any]) -> SensitivityTable:
        entries: dict[Decision, dict[Option, float]] = {}
        for field, by_site in document.items():
            for site, costs in by_site.items():
                entries[FORMER[field], site] = (
                    {(method, float(share)): nats for method, shares in costs.items() for share, nats in shares.items()}
                    if field == "share" else {(int(size),): nats for size, nats in costs.items()})
        return cls(entries)


def _monotone(costs: dict[Option, float]) -> dict[Option, float]:
    """Return options from large to small with non-decreasing costs: a smaller option that costs less is noise."""
    kinds = dict.fromkeys(option[:-1] for option in costs)
    result: dict[Option, float] = {}
    for kind in kinds:
        most = -math.inf
        alike = [option for option in costs if option[:-1] == kind]
        for option in sorted(alike, key=lambda option: -float(option[-1])):
            result[option] = most = max(most, costs[option])
    return result
