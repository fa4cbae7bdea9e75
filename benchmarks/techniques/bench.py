"""One network on its workbench, and how compressed copies of it are scored."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from autocompress.backend.network.compressed import Compressed
from autocompress.backend.statistics.calibration import reestimate_norms
from autocompress.backend.training.distill import distill
from autocompress.backend.training.recipe import Recipe
from autocompress.core.plan import Plan
from autocompress.formats.onnx.runtime import Runtime
from autocompress.formats.running import in_batches
from autocompress.hardware.profile import load_profile
from autocompress.study.file_writer import as_arrays
from autocompress.study.workbench import Workbench
from autocompress.tasks.data import load_data
from autocompress.tasks.models import load_model

HERE = Path(__file__).parent
NETWORKS = {"resnet18": ("resnet18_fashion.py", "resnet18_fashion.safetensors"),
            "mobilenet": (str(HERE.parent / "mobilenet.py"), "mobilenet.safetensors")}
"""By name: the file with the factory `model`, and that of the weights; both in the base folder unless absolute."""


class Row(msgspec.Struct, frozen=True):
    """A file and its accuracy on the split; `seconds` to apply the method, training included."""

    group: str
    name: str
    bytes: int
    accuracy: float
    seconds: float


class Cost(msgspec.Struct, frozen=True):
    """Milliseconds of processor: to apply a plan the first time, again, and for one pass over the calibration data
    through what it makes; 0 where there is none."""

    plan: str
    first: float
    again: float = 0.0
    one_pass: float = 0.0


class Results(msgspec.Struct, frozen=True):
    """All that was measured of one network."""

    network: str
    split: str
    samples: int
    threads: int
    rows: list[Row] = []
    costs: list[Cost] = []


class Bench:
    """Scores files on a split; every row is written as soon as it is known."""

    def __init__(self, network: str, base: Path, split: str, limit: int | None, folder: Path) -> None:
        code, weights = NETWORKS[network]
        data = load_data("fashion-mnist", root=None, seed=0)
        loaded = load_model(f"{base / code}:model", data=data, trust_code=True, weights=base / weights)
        self.bench = Workbench(loaded.model, data, load_profile("host"), seed=0, folder=folder, epochs=1,
                               threads=torch.get_num_threads())
        data_split = getattr(data, split)
        self.split = data_split if limit is None else data_split.take(torch.arange(min(limit, len(data_split))))
        self.file = HERE / f"{network}.json"
        self.results = self._kept(Results(network, split, len(self.split), self.bench.evaluator.threads))
        self.layers = [layer.name for layer in self.bench.network.table.layers
                       if layer.kind in ("conv", "linear") and layer.compressible]

    def _kept(self, empty: Results) -> Results:
        """PriorStudy rows on the same images: those that are not measured anew stay."""
        if not self.file.exists():
            return empty
        stored = msgspec.json.decode(self.file.read_bytes(), type=Results)
        return stored if (stored.split, stored.samples) == (empty.split, empty.samples) else empty

    def ours(self, group: str, name: str, plan: Plan) -> None:
        """Apply a plan and score its file."""
        began = time.perf_counter()
        compressed = self.bench.network.compressor.compress(plan)
        self.score(group, name, compressed, time.perf_counter() - began)

    def theirs(self, group: str, name: str, change: Callable[[nn.Module], None]) -> None:
        """Score a copy of the network changed by another method, norms re-estimated, as a float file."""
        began = time.perf_counter()
        changed = self.changed(change)
        self.score(group, name, changed, time.perf_counter() - began)

    def changed(self, change: Callable[[nn.Module], None]) -> Compressed:
        """A copy of the network that another method changed."""
        model = copy.deepcopy(self.bench.network.model)
        change(model)
        reestimate_norms(model, self.bench.network.calibration)
        return Compressed(model, Plan())

    def after_an_epoch(self, group: str, name: str, start: Compressed) -> None:
        """Distil for one epoch of the training split, then score."""
        began = time.perf_counter()
        bench = self.bench
        distill(start, bench.trainer.teacher, bench.network.task, Recipe(epochs=1.0), bench.network.calibration, seed=0)
        self.score(group, name, start, time.perf_counter() - began)

    def score(self, group: str, name: str, compressed: Compressed, seconds: float) -> None:
        """Build the file and score it."""
        self.score_file(group, name, self.bench.network.write(compressed).data, seconds)

    def score_file(self, group: str, name: str, file: bytes, seconds: float) -> None:
        """Accuracy of a file on the split."""
        task, runtime = self.bench.network.task, Runtime(file, self.bench.evaluator.threads)
        outputs = in_batches(runtime, as_arrays(task.normalise(self.split.inputs)))
        accuracy = replace(task, test=self.split).score(outputs, "test", self.bench.network.likelihood)["accuracy"]
        self.add(Row(group, name, len(file), accuracy, seconds))

    def add(self, result: Row | Cost) -> None:
        """Keep what was found."""
        rows: list[Any] = self.results.rows if isinstance(result, Row) else self.results.costs
        keys = [_key(row) for row in rows]
        place = keys.index(_key(result)) if _key(result) in keys else len(rows)
        rows[place:place + 1] = [result]
        print(result, flush=True)
        self.file.write_bytes(msgspec.json.format(msgspec.json.encode(self.results)))


def _key(result: Row | Cost) -> tuple[str, ...]:
    return (result.group, result.name) if isinstance(result, Row) else (result.plan,)
