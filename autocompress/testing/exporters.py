"""What every exporter owes: inherit `ExporterContract`, say how a candidate is written and read back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.backend.network.compressed import Compressed
from autocompress.backend.network.fold import fold_norms
from autocompress.core.plan import Plan, Scalar, Step
from autocompress.core.sparsity import UNSTRUCTURED
from autocompress.study.workbench import Workbench
from autocompress.techniques import resolve
from autocompress.techniques.decompose import methods_for, rank_args
from autocompress.techniques.quantize import DEFAULTS, KINDS, quantize_args
from autocompress.techniques.sparsify import DEFAULT_CRITERION, can_be_sparse, fits
from autocompress.testing.parameters import every_network
from autocompress.testing.techniques import outputs, workbench

TOLERANCE = 1e-4


class ExporterContract:
    """Checks on every small network; `write`, `run` and `levels` are the exporter's own."""

    widths: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    """Weight widths that the format stores."""

    def write(self, bench: Workbench, compressed: Compressed) -> bytes:
        """The file of a candidate."""
        raise NotImplementedError

    def run(self, data: bytes, inputs: np.ndarray) -> np.ndarray:
        """Scores that the file's runtime gives."""
        raise NotImplementedError

    def levels(self, bench: Workbench, compressed: Compressed, data: bytes) -> dict[str, np.ndarray]:
        """The integers that the runtime restores from the file, by module, in the weight's own axes."""
        raise NotImplementedError

    @pytest.fixture(params=every_network())
    def bench(self, request: pytest.FixtureRequest) -> Iterator[Workbench]:
        """Each small network in turn."""
        yield workbench(request.param)

    def test_an_empty_plan_is_the_original(self, bench: Workbench) -> None:
        """Norms folded, graph rewritten: the same numbers, at any batch size."""
        compressed = bench.network.compressor.compress(Plan())
        assert compressed.weights == {}
        data = self.write(bench, compressed)
        for count in (1, 7):
            inputs = bench.network.calibration[:count]
            assert _error(self.run(data, inputs.numpy()), bench.network.model, inputs) <= TOLERANCE

    def test_float_structure_is_exact(self, bench: Workbench) -> None:
        """A pruned and factored network is written as it is."""
        compressed = bench.network.compressor.compress(structure(bench))
        data = self.write(bench, compressed)
        assert (
            _error(self.run(data, bench.network.calibration.numpy()), compressed.model, bench.network.calibration)
            <= TOLERANCE
        )

    def test_integer_weights_are_exact(self, bench: Workbench) -> None:
        """Every width at once, activations in float: levels bit for bit, scores to rounding."""
        for turn in range(2):
            plan = integers(bench, self.widths[3 * turn:] + self.widths[:3 * turn], 32)
            compressed = bench.network.compressor.compress(plan)
            data = self.write(bench, compressed)
            expected = fold_norms(compressed, bench.network.table).weights
            restored = self.levels(bench, compressed, data)
            assert set(restored) == set(expected)
            for name, weight in expected.items():
                np.testing.assert_array_equal(restored[name], weight.levels.numpy(), err_msg=name)
            assert (
                _error(self.run(data, bench.network.calibration.numpy()), compressed.model, bench.network.calibration)
                <= TOLERANCE
            )

    @pytest.mark.parametrize("settings", [{"grid": "codebook"}, {"grid": "pow2"}, {"group": 32},
                                          {"grid": "codebook", "group": 64}, {"equalize": "activations"}], ids=str)
    def test_every_grid_is_exact(self, bench: Workbench, settings: dict[str, Scalar]) -> None:
        """Codebooks, powers of two and scales per group, beside one another and beside evenly spaced levels; and
        behind rescaled channels."""
        plan = Plan.of([*structure(bench).steps, *integers(bench, (3, 4, 2, 8, 6), 32, **settings).steps])
        compressed = bench.network.compressor.compress(plan)
        data = self.write(bench, compressed)
        expected = fold_norms(compressed, bench.network.table).weights
        restored = self.levels(bench, compressed, data)
        for name, weight in expected.items():
            np.testing.assert_array_equal(restored[name], weight.levels.numpy(), err_msg=name)
        assert (
            _error(self.run(data, bench.network.calibration.numpy()), compressed.model, bench.network.calibration)
            <= TOLERANCE
        )

    def test_wide_activations_come_near(self, bench: Workbench) -> None:
        """16 bits of activations: next to nothing is lost, and no float weight is rounded behind one's back."""
        for widths, settings in (((8, 4), {}), ((4, 3), {"grid": "codebook"})):
            compressed = bench.network.compressor.compress(integers(bench, widths, 16, **settings))
            data = self.write(bench, compressed)
            expected = outputs(compressed.model, bench.network.calibration).numpy()
            inputs = bench.network.calibration.numpy()
            # Calibration data is inside its own range but for what the least squared error clips.
            error = np.abs(self.run(data, inputs) - expected).mean() / np.abs(expected).max()
            assert error <= 1e-3

    def test_everything_together(self, bench: Workbench) -> None:
        """Pruned, factored, integer weights and 8-bit activations: levels exact, scores near the network's."""
        steps = (*structure(bench).steps, *integers(bench, self.widths, 8).steps)
        compressed = bench.network.compressor.compress(Plan.of(steps))
        data = self.write(bench, compressed)
        expected = fold_norms(compressed, bench.network.table).weights
        restored = self.levels(bench, compressed, data)
        for name, weight in expected.items():
            np.testing.assert_array_equal(restored[name], weight.levels.numpy(), err_msg=name)
        scores = self.run(data, bench.network.calibration.numpy())
        assert np.isfinite(scores).all()
        assert (
            np.corrcoef(scores.ravel(), outputs(compressed.model, bench.network.calibration).numpy().ravel())[0, 1]
            > 0.95
        )

    def test_sparse_weights_are_exact(self, bench: Workbench) -> None:
        """Pruned, factored, sparse in every pattern that fits, integer weights of every width: the zeros and all other
        levels come back bit for bit; float values too."""
        for activation_bits in (8, 32):
            shape = structure(bench)
            steps = (*shape.steps, *sparse(bench, shape).steps, *integers(bench, self.widths, activation_bits).steps)
            compressed = bench.network.compressor.compress(Plan.of(steps))
            data = self.write(bench, compressed)
            folded = fold_norms(compressed, bench.network.table)
            restored = self.levels(bench, compressed, data)
            for name, weight in folded.weights.items():
                np.testing.assert_array_equal(restored[name], weight.levels.numpy(), err_msg=name)
                assert name not in folded.masks or not restored[name][~folded.masks[name].kept.numpy()].any()
        assert _error(self.run(data, bench.network.calibration.numpy()), compressed.model,
                      bench.network.calibration) <= TOLERANCE
        for bits, tolerance in ((32, TOLERANCE), (16, 2e-3)):
            plan = Plan.of((*sparse(bench, Plan()).steps, *([] if bits == 32 else halves(bench).steps)))
            compressed = bench.network.compressor.compress(plan)
            data = self.write(bench, compressed)
            assert len(data) <= len(self.write(bench, bench.network.compressor.compress(Plan())))
            assert _error(self.run(data, bench.network.calibration.numpy()), compressed.model,
                          bench.network.calibration) <= tolerance

    def test_half_precision_weights(self, bench: Workbench) -> None:
        """16 bits: what is stored is what the network holds."""
        compressed = bench.network.compressor.compress(halves(bench))
        data = self.write(bench, compressed)
        # Folding multiplies by a norm's factor after rounding, and the file rounds again.
        assert _error(self.run(data, bench.network.calibration.numpy()), compressed.model,
                      bench.network.calibration) <= 2e-3

    def test_equal_candidates_have_equal_bytes(self, bench: Workbench) -> None:
        """Whatever the order in which their weights are listed."""
        plan = Plan.of((*structure(bench).steps, *integers(bench, self.widths, 8).steps))
        first = bench.network.compressor.compress(plan)
        second = bench.network.compressor.compress(plan)
        second.weights = dict(reversed(second.weights.items()))
        assert self.write(bench, first) == self.write(bench, second)


def sites(bench: Workbench) -> list[str]:
    """Layers that can be quantised."""
    return [layer.name for layer in bench.network.table.layers if layer.kind in KINDS and layer.compressible]


def integers(bench: Workbench, widths: tuple[int, ...], activation_bits: int, **settings: Scalar) -> Plan:
    """All layers as integers, the widths in turn; `settings` of the step wherever they are legal."""
    floats = {layer.name for layer in bench.network.table.layers if layer.float_activations}
    return Plan.of([Step(name, "quantize", quantize_args(
        widths[i % len(widths)], 32 if name in floats else activation_bits, {**DEFAULTS, **settings},
        bench.network.table.by_name[name]))
                    for i, name in enumerate(sites(bench))])


def halves(bench: Workbench) -> Plan:
    """All layers as float16."""
    return Plan.of([Step(name, "quantize", {"weight_bits": 16, "activation_bits": 32}) for name in sites(bench)])


def sparse(bench: Workbench, before: Plan, patterns: tuple[str, ...] = ("2:4", UNSTRUCTURED, "1:4", "4:8"),
           density: float = 0.3, criterion: str = DEFAULT_CRITERION) -> Plan:
    """All layers sparse behind the plan `before`, the patterns in turn, unstructured where one does not fit."""
    parts, steps = resolve(bench.network.table, before), []
    for i, name in enumerate(layer.name for layer in bench.network.table.layers if can_be_sparse(layer)):
        pattern = patterns[i % len(patterns)]
        if pattern == UNSTRUCTURED or not all(fits(part, pattern) for part in parts[name]):
            args: dict[str, Scalar] = {"pattern": UNSTRUCTURED, "density": density}
        else:
            args = {"pattern": pattern}
        steps.append(Step(name, "sparsify", {**args, "criterion": criterion}))
    return Plan.of(steps)


def structure(bench: Workbench) -> Plan:
    """Every group halved, every layer factored that can be, its methods in turn."""
    steps = [Step(group.name, "prune", {"keep": group.channels // 2}) for group in bench.network.table.groups]
    parts = resolve(bench.network.table, Plan.of(steps))
    for i, layer in enumerate(bench.network.table.layers):
        methods = methods_for(layer)
        if methods:
            method = methods[i % len(methods)]
            args = rank_args(parts[layer.name][0], method, 0.6, 2)
            if args is not None:
                steps.append(Step(layer.name, "decompose", {"method": method, **args}))
    return Plan.of(steps)


def _error(got: np.ndarray, model: nn.Module, inputs: torch.Tensor) -> float:
    """Largest deviation relative to the largest score."""
    expected = outputs(model, inputs).numpy()
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())
