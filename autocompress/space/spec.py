"""The space file: what a search may do, in TOML, before it meets a network or a device."""

from __future__ import annotations

import difflib
import logging
import math
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from autocompress.core.warnings import Warned, warn
from autocompress.errors import InputError
from autocompress.techniques.apply import Techniques
from autocompress.techniques.decompose import DecomposeSpec
from autocompress.techniques.drop import DropSpec
from autocompress.techniques.prune import PruneSpec
from autocompress.techniques.quantize import QuantizeSpec
from autocompress.techniques.sparsify import SparsifySpec
from autocompress.techniques.table import TECHNIQUES

log = logging.getLogger(__name__)
S = TypeVar("S", bound=msgspec.Struct)

SCHEMA = 1
# Rounding methods by the names that an earlier release gave them.
FORMER_ROUNDINGS = {"feedback": "gptq"}


class RecoverySpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What training learns from besides the original's answers and the labels; see
    `autocompress.backend.training.distill.Recipe`.

    Attributes:
        block_steps: most steps of reconstruction for each unit of the network; 0 for distillation.
        feature_weight: weight of the squared error of projected feature maps.
        attention_weight: weight of the distance of attention maps.
        mixup: parameter of the Beta distribution of shares in which inputs are mixed; 0 for no mixing.
    """

    block_steps: int = 0
    feature_weight: float = 0.0
    attention_weight: float = 0.0
    mixup: float = 0.0


class SpaceSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole space file: a table for each technique. One of ours that is left out is not used; one of a user's own is
    used with its defaults.

    Attributes:
        schema: version of the file.
        name: of the space.
        description: in a sentence.
        prune: the table of the technique.
        quantize: the table of the technique.
        decompose: the table of the technique.
        drop: the table of the technique.
        sparsify: the table of the technique.
        recovery: what training learns from.
        extensions: tables of a user's own techniques, by name.
    """

    schema: int
    name: str
    description: str = ""
    prune: PruneSpec | None = None
    quantize: QuantizeSpec | None = None
    decompose: DecomposeSpec | None = None
    drop: DropSpec | None = None
    sparsify: SparsifySpec | None = None
    recovery: RecoverySpec | msgspec.UnsetType = msgspec.UNSET
    extensions: dict[str, Any] | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="own")  # as stored
    # What is left out leaves no trace: a study is known by the hash of its space.

    def settings(self, techniques: Techniques = TECHNIQUES) -> dict[str, msgspec.Struct]:
        """The tables of the techniques in use, by name, in the order of application.

        Args:
            techniques: those at hand, by name.
        """
        extensions = self.extensions or {}
        tables = {name: extensions.get(name, row.Settings()) if name not in TECHNIQUES else getattr(self, name)
                  for name, row in techniques.items()}
        return {name: table for name, table in tables.items() if table is not None}


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


def load_space(name_or_file: str | Path, techniques: Techniques = TECHNIQUES) -> SpaceSpec:
    """A ready-made space by name, or a file.

    Args:
        name_or_file: a name of `list_spaces`, or a path that ends in `.toml`.
        techniques: by name; those of a user's own have tables of their own.

    Raises:
        InputError: names the file, the field and the legal values.
    """
    ready = _ready_made()
    if str(name_or_file) in ready:
        return parse_space(ready[str(name_or_file)], str(name_or_file), techniques)
    path = Path(name_or_file)
    if path.suffix != ".toml" and not path.is_file():
        close = difflib.get_close_matches(str(name_or_file), ready, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(sorted(ready))}, or a .toml file"
        raise InputError(f"--space must be a ready-made space or a TOML file, but got {str(name_or_file)!r}; {hint}")
    try:
        return parse_space(path.read_text("utf-8-sig"), str(path), techniques)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the space file {path} must be readable UTF-8 text: {error}") from None


def parse_space(text: str, origin: str, techniques: Techniques = TECHNIQUES) -> SpaceSpec:
    """A space read from text and checked.

    Args:
        text: TOML.
        origin: the file's name, for messages.
        techniques: by name; those of a user's own have tables of their own.

    Raises:
        InputError: names the field and the legal values.
    """
    extensions = {name: row for name, row in techniques.items() if name not in TECHNIQUES}
    try:
        document = tomllib.loads(text)
        tables = {name: document.pop(name, {}) for name in (*extensions, "own")}
        if tables.pop("own"):
            raise InputError(f"{origin}: a technique of your own has the table [NAME], but got [own]")
        spec = _with_present_names(_converted(document, SpaceSpec, origin), origin)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{origin} is not valid TOML: {error}") from None
    if extensions:
        spec = msgspec.structs.replace(spec, extensions={
            name: _converted(table, extensions[name].Settings, f"{origin}: {name}") for name, table in tables.items()})
    if spec.schema != SCHEMA:
        raise InputError(f"{origin}: schema must be {SCHEMA}, but got {spec.schema}; update autocompress")
    settings = spec.settings(techniques)
    if not settings:
        names = ", ".join(f"[{name}]" for name in SpaceSpec.__struct_fields__ if name in TECHNIQUES)
        raise InputError(f"{origin} must have at least one of {names}: it allows nothing")
    for name, table in settings.items():
        try:
            techniques[name].check_settings(table)
        except InputError as error:
            raise InputError(f"{origin}: {name}.{error}") from None
    for name, value in msgspec.structs.asdict(spec.recovery).items() if spec.recovery else ():
        if not 0 <= value < math.inf:
            raise InputError(f"{origin}: recovery.{name} must be 0 or more, and finite, but got {value}")
    return spec


def _converted(document: Any, kind: type[S], origin: str) -> S:
    """A table of a space file as a struct. InputError for a field that it does not have or of another type."""
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{origin}: {error}{_legal_keys(str(error), kind)}") from None


def _with_present_names(spec: SpaceSpec, origin: str) -> SpaceSpec:
    """The space with the names of an earlier release replaced by those of this one, with a warning for each."""
    if spec.quantize is None:
        return spec
    for former in FORMER_ROUNDINGS.keys() & set(spec.quantize.roundings):
        warn(log, Warned("former-name", f"{origin}: quantize.roundings: {former!r} is now called "
                                        f"{FORMER_ROUNDINGS[former]!r}; the former name is read in this release only"))
    roundings = tuple(FORMER_ROUNDINGS.get(name, name) for name in spec.quantize.roundings)
    return msgspec.structs.replace(spec, quantize=msgspec.structs.replace(spec.quantize, roundings=roundings))


def _legal_keys(message: str, kind: type[msgspec.Struct]) -> str:
    """What may stand where a key is not known, for the end of a message about a struct of a `kind`."""
    match = re.search(r"unknown field `(.+?)`(?: - at `\$\.(\w+)`)?", message)
    if match is None:
        return ""
    table = next((field.type.__args__[0] for field in msgspec.structs.fields(kind) if field.name == match[2]), kind)
    legal = [field.name for field in msgspec.structs.fields(table) if field.name != "extensions"]
    close = difflib.get_close_matches(match[1], legal, n=1)
    if close:
        return f"; did you mean `{close[0]}`?"
    extensions = ", and the tables of techniques given by --technique FILE.py:NAME" if table is SpaceSpec else ""
    return f"; legal here are {', '.join(legal)}{extensions}"
