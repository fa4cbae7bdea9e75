"""The layout of `study.json` in earlier releases, and how identities of studies were stored there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from autocompress.core.budget import Budget
from autocompress.errors import InputError
from autocompress.search.efforts import DEFAULT_EFFORT, EFFORTS
from autocompress.space.spec import FORMER_ROUNDINGS, SpaceSpec
from autocompress.study.setting_kinds import ANY_DEVICE, NUMBERS
from autocompress.study.settings import SETTINGS
from autocompress.tasks.classification.metric import ACCURACY

_PLACES = ("seed", "space", "profile", "epochs", "effort", "sampler")
# What says which network and data: in older files beside one another under `given`.
_OF_THE_TASK = [name for name, setting in SETTINGS.items() if setting.owner in ("network", "data")]
_BOUNDS = {"budget": "size_bytes", "macs": "macs", "peak_memory": "peak_memory_bytes", "max_drop": "max_drop"}


def from_version_1(document: dict[str, Any]) -> dict[str, Any]:
    """The document of version 2 of one of version 1, in which settings stood beside what was measured."""
    document = dict(document)
    settings = {name: document.pop(name) for name in _PLACES if name in document}
    settings |= {name: value for name in ("storage", "from_study") if (value := document.pop(name, ""))}
    effort = EFFORTS.get(settings.get("effort", DEFAULT_EFFORT), EFFORTS[DEFAULT_EFFORT])
    settings["trials"] = document.pop("trials", 0) or effort.trials  # older files do not say how many
    former = document.pop("given", None) or {}
    settings |= {name: _value(former[name], name) for name in _OF_THE_TASK if former.get(name) is not None}
    default = former.get("default", True)
    objects = [] if default else [name for name in ("model", "data") if former.get(name) is None]
    settings |= _bounds(document.get("budget"), document.get("targets") or [])
    document["sensitivities"] = document.pop("harms", {})
    if isinstance(attribution := document.get("attribution"), dict):
        document["attribution"] = attribution | {"steps": [_with_sensitivity(step)
                                                           for step in attribution.get("steps", [])]}
    return {**document, "version": 2, "settings": settings, "objects": objects}


def _with_sensitivity(step: Any) -> Any:
    if not isinstance(step, dict) or "harm" not in step:
        return step
    return {**{key: value for key, value in step.items() if key != "harm"}, "sensitivity": step["harm"]}


def _value(value: Any, name: str) -> Any:
    """A setting's value; numbers for each channel were text."""
    if SETTINGS[name].kind is not NUMBERS:
        return value
    try:
        return list(SETTINGS[name].kind.parse(value, name))
    except InputError:
        return value  # reading it says what is wrong with it


def _bounds(budget: Any, targets: Any) -> dict[str, Any]:
    if not isinstance(budget, dict):
        return {}
    bounds = {name: budget[metric] for name, metric in _BOUNDS.items() if budget.get(metric) is not None}
    latency = dict(budget.get("further_latency_ms") or {})
    if budget.get("latency_ms") is not None:
        latency[targets[0] if targets else ANY_DEVICE] = budget["latency_ms"]
    return bounds | ({"latency": latency} if latency else {})


def former_identities(spec: SpaceSpec, budget: Budget, stored: Budget | None) -> Mapping[str, list[str]]:
    """What the fields of an identity were in earlier releases, for the same values: budgets were text, once with all
    digits and before that rounded, which counts where `stored`, the budget in `study.json`, is the same; spaces were
    hashed with the former names of rounding methods, and with the values of what is measured now."""
    bounds = budget.bounds | ({} if budget.max_drop is None else {"max_drop": budget.max_drop})
    exact = ", ".join(f"{name} ≤ {bound!r}" for name, bound in bounds.items()) or "no bound"
    return {"budget": [exact, *([budget.describe(ACCURACY)] if stored == budget else [])],
            "space": [space_hash(former) for former in _former_spaces(spec)]}


def space_hash(spec: SpaceSpec) -> str:
    """Hash of the values of a space."""
    return hashlib.sha256(msgspec.json.encode(spec, order="sorted")).hexdigest()[:16]


def _former_spaces(spec: SpaceSpec) -> list[SpaceSpec]:
    if spec.quantize is None:
        return [spec]
    former = {present: name for name, present in FORMER_ROUNDINGS.items()}
    roundings = tuple(former.get(name, name) for name in spec.quantize.roundings)
    unmeasured = spec.quantize.with_measured({})
    return [msgspec.structs.replace(spec, quantize=quantize)
            for quantize in (unmeasured, msgspec.structs.replace(unmeasured, roundings=roundings))]
