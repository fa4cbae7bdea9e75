"""The space file: what a search may do, in TOML, before it meets a network or a device."""

from __future__ import annotations

import difflib
import logging
import math
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Literal

import msgspec

from autocompress.core.sparsity import UNSTRUCTURED
from autocompress.core.warnings import Warned, warn
from autocompress.errors import InputError
from autocompress.techniques import sparsify
from autocompress.techniques.decompose import DEFAULT_METHODS, METHODS
from autocompress.techniques.prune import CRITERIA, DEFAULT_CRITERION
from autocompress.techniques.quantize import ACTIVATION_BITS, SETTINGS, WEIGHT_BITS

log = logging.getLogger(__name__)

SCHEMA = 1
FORMER_ROUNDINGS = {"feedback": "gptq"}
"""Rounding methods by the names that an earlier release gave them."""
MIN_DENSITY, MAX_DENSITY = 0.001, 0.9
"""Shares of weights that a sparse layer may keep: above, a mask costs more than it saves at most widths."""


class PruneSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Largest share of a coupling group's channels that may be removed; what may decide which (one choice for the
    whole model); `skip` holds site patterns."""

    max_ratio: float = 0.9
    criteria: tuple[str, ...] = (DEFAULT_CRITERION,)
    skip: tuple[str, ...] = ()


class QuantizeSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bit-widths to choose from; "profile" means all that the profile allows.

    `activation_scope`: one choice for the whole model, or one for each layer. Of `grids`, `groups`, `roundings`,
    `ranges` and `equalizes` one is chosen for the whole model, and followed wherever it is legal; see
    `techniques.quantize`.
    """

    weight_bits: tuple[int, ...] | Literal["profile"] = "profile"
    activation_bits: tuple[int, ...] | Literal["profile"] = "profile"
    activation_scope: Literal["model", "layer"] = "model"
    grids: tuple[str, ...] = ("linear",)
    groups: tuple[int, ...] = (0,)
    roundings: tuple[str, ...] = ("gptq",)
    ranges: tuple[str, ...] = ("minmax",)
    equalizes: tuple[str, ...] = ("none",)
    skip: tuple[str, ...] = ()


    @property
    def settings(self) -> dict[str, tuple[int | str, ...]]:
        """What may be chosen for the whole model, by the name of the step's argument."""
        return {"grid": self.grids, "group": self.groups, "rounding": self.roundings, "range": self.ranges,
                "equalize": self.equalizes}


class DecomposeSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Methods to choose from beside leaving a layer whole, and the smallest share of weights to keep."""

    methods: tuple[str, ...] = DEFAULT_METHODS
    min_share: float = 0.1
    skip: tuple[str, ...] = ()


class SparsifySpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Patterns to choose from beside leaving a layer dense, the smallest share of weights that `unstructured` keeps,
    and what may decide which (one choice for the whole model)."""

    patterns: tuple[str, ...] = (UNSTRUCTURED,)
    min_density: float = 0.1
    criteria: tuple[str, ...] = (sparsify.DEFAULT_CRITERION,)
    skip: tuple[str, ...] = ()


class DropSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Residual blocks may be left out; `skip` holds block patterns."""

    skip: tuple[str, ...] = ()


class RecoverySpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What training learns from besides the original's answers and the labels; see `backend.distill.Recipe`."""

    block_steps: int = 0
    feature_weight: float = 0.0
    attention_weight: float = 0.0
    mixup: float = 0.0


class SpaceSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole space file. A technique that is left out is not used."""

    schema: int
    name: str
    description: str = ""
    prune: PruneSpec | None = None
    quantize: QuantizeSpec | None = None
    decompose: DecomposeSpec | None = None
    drop: DropSpec | None = None
    sparsify: SparsifySpec | None = None
    recovery: RecoverySpec | msgspec.UnsetType = msgspec.UNSET
    """Left out, it leaves no trace: a study is known by the hash of its space."""


def _ready_made() -> dict[str, str]:
    """Texts of the spaces that ship: in the wheel beside this module, in a checkout at its top."""
    inside = files("autocompress.space").joinpath("ready_made")
    folders = [inside, Path(__file__).parents[2] / "search_spaces"]
    for folder in folders:
        if folder.is_dir():
            return {entry.name.removesuffix(".toml"): entry.read_text("utf-8")
                    for entry in folder.iterdir() if entry.name.endswith(".toml")}
    raise InputError("the ready-made search spaces are missing from this installation: install it again")


def list_spaces() -> list[str]:
    """Names of the ready-made spaces."""
    return sorted(_ready_made())


def load_space(name_or_file: str | Path) -> SpaceSpec:
    """A ready-made space by name, or a file. InputError names the file, the field and the legal values."""
    ready = _ready_made()
    if str(name_or_file) in ready:
        return parse_space(ready[str(name_or_file)], str(name_or_file))
    path = Path(name_or_file)
    if path.suffix != ".toml" and not path.is_file():
        close = difflib.get_close_matches(str(name_or_file), ready, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(sorted(ready))}, or a .toml file"
        raise InputError(f"--space must be a ready-made space or a TOML file, but got {str(name_or_file)!r}; {hint}")
    try:
        return parse_space(path.read_text("utf-8-sig"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the space file {path} must be readable UTF-8 text: {error}") from None


def parse_space(text: str, origin: str) -> SpaceSpec:
    """Read and check one space; `origin` names it in messages."""
    try:
        spec = _with_present_names(msgspec.convert(tomllib.loads(text), SpaceSpec), origin)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{origin} is not valid TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise InputError(f"{origin}: {error}{_legal_keys(str(error))}") from None
    if spec.schema != SCHEMA:
        raise InputError(f"{origin}: schema must be {SCHEMA}, but got {spec.schema}; update autocompress")
    if not any((spec.prune, spec.quantize, spec.decompose, spec.drop, spec.sparsify)):
        raise InputError(f"{origin} must have at least one of [prune], [quantize], [decompose], [drop], [sparsify]: it "
                         "allows nothing")
    if spec.prune and not 0 < spec.prune.max_ratio < 1:
        raise InputError(f"{origin}: prune.max_ratio must be between 0 and 1, but got {spec.prune.max_ratio}")
    if spec.prune:
        _one_of(spec.prune.criteria, CRITERIA, f"{origin}: prune.criteria")
    if spec.decompose:
        if not 0 < spec.decompose.min_share < 1:
            raise InputError(f"{origin}: decompose.min_share must be between 0 and 1, "
                             f"but got {spec.decompose.min_share}")
        _one_of(spec.decompose.methods, METHODS, f"{origin}: decompose.methods")
    if spec.sparsify:
        _check_sparsify(spec.sparsify, origin)
    for name, value in msgspec.structs.asdict(spec.recovery).items() if spec.recovery else ():
        if not 0 <= value < math.inf:
            raise InputError(f"{origin}: recovery.{name} must be 0 or more, and finite, but got {value}")
    if spec.quantize:
        _one_of(spec.quantize.weight_bits, WEIGHT_BITS, f"{origin}: quantize.weight_bits")
        _one_of(spec.quantize.activation_bits, ACTIVATION_BITS, f"{origin}: quantize.activation_bits")
        for name, chosen in spec.quantize.settings.items():
            _one_of(chosen, SETTINGS[name], f"{origin}: quantize.{name}s")
    return spec


def _with_present_names(spec: SpaceSpec, origin: str) -> SpaceSpec:
    """The space with the names of an earlier release replaced by those of this one, with a warning for each."""
    if spec.quantize is None:
        return spec
    for former in FORMER_ROUNDINGS.keys() & set(spec.quantize.roundings):
        warn(log, Warned("former-name", f"{origin}: quantize.roundings: {former!r} is now called "
                                        f"{FORMER_ROUNDINGS[former]!r}; the former name is read in this release only"))
    roundings = tuple(FORMER_ROUNDINGS.get(name, name) for name in spec.quantize.roundings)
    return msgspec.structs.replace(spec, quantize=msgspec.structs.replace(spec.quantize, roundings=roundings))


def _check_sparsify(spec: SparsifySpec, origin: str) -> None:
    if not spec.patterns:
        raise InputError(f"{origin}: sparsify.patterns must not be empty")
    for pattern in spec.patterns:
        try:
            sparsify.check_pattern(pattern)
        except InputError as error:
            raise InputError(f"{origin}: sparsify.patterns: {error}") from None
    if not MIN_DENSITY <= spec.min_density < MAX_DENSITY:
        raise InputError(f"{origin}: sparsify.min_density must be from {MIN_DENSITY} to below {MAX_DENSITY}, "
                         f"but got {spec.min_density}")
    _one_of(spec.criteria, sparsify.CRITERIA, f"{origin}: sparsify.criteria")


def _legal_keys(message: str) -> str:
    """What may stand where a key is not known, for the end of a message."""
    found = re.search(r"unknown field `(.+?)`(?: - at `\$\.(\w+)`)?", message)
    if found is None:
        return ""
    tables: dict[str, type[msgspec.Struct]] = {
        "prune": PruneSpec, "quantize": QuantizeSpec, "decompose": DecomposeSpec, "drop": DropSpec,
        "sparsify": SparsifySpec, "recovery": RecoverySpec}
    legal = [field.name for field in msgspec.structs.fields(tables.get(found[2] or "", SpaceSpec))]
    close = difflib.get_close_matches(found[1], legal, n=1)
    return f"; did you mean `{close[0]}`?" if close else f"; legal here are {', '.join(legal)}"


def _one_of(values: tuple[object, ...] | str, legal: tuple[object, ...], what: str) -> None:
    if values == "profile":
        return
    for value in values:
        if value not in legal:
            raise InputError(f"{what} must be taken from {legal}, but got {value!r}")
    if not values:
        raise InputError(f"{what} must not be empty")
