"""What a search is asked to do, checked before anything expensive starts."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from autocompress.core.budget import Budget
from autocompress.errors import InputError
from autocompress.units import parse_bytes, parse_count, parse_fraction, parse_milliseconds, parse_seconds

DEFAULT_TRIALS = 24
DEFAULT_EPOCHS = 8


@dataclass(frozen=True)
class Options:
    """Arguments of `autocompress.search`, see there. Values with units may be text or numbers."""

    model: Any = None
    data: Any = None
    budget: str | float | None = None
    weights: Path | None = None
    profile: str = "host"
    space: str = "default"
    latency: str | float | None = None
    macs: str | float | None = None
    peak_memory: str | float | None = None
    max_drop: str | float | None = None
    sampler: str = "auto"
    trials: int = DEFAULT_TRIALS
    epochs: int = DEFAULT_EPOCHS
    timeout: str | float | None = None
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
    image_size: int = 224
    from_study: Path | None = None
    seconds: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        for name in ("weights", "out", "data_root", "from_study"):  # from Python a path may come as text
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
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
        if self.model is None and self.data not in (None, "digits"):
            raise InputError(f"data {self.data!r} needs a model: give one such as torchvision:resnet18 with its "
                             "weights, or path/to/file.py:factory")
        if self.model is None and self.weights is not None:
            raise InputError(f"weights {str(self.weights)!r} need the model that they belong to: give one such as "
                             "torchvision:resnet18 or path/to/file.py:factory")
        if self.model is not None and self.data is None:
            raise InputError("a model needs its data: give digits, fashion-mnist, imagefolder:DIR, npz:FILE or "
                             "path/to/file.py:factory")

    @classmethod
    def of(cls, **given: Any) -> Options:
        """As the constructor. InputError for an argument that there is not, with the nearest that there is."""
        legal = [field.name for field in fields(cls) if field.init]
        for name in given:
            if name not in legal:
                close = difflib.get_close_matches(name, legal, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(legal)}"
                raise InputError(f"search() has no argument {name!r}; {hint}")
        return cls(**given)

    def constraints(self) -> Budget:
        """The bounds as a Budget. InputError for text without a legal unit."""
        def maybe(value: str | float | None, parse: Any, what: str) -> Any:
            return None if value is None else parse(value, what)

        return Budget(
            size_bytes=maybe(self.budget, parse_bytes, "budget"),
            latency_ms=maybe(self.latency, parse_milliseconds, "latency"),
            macs=maybe(self.macs, parse_count, "macs"),
            peak_memory_bytes=maybe(self.peak_memory, parse_bytes, "peak memory"),
            max_drop=maybe(self.max_drop, parse_fraction, "max drop"),
        )
