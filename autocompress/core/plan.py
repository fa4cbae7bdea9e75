"""Plans, the frozen sets of steps of candidates, and receipts, the outcomes of steps."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import msgspec

Scalar = int | float | str


class Step(msgspec.Struct, frozen=True):
    """One decision: a technique is applied at a site.

    Args:
        site: the name of a layer, group or block of the original network.
        technique: the name of the technique.
        args: plain arguments by name, such as `weight_bits`; the technique says which.
    """

    site: str
    technique: str
    args: dict[str, Scalar]


class Plan(msgspec.Struct, frozen=True, dict=True):
    """A compression plan: steps in canonical order, at most one for each pair of technique and site.

    Build it with `Plan.of`, which sorts; two plans of the same steps have the same fingerprint.

    Attributes:
        steps: sorted by technique and site.
    """

    steps: tuple[Step, ...] = ()

    @classmethod
    def of(cls, steps: list[Step] | tuple[Step, ...]) -> Plan:
        """A plan of steps in any order.

        Args:
            steps: at most one for each pair of technique and site.

        Raises:
            ValueError: where one site has two steps of one technique.
        """
        ordered = tuple(sorted(steps, key=lambda step: (step.technique, step.site)))
        keys = [(step.technique, step.site) for step in ordered]
        if len(set(keys)) != len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"a site takes one step of a technique, but {twice[1]!r} has two of {twice[0]!r}")
        return cls(ordered)

    @cached_property
    def fingerprint(self) -> str:
        """The content hash of the canonical JSON, which is the key of every cache."""
        return hashlib.sha256(msgspec.json.encode(self.steps, order="sorted")).hexdigest()[:16]

    def find(self, technique: str) -> dict[str, Step]:
        """The steps of one `technique` by site."""
        return {step.site: step for step in self.steps if step.technique == technique}


class Receipt(msgspec.Struct, frozen=True):
    """The outcome of one step: kept channels, ranks, quantisation error, ranges.

    Args:
        site: of the step; empty for what was done to the whole network, such as training.
        technique: of the step.
        facts: plain values by name; the technique says which.
    """

    site: str
    technique: str
    facts: dict[str, Any]
