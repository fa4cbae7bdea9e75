"""Verifying an artefact: that it is what was exported, loads within limits, and answers as the network did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from autocompress.artifact.contents import Contents, manifest_text, opened, unchanged_file
from autocompress.artifact.isolated import Answers, Limits, run_isolated
from autocompress.artifact.loaded import fitting
from autocompress.artifact.machine import this_machine
from autocompress.artifact.manifest import MANIFEST, SIGNATURE, Manifest, parse
from autocompress.artifact.options import Trust
from autocompress.artifact.samples import deviation, unpack_samples
from autocompress.artifact.signature import require_signature
from autocompress.artifact.watermark import DETECTED, evidence
from autocompress.core.evaluation import LATENCY
from autocompress.errors import InputError, TrialError
from autocompress.formats.table import FORMATS, reader_named
from autocompress.quantities import format_milliseconds

State = Literal["holds", "fails", "skipped"]
HOLDS: State = "holds"
FAILS: State = "fails"
SKIPPED: State = "skipped"
# How much slower than at export a file may be on the machine of its export: other work there doubles CPU time too.
LATENCY_FACTOR = 3.0


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Args:
        name: of the check.
        state: whether it holds, fails or was skipped.
        detail: what was found, in words.
    """

    name: str
    state: State
    detail: str


@dataclass
class Verification:
    """All checks of an artefact, in order.

    Attributes:
        folder: of the artefact.
        checks: the checks so far.
        contents: what was read of the artefact; None where that failed.
    """

    folder: Path
    checks: list[Check] = field(default_factory=list)
    contents: Contents | None = None

    @property
    def holds(self) -> bool:
        """Whether no check fails."""
        return all(check.state != FAILS for check in self.checks)

    def run(self, name: str, check: Callable[[], str]) -> bool:
        """Add a check.

        Args:
            name: of the check.
            check: returns the words with which it holds, or raises InputError with those with which it fails. A text
                that begins with `skipped: ` says why it could not be done.

        Returns:
            Whether it does not fail.
        """
        try:
            detail = check()
        except InputError as error:
            self.checks.append(Check(name, FAILS, str(error)))
            return False
        skipped = detail.startswith("skipped: ")
        self.checks.append(Check(name, SKIPPED if skipped else HOLDS, detail.removeprefix("skipped: ")))
        return True

    def document(self) -> dict[str, Any]:
        """The document of `--json`."""
        return {"artifact": str(self.folder), "verified": self.holds,
                "checks": [{"name": check.name, "state": check.state, "found": check.detail} for check in self.checks]}


def verify(folder: Path | str, limits: Limits | None = None, trust: Trust | None = None) -> Verification:
    """Check an artefact with what is inside it, and those in further formats that lie in folders of it.

    Args:
        folder: the artefact.
        limits: of the process that loads its file.
        trust: who must have signed it, the key of what is encrypted, and whose mark it must bear.

    Returns:
        The checks: `manifest`, `signature`, `files`, `load` (with the format's static check), `size`, `agreement`,
        `latency`, and `watermark` where one is asked for. Where one fails that others need, those are missing. Those
        of a further format follow as `FORMAT: manifest` and so on.
    """
    verification = _verified(Path(folder), limits, trust)
    _further(verification, limits, trust)
    return verification


def _verified(folder: Path, limits: Limits | None, trust: Trust | None) -> Verification:
    """The checks of one artefact, without those in folders of it."""
    verification = Verification(folder)
    contents = _contents(verification, trust or Trust())
    if contents is None:
        return verification
    answers = _load(verification, contents, limits)
    if answers is not None:
        verification.run("size", lambda: _size(contents, answers))
        verification.run("agreement", lambda: _agreement(contents, answers))
        verification.run("latency", lambda: _latency(contents.manifest, answers))
        if trust is not None and trust.watermark is not None:
            key = trust.watermark
            verification.run("watermark", lambda: _watermark(contents, key))
    return verification


def _further(verification: Verification, limits: Limits | None, trust: Trust | None) -> None:
    """Check the artefacts in further formats, in folders of the formats' names; a check's name begins with that. A
    watermark is looked for in the first alone: not every format gives its integers back."""
    unmarked = trust if trust is None else replace(trust, watermark=None)
    for name in FORMATS:
        folder = verification.folder / name
        if folder.is_symlink():
            verification.checks.append(Check(f"{name}: manifest", FAILS, f"{folder} must be a folder, but is a link"))
        elif folder.is_dir():
            checks = _verified(folder, limits, unmarked).checks
            verification.checks += [Check(f"{name}: {check.name}", check.state, check.detail) for check in checks]


def _contents(verification: Verification, trust: Trust) -> Contents | None:
    """The artefact, where its manifest can be read and is signed as asked for, and its files are what that says."""
    text: list[bytes] = []
    read: list[tuple[Manifest, dict[str, Any]]] = []
    files: dict[str, bytes] = {}

    def check_manifest() -> str:
        path = verification.folder / MANIFEST
        text.append(manifest_text(verification.folder))
        read.append(parse(text[0], str(path)))
        return f"of trial {read[0][0].trial} of {read[0][0].study}, version {read[0][0].version}"

    def check_signature() -> str:
        if trust.signer is None:
            there = (verification.folder / SIGNATURE).exists()
            return f"skipped: {'signed, but no --key says by whom' if there else 'not signed'}"
        require_signature(verification.folder, text[0], trust.signer)
        return "signed by the owner of the key"

    def check_files() -> str:
        stored = {name: unchanged_file(verification.folder, read[0][0], name) for name in read[0][0].files}
        files.update(opened(read[0][0], stored, trust))
        opens = ", and open with the key" if read[0][0].encrypted else ""
        return f"{len(stored)} files have the sizes and hashes of the manifest{opens}"

    checks = (("manifest", check_manifest), ("signature", check_signature), ("files", check_files))
    if all(verification.run(name, check) for name, check in checks):
        verification.contents = Contents(verification.folder, *read[0], files)
    return verification.contents


def _size(contents: Contents, answers: Answers) -> str:
    promised, size = contents.manifest.verified.get("size_bytes"), answers.flash_bytes or len(contents.model)
    if promised != size:
        raise InputError(f"{contents.manifest.model} must have the {promised} bytes that its manifest was verified "
                         f"with, but has {size:,}")
    return f"{size:,} bytes{' of flash' if answers.flash_bytes else ''}, as its manifest says"


def _load(verification: Verification, contents: Contents, limits: Limits | None) -> Answers | None:
    manifest, answers = contents.manifest, list[Answers]()

    def check() -> str:
        if manifest.format not in FORMATS:
            return f"skipped: {manifest.format} is a format of the user's own, which this command does not know"
        inputs = _inputs(contents)
        answers.append(run_isolated(manifest.format, contents.model, inputs, limits, check=True, timed=True))
        proved = answers[0].proved
        changed = [name for name, facts in proved.items() if contents.document.get(name, facts) != facts]
        if changed:
            raise InputError(f"the static check must find what it found at export, but finds another {changed[0]}: "
                             f"{proved[changed[0]]}")
        static = "; no integer kernel can saturate" if "saturation" in proved else ""
        if "coreml" in proved:
            static = "; read back in torch: Core ML's predictions were not run"
        return f"loads and runs within the limits of time and memory{static}"

    verification.run("load", check)
    return answers[0] if answers else None


def _inputs(contents: Contents) -> dict[str, np.ndarray]:
    """The samples that ship with it; of an artefact without them, zeros."""
    manifest = contents.manifest
    if manifest.samples is None:
        return {name: np.zeros([1 if isinstance(size, str) else size for size in facts.shape], facts.dtype)
                for name, facts in manifest.read.items()}
    inputs = _samples(contents)[0]
    if {*inputs} != {*manifest.read}:
        raise InputError(f"the samples must have the inputs of the manifest, {', '.join(manifest.read)}, but have "
                         f"{', '.join(inputs)}")
    return {name: fitting(name, inputs[name], facts) for name, facts in manifest.read.items()}


def _samples(contents: Contents) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    facts = contents.manifest.samples
    assert facts is not None
    if facts.file not in contents.files:
        raise InputError(f"the manifest must list its samples {facts.file!r} among its files, but does not")
    return unpack_samples(contents.files[facts.file], str(contents.folder / facts.file))


def _agreement(contents: Contents, answers: Answers) -> str:
    facts = contents.manifest.samples
    if facts is None:
        return "skipped: no samples ship with it; it was exported by an earlier release"
    error = deviation(answers.outputs, _samples(contents)[1])
    whose = "the compressed network's" if facts.expected == "network" else "the file's"
    if not error <= facts.limit:
        raise InputError(f"the file must answer {facts.count} samples as at export, to {facts.limit:.3g} of the "
                         f"largest answer, but deviates by {error:.3g}")
    return f"{facts.count} samples are answered to {error:.2g} of {whose} largest answer (at most {facts.limit:.2g})"


def _watermark(contents: Contents, key: bytes) -> str:
    name = contents.manifest.model
    try:
        levels = reader_named(contents.manifest.format).integer_levels(contents.model)
    except TrialError as error:
        raise InputError(str(error)) from None
    if levels is None:
        raise InputError(f"integer weights must be readable in {name} for a watermark to show, but "
                         f"{contents.manifest.format} files do not give them back")
    shown = evidence(levels, key)
    if not shown.detected:
        raise InputError(f"{name} must bear the watermark of this key, but does not: another key shows as much in its "
                         f"{shown.weights:,} weights with a probability of 2^{shown.exponent:.0f}, and at most "
                         f"2^-{DETECTED} counts")
    return (f"{shown.weights:,} weights bear the mark of this key; another key shows as much with a probability below "
            f"2^{shown.exponent:.0f}")


def _latency(manifest: Manifest, answers: Answers) -> str:
    then, now = manifest.verified.get(LATENCY), answers.latency.get(LATENCY)
    if then is None or now is None:
        return "skipped: the manifest has no measured latency"
    if isinstance(then, bool) or not isinstance(then, int | float):
        raise InputError(f"the manifest must have a number of milliseconds as {LATENCY}, but has {then!r}")
    told = f"{format_milliseconds(now)} beside {format_milliseconds(then)} at export"
    here, there = this_machine(), manifest.machine
    if not there.processor or here.processor != there.processor:
        return f"skipped: {told}, on another processor ({there.processor or 'unknown'})"
    if now > LATENCY_FACTOR * then:
        raise InputError(f"one inference must take at most {LATENCY_FACTOR:g} times what it took at export on this "
                         f"processor, but takes {told}; look for other work on this machine")
    return told
