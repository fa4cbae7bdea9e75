"""The manifest of an artefact: what programs may rely on, its JSON schema, and reading it.

`docs/manifest.schema.json` is what `schema()` gives. Keys are only ever added under one version; a format adds keys of
its own for what it proved about the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from autocompress.errors import InputError

MANIFEST, SIGNATURE = "manifest.json", "manifest.json.sig"
CARD, SAMPLES = "README.md", "samples.safetensors"
SCHEMA, VERSION = "autocompress/manifest", 1
DTYPES = ("bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)), "float16", "float32",
          "float64")
# A manifest holds a plan of a few hundred bytes a layer.
MOST_BYTES = 64 * 2**20


class TensorFacts(msgspec.Struct, kw_only=True):
    """A tensor that the network reads or puts out."""

    name: Annotated[str, Meta(description="Name of the tensor in the file.")]
    shape: Annotated[list[int | str], Meta(description="Sizes; a text is a size that is free, `N` that of samples.")]
    dtype: Annotated[str, Meta(description="Of an input: the type of its numbers, as numpy names it.")] = "float32"
    scale: Annotated[str, Meta(description="Of an input: `pixels / 255`, or `as given`.")] = "as given"
    mean: Annotated[list[float], Meta(description="What is then subtracted, one value a channel or one for all.")] = []
    std: Annotated[list[float], Meta(description="What is then divided by.")] = []
    prepared: Annotated[str, Meta(description="In words, how a user's file became the numbers of an input.")] = ""
    files: Annotated[dict[str, Any], Meta(description="How a user's file becomes those numbers, as values.")] = {}
    meaning: Annotated[str, Meta(description="Of an output: what its numbers are, in words.")] = ""
    classes: Annotated[list[str], Meta(description="Names of the classes of an output, in order.")] = []
    free_axes: Annotated[list[int], Meta(description="Axes of an input that may have another size.")] = []


class FileFacts(msgspec.Struct):
    """A file of the artefact."""

    sha256: Annotated[str, Meta(description="Hash of its content, in hexadecimal digits.", pattern="^[0-9a-f]{64}$")]
    bytes: Annotated[int, Meta(description="Its size.", ge=0)]


class DeviceLatency(msgspec.Struct):
    """Latency on a device."""

    source: Annotated[str, Meta(description="`measured` or `estimated`.")]
    ms: Annotated[float, Meta(description="Of the file, in milliseconds.")]
    baseline_ms: Annotated[float, Meta(description="Of the original, in milliseconds.")]


class SampleFacts(msgspec.Struct):
    """Samples whose expected answers ship with the network, so that it can be verified anywhere."""

    file: Annotated[str, Meta(description="File with arrays `input/NAME` and `expected/NAME`.")]
    count: Annotated[int, Meta(description="Number of samples.", ge=1)]
    inputs: Annotated[str, Meta(description="`calibration`: of the training data; `random`: drawn like them.")]
    expected: Annotated[str, Meta(description="Who gave the answers: `network`, the compressed network in torch, or "
                                              "`file` where its weights are not at hand.")]
    deviation: Annotated[float, Meta(description="Mean difference of the file's answers from those, relative to the "
                                                 "largest answer, as it was at export.")]
    limit: Annotated[float, Meta(description="The largest deviation with which the file is verified.")]


class Encryption(msgspec.Struct):
    """Files that lie encrypted, each under its name with `.enc` behind it."""

    cipher: Annotated[str, Meta(description="`AES-256-GCM`.")]
    files: Annotated[list[str], Meta(description="Names of the files as they were before.")]


class Quality(msgspec.Struct):
    """What one number does not tell of the file, on the test split, beside the original."""

    classes: Annotated[list[dict[str, Any]], Meta(description=(
        "Of a classifier: name, samples, and the share that the `original` and the `file` answer rightly."))] = []
    calibration_error: Annotated[dict[str, float], Meta(description=(
        "Of a classifier: expected calibration error of the `original` and of the `file`, in 15 bins."))] = {}
    robustness: Annotated[dict[str, Any], Meta(description=(
        "The `metric` of the `original` and the `file` on so many `samples`, in `rows` by `disturbance`."))] = {}


class PeakMemory(msgspec.Struct):
    """RAM that activations take on the primary device."""

    bytes: float
    baseline_bytes: Annotated[float, Meta(description="Of the original.")]
    source: Annotated[str, Meta(description="`measured`, or `estimated`.")]


class Machine(msgspec.Struct):
    """The machine that latencies were measured on."""

    processor: str = ""
    system: str = ""


class Manifest(msgspec.Struct, kw_only=True):
    """What an exported folder is."""

    schema: Annotated[str, Meta(description=f"`{SCHEMA}`.")]
    version: Annotated[int, Meta(description="Of the manifest's layout; readers refuse one they do not know.", ge=1)]
    study: Annotated[str, Meta(description="Name of the search.")]
    trial: Annotated[int, Meta(description="Number of the trial in it.")]
    format: Annotated[str, Meta(description="Format of the model's file, such as `onnx`.")]
    model: Annotated[str, Meta(description="Name of the file that runs.")]
    files: Annotated[dict[str, FileFacts], Meta(description="All files beside the manifest, by name.")]
    verified: Annotated[dict[str, Any], Meta(description=(
        "What the file itself came to when it was exported: the task's metrics on the test split under their names "
        "and, of the original, as `baseline_NAME`; `size_bytes`, `latency_ms` and their kin."))]
    metric: Annotated[dict[str, Any], Meta(description="The task's metric: its name, direction and unit.")]
    input: Annotated[TensorFacts | None, Meta(description="What the network reads, where it has one input.")] = None
    inputs: Annotated[list[TensorFacts], Meta(description="Its inputs, where it has several.")] = []
    output: Annotated[TensorFacts | None, Meta(description="What it puts out, where that is one tensor.")] = None
    outputs: Annotated[list[TensorFacts], Meta(description="Its outputs, where there are several.")] = []
    samples: Annotated[SampleFacts | None, Meta(description="The samples that it is verified with.")] = None
    encrypted: Annotated[Encryption | None, Meta(description="What lies encrypted.")] = None
    watermark: Annotated[dict[str, Any] | None, Meta(description=(
        "That its weights bear a mark of the owner: the `scheme`, how many `weights` tell and how many were `moved` by "
        "one level, the `chance_exponent` of two that another key shows as much, and the task's metrics on the test "
        "split `without` it and `with` it."))] = None
    machine: Annotated[Machine, Meta(description="The machine of the export.")] = msgspec.field(default_factory=Machine)
    latencies: Annotated[dict[str, DeviceLatency], Meta(description="Latency by device.")] = {}
    peak_memory: Annotated[PeakMemory | None, Meta(description="Peak memory of activations.")] = None
    quality: Annotated[Quality, Meta(description="By class, of probabilities, and on disturbed samples.")] = \
        msgspec.field(default_factory=Quality)
    attribution: Annotated[dict[str, Any] | None, Meta(description="What each technique and step bought.")] = None
    licence: Annotated[str, Meta(description="The user's words (`export --licence`).")] = ""
    intended_use: Annotated[str, Meta(description="The user's words (`export --intended-use`).")] = ""
    rung: Annotated[int, Meta(description="0 calibrated, 1 briefly distilled, 2 distilled, 3 averaged.")] = 0
    plan_fingerprint: str = ""
    plan: Annotated[dict[str, Any], Meta(description="The steps that made it, by names of the original's layers.")] = {}
    receipts: Annotated[list[dict[str, Any]], Meta(description="What carrying out each step came to.")] = []
    metrics: Annotated[dict[str, float], Meta(description="The trial's metrics, on the validation split.")] = {}
    sources: Annotated[dict[str, str], Meta(description="Whether each is `measured` or `estimated`.")] = {}
    profile: Annotated[Any, Meta(description="The device or devices that it was searched for.")] = None
    budget: Annotated[dict[str, Any], Meta(description="The bounds that it keeps.")] = {}
    seed: int = 0
    fingerprints: Annotated[dict[str, str], Meta(
        description="Content hashes of model, data, space, profile and code of own techniques.")] = {}
    versions: Annotated[dict[str, str], Meta(description="Of the packages that made it.")] = {}

    @property
    def read(self) -> dict[str, TensorFacts]:
        """Inputs by name."""
        return {facts.name: facts for facts in self.inputs or ([self.input] if self.input else [])}

    @property
    def written(self) -> dict[str, TensorFacts]:
        """Outputs by name."""
        return {facts.name: facts for facts in self.outputs or ([self.output] if self.output else [])}


def schema() -> dict[str, Any]:
    """The JSON schema of a manifest (draft 2020-12)."""
    generated = msgspec.json.schema(Manifest)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": SCHEMA} | generated


def parse(text: bytes, origin: str = MANIFEST) -> tuple[Manifest, dict[str, Any]]:
    """Read the text of a manifest.

    Returns:
        The manifest, and the whole document with what the format added.

    Raises:
        InputError: which begins with `origin`, for text that is no manifest, or one of a newer release.
    """
    try:
        document: dict[str, Any] = json.loads(text)
        kind, version = document["schema"], int(document["version"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{origin} is not a manifest: {type(error).__name__} {error}") from None
    if kind != SCHEMA:
        raise InputError(f"{origin} is not a manifest: its schema must be {SCHEMA!r}, but is {kind!r}")
    if version > VERSION:
        raise InputError(f"{origin} has version {version}, newer than {VERSION}, which this release reads: update "
                         "autocompress")
    try:
        manifest = msgspec.convert(document, Manifest)
    except msgspec.ValidationError as error:
        raise InputError(f"{origin} is not a manifest: {error}") from None
    strange = [name for name in manifest.files if not is_plain(name)]
    if strange:
        raise InputError(f"{origin} must name files of its own folder, but names {strange[0]!r}")
    for facts in (*manifest.read.values(), *manifest.written.values()):
        if facts.dtype not in DTYPES or not all(facts.std):
            raise InputError(f"{origin} must say of {facts.name!r} a type of numbers as numpy names it, and divide by "
                             f"no 0, but has {facts.dtype!r} and {facts.std}")
    hidden = manifest.encrypted.files if manifest.encrypted else []
    listed = {*manifest.files, *(name for name in hidden if f"{name}.enc" in manifest.files)}
    if manifest.model not in listed:
        raise InputError(f"{origin} must list the model's file {manifest.model!r} among its files, but does not")
    return manifest, document


def is_plain(name: str) -> bool:
    """Whether a name is that of a file directly in a folder, and neither the manifest nor its signature."""
    taken = ("", ".", "..", MANIFEST, SIGNATURE)
    return name not in taken and not set(name) & {"/", "\\", "\0"} and Path(name).name == name
