"""Networks of strangers, from the table of what options cost to files that compute what the networks do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from strangers import LOCKED, STRANGERS
from test_zoo import zoo

from autocompress.backend.network.fold import fold_norms
from autocompress.core.plan import Plan, Step
from autocompress.formats.onnx.runtime import Runtime
from autocompress.hardware.profile import load_profile
from autocompress.space.space import build_space
from autocompress.space.spec import load_space
from autocompress.study.sensitivity import sensitivity
from autocompress.study.workbench import Workbench
from autocompress.testing.techniques import outputs

KINDS = ("conv", "linear", "embedding")


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", [
    name if name in ("graph", "tokens", "planes", "own layers") else pytest.param(name, marks=pytest.mark.slow)
    for name in STRANGERS])
def test_options_have_costs_and_files_compute_what_the_network_does(name: str) -> None:
    model = zoo.livened(STRANGERS[name].make())
    bench = Workbench(model, STRANGERS[name].data(), load_profile("host"), seed=0, folder=Path("/dev/null"), epochs=1)
    assert {layer.name for layer in bench.network.table.layers if layer.not_compressible_reason} == LOCKED.get(
        name, set()
    )
    space = build_space(bench.network.table, load_space("default"), bench.evaluator.profile)
    costs = [nats for (technique, _), options in sensitivity(bench, space).entries.items() if technique == "quantize"
             for nats in options.values()]
    assert costs and np.isfinite(costs).all() and max(costs) > 0
    inputs = bench.network.calibration
    opened = [layer for layer in bench.network.table.layers if layer.kind in KINDS and layer.compressible]
    eight = Plan.of([Step(layer.name, "quantize", {
        "weight_bits": 8, "activation_bits": 32 if layer.kind == "embedding" else 8}) for layer in opened])
    for plan in (Plan(), zoo.drawn_plan(bench), eight):
        compressed = bench.network.compressor.compress(plan)
        file = Runtime(bench.network.write(compressed).data)
        got = file.run(inputs.numpy())
        expected = outputs(fold_norms(compressed, bench.network.table).model, inputs).numpy()
        error = np.abs(got - expected).max() / np.abs(expected).max()
        assert error <= (0.25 if plan is eight else 1e-4), "8-bit activations round"
        alone = np.concatenate([file.run(inputs[i:i + 1].numpy()) for i in range(3)])
        assert np.abs(alone - got[:3]).max() <= (0.1 if plan is eight else 1e-4) * np.abs(expected).max()
    whole = outputs(model, inputs).numpy()
    assert np.abs(whole - outputs(bench.network.model, inputs).numpy()).max() <= 1e-4 * np.abs(whole).max()
