"""What a search is asked to do, checked before anything expensive starts."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec

from autocompress.core.budget import Budget
from autocompress.errors import InputError
from autocompress.hardware.fields import meant
from autocompress.quantities import parse_bytes, parse_count, parse_fraction, parse_milliseconds, parse_seconds
from autocompress.search.fidelity import DEFAULT_EFFORT, EFFORTS
from autocompress.tasks.cache import from_home
from autocompress.tasks.preparation import asked_preparation

PREPARATION = ("image_size", "resize", "crop", "mean", "std", "inputs")
"""Options that say how stored inputs become what the network is fed."""


@dataclass(frozen=True)
class Options:
    """Arguments of `autocompress.search`, see there. Values with units may be text or numbers.

    `task`, `format`, `techniques`, `executor` and `sampler` may be a user's own: objects, or the text
    `path/to/file.py:name`, which `tasks.factory.load_object` makes an object of.
    """

    model: Any = None
    data: Any = None
    budget: str | float | None = None
    weights: Path | None = None
    weights_key: str | None = None
    profile: str | Sequence[str] = "host"
    space: str = "default"
    latency: str | float | Sequence[str | float] | Mapping[str, str | float] | None = None
    macs: str | float | None = None
    peak_memory: str | float | None = None
    max_drop: str | float | None = None
    task: Any = None
    format: Any = None
    techniques: Any = ()
    executor: Any = None
    sampler: Any = "auto"
    effort: str = DEFAULT_EFFORT
    trials: int = EFFORTS[DEFAULT_EFFORT].trials
    epochs: int = EFFORTS[DEFAULT_EFFORT].epochs
    timeout: str | float | None = None
    trial_timeout: str | float | None = None
    seed: int = 0
    jobs: int = 1
    out: Path | None = None
    name: str | None = None
    storage: str | None = None
    resume: bool = False
    force_new_study: bool = False
    trust_code: bool = True
    device: str = "auto"
    data_root: Path | None = None
    image_size: int | None = None
    resize: int | None = None
    crop: float | None = None
    mean: str | float | Sequence[float] | None = None
    std: str | float | Sequence[float] | None = None
    inputs: str | None = None
    from_study: Path | None = None
    seconds: float | None = field(init=False, default=None)
    trial_seconds: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        for name in ("weights", "out", "data_root", "from_study"):  # from Python a path may come as text
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(from_home(str(getattr(self, name)))))
        for name in ("model", "data"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, from_home(getattr(self, name)))
        object.__setattr__(self, "techniques", _all(self.techniques))
        if not isinstance(self.profile, str):
            names = tuple(self.profile) if isinstance(self.profile, list | tuple) else ()
            if not names or not all(isinstance(name, str) for name in names):
                raise InputError(f"profile must be a name or a .toml file, or a list of them, but got {self.profile!r}")
            object.__setattr__(self, "profile", names[0] if len(names) == 1 else names)
        for name, least in (("trials", 1), ("epochs", 1), ("jobs", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{name} must be a whole number of at least {least}, but got {value!r}")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise InputError(f"seed must be a whole number from 0 to 2**32 - 1, but got {self.seed!r}")
        if self.resume and self.force_new_study:
            raise InputError("resume and force_new_study exclude each other: go on with a study, or start afresh")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise InputError(f"device must be auto, cpu or cuda, but got {self.device!r}")
        if self.timeout is not None:
            object.__setattr__(self, "seconds", parse_seconds(self.timeout, "timeout"))
        if self.trial_timeout is not None:
            object.__setattr__(self, "trial_seconds", parse_seconds(self.trial_timeout, "trial timeout"))
        if self.model is None and self.data not in (None, "digits"):
            raise InputError(f"data {self.data!r} needs a model: give one such as torchvision:resnet18 with its "
                             "weights, or path/to/file.py:factory")
        if self.model is None and self.weights is not None:
            raise InputError(f"weights {str(self.weights)!r} need the model that they belong to: give one such as "
                             "torchvision:resnet18 or path/to/file.py:factory")
        asked_preparation(self.image_size, self.resize, self.crop, self.mean, self.std)
        if self.weights_key is not None and self.weights is None:
            raise InputError(f"weights_key {self.weights_key!r} needs the weights file in which it is a key")
        if self.model is not None and self.data is None:
            raise InputError("a model needs its data: give digits, fashion-mnist, cifar10, imagefolder:DIR, npz:FILE "
                             "or path/to/file.py:factory")

    @classmethod
    def of(cls, **given: Any) -> Options:
        """As the constructor; `trials` and `epochs` that are not given are those of the `effort`.

        InputError for an argument or an effort that there is not, with the nearest that there is.
        """
        legal = [field.name for field in fields(cls) if field.init]
        for name in given:
            if name not in legal:
                close = difflib.get_close_matches(name, legal, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(legal)}"
                raise InputError(f"search() has no argument {name!r}; {hint}")
        effort = given.get("effort", DEFAULT_EFFORT)
        if not isinstance(effort, str) or effort not in EFFORTS:
            close = difflib.get_close_matches(str(effort), EFFORTS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InputError(f"effort must be one of {', '.join(EFFORTS)}, but got {effort!r}{hint}")
        known = EFFORTS[effort]
        return cls(**{"trials": known.trials, "epochs": known.epochs, **given})

    def constraints(self, devices: Sequence[str]) -> Budget:
        """The bounds as a Budget; `devices` are the ids of the profiles, the primary first. InputError for text without
        a legal unit, and for a latency on another device."""
        def maybe(value: str | float | None, parse: Any, what: str) -> Any:
            return None if value is None else parse(value, what)

        latencies = {} if self.latency is None else _latencies(self.latency, devices)
        further = {device: latencies[device] for device in devices[1:] if device in latencies}
        return Budget(
            size_bytes=maybe(self.budget, parse_bytes, "budget"),
            latency_ms=latencies.get(devices[0]), further_latency_ms=further or msgspec.UNSET,
            macs=maybe(self.macs, parse_count, "macs"),
            peak_memory_bytes=maybe(self.peak_memory, parse_bytes, "peak memory"),
            max_drop=maybe(self.max_drop, parse_fraction, "max drop"),
        )


def _all(given: Any) -> tuple[Any, ...]:
    """Several techniques, or the one that was given alone, as a tuple."""
    return () if given is None else tuple(given) if isinstance(given, list | tuple) else (given,)


def _latencies(given: Any, devices: Sequence[str]) -> dict[str, float]:
    """Bounds in milliseconds by device. `given` is one for all devices, a dict of some, or a list of `TIME`, for all
    that have none of their own, and `ID=TIME`."""
    bounds: dict[str | None, float] = {}
    for name, time in given.items() if isinstance(given, Mapping) else (
            map(_named, given if isinstance(given, list | tuple) else [given])):
        if "" in (name, time):
            raise InputError(f"latency must be a time such as 5ms, or {devices[0]}=5ms, but got {given!r}")
        if name is not None and name not in devices:
            raise InputError(f"latency must be bounded on a profile that is searched for, {', '.join(devices)}, but "
                             f"got {name!r}{meant(str(name), devices)}")
        if name in bounds:
            raise InputError(f"latency must be bounded once {f'on {name}' if name else 'on all profiles'}, but is "
                             f"bounded by {bounds[name]:g} ms and by {time!r}")
        bounds[name] = parse_milliseconds(time, "latency")
    common = bounds.get(None)
    found = {device: bounds.get(device, common) for device in devices}
    return {device: bound for device, bound in found.items() if bound is not None}


def _named(entry: Any) -> tuple[str | None, Any]:
    device, named, time = str(entry).rpartition("=")
    return (device.strip(), time) if named else (None, entry)
