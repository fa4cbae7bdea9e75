"""What a study is called, what it is of, and its description: what a resumed one must agree with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from autocompress.core.evaluation import Metrics
from autocompress.errors import InputError
from autocompress.quantities import exact_bytes
from autocompress.space.spec import SpaceSpec
from autocompress.study.folder import DESCRIPTION, Description, is_described, read_description
from autocompress.study.former_layout import former_identities, space_hash
from autocompress.study.own_code import TECHNIQUE_CODE, technique_code
from autocompress.study.request import Request
from autocompress.study.settings import LIMITS, SETTINGS, SearchSettings, listed
from autocompress.tasks.base import Task, metric_of
from autocompress.tasks.models import LoadedModel

if TYPE_CHECKING:
    from autocompress.study.workbench import Workbench

# Settings that are known by a hash of what they name.
BY_CONTENT = ("model", "data", "profile", "space")


def default_name(loaded: LoadedModel, task: Task, settings: SearchSettings) -> str:
    """Made of the network, the data and the size."""
    stem = loaded.name if loaded.name.endswith(task.name) else f"{loaded.name}-{task.name}"
    return f"{stem}-{exact_bytes(settings.budget)}" if settings.budget is not None else stem


def identity_of(loaded: LoadedModel, task: Task, request: Request) -> dict[str, Any]:
    """Values of what must be the same to go on with a study: hashes of the network, the data, the space and the
    profile, the bounds, the seed, and names of what is the user's own."""
    settings = request.settings
    budget = msgspec.to_builtins(request.budget)
    others = [name for name, setting in SETTINGS.items()
              if setting.identity and name not in BY_CONTENT and setting.section != LIMITS]
    values = {name: getattr(settings, name) for name in others}
    return {
        **fingerprints(loaded, task, request),
        "budget": {metric: bound for metric, bound in budget.items() if bound is not None},
        **{name: value if isinstance(value, int) else [label(each) for each in listed(value)]
           for name, value in values.items() if value is not False and (isinstance(value, int) or listed(value))},
    }


def fingerprints(loaded: LoadedModel, task: Task, request: Request) -> dict[str, str]:
    """Hashes of what the settings of `BY_CONTENT` name, and of the code of a user's own techniques."""
    code = technique_code(request)
    return {"model": loaded.fingerprint, "data": task.fingerprint, "profile": request.profile.fingerprint,
            "space": space_hash(request.space), **({TECHNIQUE_CODE: code} if code else {})}


def label(spec: Any) -> str:
    """What an object of the user's own is called: the name behind its file, its `name`, or that of its class."""
    if isinstance(spec, str):
        return spec.rpartition(":")[2]
    name = getattr(spec, "name", None)
    return name if isinstance(name, str) else getattr(spec, "__qualname__", type(spec).__qualname__)


def former_identity(request: Request, folder: Path) -> Mapping[str, list[Any]]:
    """Further values of an identity's fields that stand for the same in what earlier releases stored."""
    stored = read_description(folder).budget if is_described(folder) else None
    return {**former_identities(request.space, request.budget, stored), TECHNIQUE_CODE: [None]}


def stored_name(settings: SearchSettings, folder: Path, name: str) -> str:
    """The name under which a study to be resumed is stored. InputError when another is asked for."""
    if not settings.resume or not (folder / DESCRIPTION).exists():
        return name
    stored = read_description(folder).name
    if settings.name is not None and name != stored:
        raise InputError(f"{folder} holds study {stored!r}: resume it without --name, or choose another --out")
    return stored


def described(name: str, request: Request, hashes: Mapping[str, str], bench: Workbench, baseline: Metrics, *,
              timings: Mapping[str, float], space: SpaceSpec | None = None, unpaying: frozenset[str] = frozenset(),
              before: Description | None = None) -> Description:
    """The description of a study; one that is resumed, described `before`, keeps what it exported and found."""
    settings = request.settings.storable()
    if settings.from_study is None and before is not None:
        settings = msgspec.structs.replace(settings, from_study=before.settings.from_study)
    description = Description(
        name=name, settings=settings, objects=request.settings.objects, budget=request.budget, baseline=baseline,
        sources=dict(bench.evaluator.sources), table=bench.network.table, refused=bench.network.refused,
        fingerprints=dict(hashes), timings=dict(timings), unpaying=tuple(sorted(unpaying)),
        rounding=_measured(request.space, space or request.space),
        targets=tuple(device.id for device in request.profile.targets), metric=metric_of(bench.network.task))
    if before is None:
        return description
    return msgspec.structs.replace(description, baseline=before.baseline, artifact=before.artifact,
                                   attribution=before.attribution, sensitivities=before.sensitivities)


def _measured(spec: SpaceSpec, settled: SpaceSpec) -> dict[str, str]:
    """What was measured of the choices that the space file leaves open."""
    if spec.quantize is None or settled.quantize is None or settled is spec:
        return {}
    return {name: str(settled.quantize.choices[name][0]) for name in spec.quantize.open_choices}


def kept_float(settings: SearchSettings, folder: Path, measure: Callable[[], frozenset[str]]) -> frozenset[str]:
    """Layers whose activations stay float: those of the study that is resumed, whose space has them, or as measured."""
    if settings.resume and is_described(folder):
        return frozenset(read_description(folder).unpaying)
    return measure()
