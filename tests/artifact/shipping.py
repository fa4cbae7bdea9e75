"""Small artefacts of networks with random weights, and copies of them to spoil."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.core.budget import Budget
from autocompress.core.evaluation import Candidate
from autocompress.core.plan import Plan, Step
from autocompress.study.export_candidate import ship
from autocompress.study.folder import Description
from autocompress.study.settings import SearchSettings
from autocompress.study.workbench import Workbench
from autocompress.testing.exporters import sites


def quantised(bench: Workbench, bits: int = 4, activations: int = 8) -> Plan:
    """Every layer at one width."""
    return Plan.of([Step(site, "quantize", {"weight_bits": bits, "activation_bits": activations})
                    for site in sites(bench)])


def shipped(bench: Workbench, plan: Plan, folder: Path, **options: Any) -> Path:
    """The artefact of a plan that was calibrated and not trained."""
    candidate = Candidate(trial=3, status="complete", plan=plan, evaluations=(bench.evaluator.evaluate(plan, 0),))
    description = Description(
        name="small", settings=SearchSettings(), budget=Budget(), baseline=bench.evaluator.baseline(),
        sources=dict(bench.evaluator.sources), table=bench.network.table, refused=bench.network.refused,
        fingerprints={"model": "m", "data": "d", "space": "s", "profile": "p"})
    ship(bench, candidate, folder, description, **options)
    return folder


def copied(artifact: Path, folder: Path) -> Path:
    """A copy of an artefact in a folder that there is."""
    shutil.copytree(artifact, folder, dirs_exist_ok=True)
    return folder


def edited(artifact: Path, folder: Path, **keys: Any) -> Path:
    """A copy with other keys in its manifest."""
    copied(artifact, folder)
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | keys))
    return folder


def with_file(artifact: Path, folder: Path, name: str, data: bytes) -> Path:
    """A copy with another file, for which its manifest vouches."""
    manifest = json.loads((artifact / "manifest.json").read_bytes())
    files = manifest["files"] | {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}}
    verified = manifest["verified"] | ({"size_bytes": len(data)} if name == manifest["model"] else {})
    edited(artifact, folder, files=files, verified=verified)
    (folder / name).write_bytes(data)
    return folder


def stored_inputs(artifact: Path) -> dict[str, np.ndarray]:
    """The samples that ship with an artefact, as its network reads them."""
    from autocompress.artifact.samples import unpack_samples

    return unpack_samples((artifact / "samples.safetensors").read_bytes(), "samples")[0]
