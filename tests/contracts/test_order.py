"""The order of the techniques: for each pair, and all at once, what one layer becomes is worked out by hand and
compared with the facts, with the network and with the file."""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from autocompress.backend.network.fold import fold_norms
from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError
from autocompress.estimate import estimate, flatten
from autocompress.formats.onnx.sparse_choice import stored_sparse
from autocompress.techniques import TECHNIQUES, resolve
from autocompress.techniques.apply import check_plan
from autocompress.testing.techniques import executed_macs, outputs, state_hash, workbench

LAYER = "conv2"
"""16 → 32 channels, 3×3, stride 2, from 12×12 to 6×6 positions."""
BEFORE, AFTER, BETWEEN = 144, 36, 72


class Factor(NamedTuple):
    """One executed layer: channels, kernel, groups and the positions it is applied at."""

    n_in: int
    n_out: int
    kernel: tuple[int, int]
    positions: int
    groups: int = 1

    @property
    def weights(self) -> int:
        """Elements of the weight."""
        return self.n_out * self.n_in // self.groups * self.kernel[0] * self.kernel[1]


def _tucker(n_in: int, n_out: int) -> list[Factor]:
    return [Factor(n_in, 4, (1, 1), BEFORE), Factor(4, 8, (3, 3), AFTER), Factor(8, n_out, (1, 1), AFTER)]


DROP = Step("bn1", "drop", {})
PRUNE = [Step("stem.0", "prune", {"keep": 8}), Step("conv2", "prune", {"keep": 16})]
TUCKER = Step(LAYER, "decompose", {"method": "tucker2", "rank_in": 4, "rank_out": 8})
QUANTIZE = Step(LAYER, "quantize", {"weight_bits": 4, "activation_bits": 32})
SPARSE = Step(LAYER, "sparsify", {"pattern": "unstructured", "density": 0.25})
WHOLE, CUT = [Factor(16, 32, (3, 3), AFTER)], [Factor(8, 16, (3, 3), AFTER)]

CASES: dict[tuple[str, ...], tuple[list[Step], list[Factor], int]] = {
    ("drop", "prune"): ([DROP, *PRUNE], CUT, 32),
    ("drop", "decompose"): ([DROP, TUCKER], _tucker(16, 32), 32),
    ("drop", "quantize"): ([DROP, QUANTIZE], WHOLE, 4),
    ("prune", "decompose"): ([*PRUNE, TUCKER], _tucker(8, 16), 32),
    ("prune", "quantize"): ([*PRUNE, QUANTIZE], CUT, 4),
    ("decompose", "quantize"): ([TUCKER, QUANTIZE], _tucker(16, 32), 4),
    ("drop", "sparsify"): ([DROP, SPARSE], WHOLE, 32),
    ("prune", "sparsify"): ([*PRUNE, SPARSE], CUT, 32),
    ("decompose", "sparsify"): ([TUCKER, SPARSE], _tucker(16, 32), 32),
    ("sparsify", "quantize"): ([SPARSE, QUANTIZE], WHOLE, 4),
    ("drop", "prune", "decompose", "quantize"): ([DROP, *PRUNE, TUCKER, QUANTIZE], _tucker(8, 16), 4),
    ("drop", "prune", "decompose", "sparsify", "quantize"): (
        [DROP, *PRUNE, TUCKER, SPARSE, QUANTIZE], _tucker(8, 16), 4),
}

METHODS: dict[str, tuple[dict[str, Any], list[Factor]]] = {
    "channel-svd": ({"rank": 4}, [Factor(8, 4, (3, 3), AFTER), Factor(4, 16, (1, 1), AFTER)]),
    "spatial-svd": ({"rank": 6}, [Factor(8, 6, (3, 1), BETWEEN), Factor(6, 16, (1, 3), AFTER)]),
    "cp": ({"rank": 10}, [Factor(8, 10, (1, 1), BEFORE), Factor(10, 10, (3, 3), AFTER, 10),
                          Factor(10, 16, (1, 1), AFTER)]),
}


def test_every_pair_of_techniques_has_its_case() -> None:
    assert set(combinations(TECHNIQUES, 2)) == {pair for pair in CASES if len(pair) == 2}


@pytest.mark.parametrize("techniques", list(CASES), ids="-".join)
def test_one_layer_under_several_techniques(techniques: tuple[str, ...]) -> None:
    steps, factors, bits = CASES[techniques]
    assert {step.technique for step in steps} == set(techniques)
    _check(steps, factors, bits)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_pruned_and_quantised_layer_by_each_method(method: str) -> None:
    args, factors = METHODS[method]
    _check([*PRUNE, Step(LAYER, "decompose", {"method": method, **args}), QUANTIZE], factors, 4)


def _check(steps: list[Step], factors: list[Factor], bits: int) -> None:
    bench = workbench("residual")
    plan = Plan(tuple(steps))
    check_plan(bench.network.table, plan, bench.evaluator.profile)
    parts = [part for part in flatten(resolve(bench.network.table, plan)) if part.layer == LAYER]
    assert [(p.in_channels, p.out_channels, p.kernel, p.groups, p.macs, p.weight_bits) for p in parts] == [
        (f.n_in, f.n_out, f.kernel, f.groups, f.weights * f.positions, bits) for f in factors]

    compressed = bench.network.compressor.compress(plan)
    assert state_hash(bench.network.compressor.compress(Plan(tuple(reversed(steps)))).model) == state_hash(
        compressed.model
    )
    names = [LAYER] if len(factors) == 1 else [f"{LAYER}.{i}" for i in range(len(factors))]
    assert [part.name for part in parts] == names
    model = fold_norms(compressed, bench.network.table).model
    assert [tuple(model.get_submodule(name).weight.shape) for name in names] == [
        (f.n_out, f.n_in // f.groups, *f.kernel) for f in factors]
    executed = executed_macs(model, bench.network.calibration[:1])
    assert [executed[name] for name in names] == [f.weights * f.positions for f in factors]

    built = bench.network.write(compressed)
    weights, mask = sum(f.weights for f in factors), 0
    if plan.find("sparsify"):  # the values that stay, and a bit for every weight
        assert [part.kept for part in parts] == [int((model.get_submodule(n).weight != 0).sum()) for n in names]
        assert sum(part.kept for part in parts) == pytest.approx(weights / 4, abs=len(parts))
        if any(stored_sparse("unstructured", bits, [(part.weights, part.kept) for part in parts])):
            weights, mask = sum(part.kept for part in parts), -(-weights // 8)
    stored = [numpy_helper.to_array(i) for i in onnx.load_model_from_string(built.data).graph.initializer]
    if bits == 4:  # one packed stream, as only this layer has integers; its unpacking table has two axes
        assert sum(a.nbytes for a in stored if a.dtype == np.uint8 and a.ndim == 1) == -(-weights // 8) * 8 // 2 + mask
    elif mask:
        shapes = [a.shape for a in stored if a.dtype == np.float32 and a.ndim == 1]
        assert (weights,) in shapes
        assert (mask,) in [a.shape for a in stored if a.dtype == np.uint8]
    else:
        shapes = [a.shape for a in stored if a.dtype == np.float32 and a.ndim == 4]
        assert all((f.n_out, f.n_in // f.groups, *f.kernel) in shapes for f in factors)
    predicted = estimate(bench.network.table, plan, bench.evaluator.profile)["size_bytes"]
    # The skeleton is that of the whole graph: the nodes of a dropped block count as if they were still there.
    assert -10 <= predicted - len(built.data) <= 40
    assert np.isfinite(outputs(compressed.model, bench.network.calibration).numpy()).all()


@pytest.mark.parametrize("step", [Step("conv1", "decompose", {"method": "tucker2", "rank_in": 4, "rank_out": 4}),
                                  Step("conv1", "quantize", {"weight_bits": 4, "activation_bits": 32})])
def test_a_layer_of_a_dropped_block_takes_nothing_more(step: Step) -> None:
    bench = workbench("residual")
    with pytest.raises(InputError, match="the block of conv1 is dropped"):
        check_plan(bench.network.table, Plan((step, DROP)), bench.evaluator.profile)


@pytest.mark.parametrize(("method", "args", "message"), [
    ("channel-svd", {"rank": 14}, "fewer weights than the 1,152 of the layer as pruned.*`rank` may be at most 13"),
    ("spatial-svd", {"rank": 99}, "`rank` may be at most 15"),
    ("cp", {"rank": 35}, "`rank` may be at most 34"),
    ("tucker2", {"rank_in": 9, "rank_out": 2}, "`rank_in` at conv2 may be at most 8"),
    ("tucker2", {"rank_in": 8, "rank_out": 17}, "`rank_out` at conv2 may be at most 16"),
    ("tucker2", {"rank_in": 8, "rank_out": 16}, "`rank_out` may be at most 12 beside a `rank_in` of 8"),
])
def test_ranks_are_judged_by_the_layer_as_pruned(method: str, args: dict[str, Any], message: str) -> None:
    bench = workbench("residual")
    step = Step(LAYER, "decompose", {"method": method, **args})
    with pytest.raises(InputError, match=message):
        check_plan(bench.network.table, Plan((step, *PRUNE)), bench.evaluator.profile)
