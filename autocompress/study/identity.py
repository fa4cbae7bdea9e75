"""What a study is called, what it is of, and its description: what a resumed one must agree with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from autocompress.core.budget import Budget
from autocompress.core.evaluation import Metrics
from autocompress.errors import InputError
from autocompress.search.storage_urls import shown_url
from autocompress.space.spec import SpaceSpec
from autocompress.study.folder import (
    DESCRIPTION,
    Description,
    absolute,
    is_described,
    read_description,
    write_description,
)
from autocompress.study.options import PREPARATION, Options
from autocompress.study.workbench import Workbench
from autocompress.tasks.classification.metric import ACCURACY
from autocompress.tasks.models import LoadedModel
from autocompress.tasks.splits import TaskData


def default_name(loaded: LoadedModel, task: TaskData, asked: Options) -> str:
    """Made of the network, the data and the size."""
    stem = loaded.name if loaded.name.endswith(task.name) else f"{loaded.name}-{task.name}"
    return f"{stem}-{asked.budget}" if asked.budget is not None else stem


def identity_of(loaded: LoadedModel, task: TaskData, spec: SpaceSpec, profile: str, seed: int,
                budget: Budget) -> dict[str, Any]:
    """What must be the same to go on with a study."""
    return {
        "model": loaded.fingerprint, "data": task.fingerprint, "profile": profile, "seed": seed,
        "space": hashlib.sha256(msgspec.json.encode(spec, order="sorted")).hexdigest()[:16],
        "budget": _exact(budget),
    }


def _exact(budget: Budget) -> str:
    """Every bound with all its digits: what people read is rounded, and two budgets may read alike."""
    bounds = budget.bounds | ({} if budget.max_drop is None else {"max_drop": budget.max_drop})
    return ", ".join(f"{name} ≤ {bound!r}" for name, bound in bounds.items()) or "no bound"


def older_identity(identity: dict[str, Any], folder: Path, budget: Budget) -> dict[str, Any] | None:
    """The identity as earlier releases stored it, with the budget as rounded text; only where `study.json`, which has
    the exact values, has the same budget."""
    same = is_described(folder) and read_description(folder).budget == budget
    return {**identity, "budget": budget.describe(ACCURACY)} if same else None


def stored_name(asked: Options, folder: Path, name: str) -> str:
    """The name under which a study to be resumed is stored. InputError when another is asked for."""
    if not asked.resume or not (folder / DESCRIPTION).exists():
        return name
    stored = read_description(folder).name
    if asked.name is not None and name != stored:
        raise InputError(f"{folder} holds study {stored!r}: resume it without --name, or choose another --out")
    return stored


def describe(folder: Path, name: str, asked: Options, constraints: Budget, bench: Workbench, baseline: Metrics,
             identity: dict[str, Any], timings: dict[str, float],
             unpaying: frozenset[str] = frozenset()) -> Description:
    """Write `study.json`; a resumed study keeps what it exported."""
    before = read_description(folder) if (folder / DESCRIPTION).exists() else None
    description = Description(
        name=name,
        storage=shown_url(asked.storage or ""),
        seed=asked.seed,
        space=absolute(asked.space),
        profile=absolute(asked.profile) if isinstance(asked.profile, str) else tuple(map(absolute, asked.profile)),
        targets=tuple(device.id for device in bench.evaluator.profile.targets),
        epochs=asked.epochs,
        effort=asked.effort,
        sampler=asked.sampler if isinstance(asked.sampler, str) else "auto",
        trials=asked.trials,
        budget=constraints,
        metric=bench.network.data.metric,
        baseline=before.baseline if before else baseline,
        sources=dict(bench.evaluator.sources),
        table=bench.network.table,
        refused=bench.network.refused,
        given=_given(asked),
        timings=timings,
        fingerprints={k: str(identity[k]) for k in ("model", "data", "space", "profile")},
        artifact=before.artifact if before else None,
        attribution=before.attribution if before else None,
        sensitivities=before.sensitivities if before else {},
        from_study=_start(asked, before),
        unpaying=tuple(sorted(unpaying)),
    )
    write_description(folder, description)
    return description


def kept_float(asked: Options, folder: Path, measure: Callable[[], frozenset[str]]) -> frozenset[str]:
    """Layers whose activations stay float: those of the study that is resumed, whose space has them, or as measured."""
    if asked.resume and is_described(folder):
        return frozenset(read_description(folder).unpaying)
    return measure()


def _start(asked: Options, before: Description | None) -> str:
    if asked.from_study is not None:
        return str(asked.from_study.absolute())
    return before.from_study if before else ""


def _given(asked: Options) -> dict[str, Any]:
    def spec(value: Any) -> str | None:
        return absolute(value) if isinstance(value, str) else None

    def plain(value: Any) -> Any:
        return value if value is None or isinstance(value, str | int | float) else [float(v) for v in value]

    def path(value: os.PathLike[str] | None) -> str | None:
        return None if value is None else str(Path(value).absolute())

    return {"default": asked.model is None, "model": spec(asked.model), "data": spec(asked.data),
            "weights": path(asked.weights),
            "weights_key": asked.weights_key, "data_root": path(asked.data_root),
            **{name: plain(getattr(asked, name)) for name in PREPARATION}}
