"""The contract of a file format: inherit `FormatContract`, name the format, and pytest runs it all.

    class TestMine(FormatContract):
        format = MyFormat()

What a format refuses by `legal` is left out of the plans; what it does not refuse must be exact.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.backend.network.compressed import Compressed
from autocompress.backend.network.fold import fold_norms
from autocompress.core.plan import Plan, Scalar, Step
from autocompress.errors import InputError, TrialError
from autocompress.estimate import estimate
from autocompress.formats.base import INPUT, Format
from autocompress.formats.table import MODEL
from autocompress.space.format_legality import check_format, refusal
from autocompress.study.workbench import Workbench
from autocompress.testing.exporters import halves, integers, sparse, structure
from autocompress.testing.parameters import every_network
from autocompress.testing.techniques import outputs, workbench

TOLERANCE, HALF_TOLERANCE = 1e-4, 2e-3
# A predicted size differs from the file's by this share at most, or by so many bytes of a small file.
SIZE_TOLERANCE, SMALL_SIZE = 0.01, 60
WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8)


class FormatContract:
    """Checks of one format on small networks. Override `levels` where a file holds integers."""

    # The format under test.
    format: Format
    # Names of small networks that the format can hold; all of them where none is named.
    networks: tuple[str, ...] = ()

    def levels(self, bench: Workbench, compressed: Compressed, data: bytes) -> Mapping[str, np.ndarray] | None:
        """The integers that the runtime restores from a file, by module, in the weight's own axes; None for a format
        whose integers cannot be read back."""
        return None

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test on each network."""
        if "network" in metafunc.fixturenames:
            metafunc.parametrize("network", list(self.networks) or every_network(), scope="class")

    @pytest.fixture
    def bench(self, network: str) -> Workbench:
        """A small network whose files have the format."""
        return workbench(network, self.format)  # type: ignore[arg-type]  # hashed by identity

    def compressed(self, bench: Workbench, plan: Plan) -> Compressed:
        """The network of those steps of a plan that the format can hold.

        Args:
            bench: of a small network.
            plan: legal for it.
        """
        steps = [step for step in plan.steps if not refusal(step, bench.network.table, self.format)]
        return bench.network.compressor.compress(Plan.of(steps))

    def run(self, data: bytes, inputs: np.ndarray) -> np.ndarray:
        """The answers of a file to a batch.

        Args:
            data: the bytes of the file.
            inputs: `(N, …)`.
        """
        runtime = self.format.open(data)
        (answers,) = runtime.run({INPUT: inputs}).values()
        runtime.close()
        return answers

    def agrees(self, bench: Workbench, compressed: Compressed, tolerance: float = TOLERANCE) -> bytes:
        """Write a file, hold its integers and answers to the network's, and return it.

        Args:
            bench: of a small network.
            compressed: of that network.
            tolerance: the largest error of an answer, as a share of the largest answer.
        """
        data = bench.network.write(compressed).data
        self.restores(bench, compressed, data)
        answers = self.run(data, bench.network.calibration.numpy())
        assert _error(answers, compressed.model, bench.network.calibration) <= tolerance
        return data

    def restores(self, bench: Workbench, compressed: Compressed, data: bytes) -> None:
        """Hold the integers of a file to those of the network, and its masked weights to zero.

        Args:
            bench: of a small network.
            compressed: of that network.
            data: the bytes of its file.
        """
        folded = fold_norms(compressed, bench.network.table)
        stored = self.format.integer_levels(data)
        if stored is not None:
            rows = {_rows(levels) for levels in stored}
            assert all(_rows(weight.levels.flatten(1).numpy()) in rows for weight in folded.weights.values())
        restored = self.levels(bench, compressed, data) if folded.weights else None
        if restored is None:
            return
        assert set(restored) >= set(folded.weights)
        for name, weight in folded.weights.items():
            np.testing.assert_array_equal(restored[name], weight.levels.numpy(), err_msg=name)
            assert name not in folded.masks or not restored[name][~folded.masks[name].kept.numpy()].any()

    def test_an_empty_plan_is_the_original(self, bench: Workbench) -> None:
        """Norms folded, graph rewritten: the same numbers, at any batch size."""
        data = bench.network.write(bench.network.compressor.compress(Plan())).data
        for count in (1, 7):
            inputs = bench.network.calibration[:count]
            assert _error(self.run(data, inputs.numpy()), bench.network.model, inputs) <= TOLERANCE

    def test_a_file_is_scored_in_the_runtime_that_opens_it(self, bench: Workbench) -> None:
        """Beside trainings too, whatever another format that it is made from does there."""
        data, inputs = bench.network.writer.original_file, {INPUT: bench.network.calibration[:2].numpy()}
        opened, scored = self.format.open(data), self.format.open_on("cpu", data)
        assert type(scored) is type(opened)
        for name, values in opened.run(inputs).items():
            np.testing.assert_allclose(scored.run(inputs)[name], values, rtol=1e-4, atol=1e-5)

    def test_float_structure_is_exact(self, bench: Workbench) -> None:
        """A pruned and factored network is written as it is."""
        self.agrees(bench, self.compressed(bench, structure(bench)))

    def test_integer_weights_are_exact(self, bench: Workbench) -> None:
        """Every width at once, activations in float: levels bit for bit, scores to rounding."""
        for turn in range(2):
            plan = integers(bench, WIDTHS[3 * turn:] + WIDTHS[:3 * turn], 32)
            self.agrees(bench, self.compressed(bench, plan))

    @pytest.mark.parametrize("settings", [{"grid": "codebook"}, {"grid": "pow2"}, {"group": 32},
                                          {"grid": "codebook", "group": 64}, {"equalize": "activations"}], ids=str)
    def test_every_grid_is_exact(self, bench: Workbench, settings: dict[str, Scalar]) -> None:
        """Codebooks, powers of two and scales per group, beside one another and beside evenly spaced levels; and
        behind rescaled channels."""
        steps = (*structure(bench).steps, *integers(bench, (3, 4, 2, 8, 6), 32, **settings).steps)
        self.agrees(bench, self.compressed(bench, Plan.of(steps)))

    def test_wide_activations_come_near(self, bench: Workbench) -> None:
        """16 bits of activations: next to nothing is lost, and no float weight is rounded behind one's back."""
        for widths, settings in (((8, 4), {}), ((4, 3), {"grid": "codebook"})):
            compressed = self.compressed(bench, integers(bench, widths, 16, **settings))
            data = bench.network.write(compressed).data
            expected = outputs(compressed.model, bench.network.calibration).numpy()
            # Calibration data is inside its own range but for what the least squared error clips.
            error = np.abs(self.run(data, bench.network.calibration.numpy()) - expected).mean()
            assert error / np.abs(expected).max() <= 1e-3

    def test_everything_together(self, bench: Workbench) -> None:
        """Pruned, factored, integer weights and 8-bit activations: levels exact, scores near the network's."""
        steps = (*structure(bench).steps, *integers(bench, WIDTHS, 8).steps)
        compressed = self.compressed(bench, Plan.of(steps))
        data = bench.network.write(compressed).data
        self.restores(bench, compressed, data)
        answers = self.run(data, bench.network.calibration.numpy())
        expected = outputs(compressed.model, bench.network.calibration).numpy()
        assert np.isfinite(answers).all()
        assert np.corrcoef(answers.ravel(), expected.ravel())[0, 1] > 0.95

    def test_sparse_weights_are_exact(self, bench: Workbench) -> None:
        """Pruned, factored, sparse in every pattern that fits, integer weights of every width: the zeros and all other
        levels come back bit for bit; float values too."""
        shape = structure(bench)
        thin = (*shape.steps, *sparse(bench, shape).steps)
        compressed = self.compressed(bench, Plan.of((*thin, *integers(bench, WIDTHS, 8).steps)))
        self.restores(bench, compressed, bench.network.write(compressed).data)
        self.agrees(bench, self.compressed(bench, Plan.of((*thin, *integers(bench, WIDTHS, 32).steps))))
        original = bench.network.write(bench.network.compressor.compress(Plan())).data
        for more, tolerance in ((), TOLERANCE), (halves(bench).steps, HALF_TOLERANCE):
            data = self.agrees(bench, self.compressed(bench, Plan.of((*sparse(bench, Plan()).steps, *more))), tolerance)
            assert len(data) <= len(original)

    def test_half_precision_weights(self, bench: Workbench) -> None:
        """16 bits: what is stored is what the network holds; a norm is folded after rounding, and the file rounds
        again."""
        self.agrees(bench, self.compressed(bench, halves(bench)), HALF_TOLERANCE)

    def test_equal_candidates_have_equal_bytes(self, bench: Workbench) -> None:
        """Whatever the order in which their weights are listed."""
        plan = Plan.of((*structure(bench).steps, *integers(bench, WIDTHS, 8).steps))
        first, second = self.compressed(bench, plan), self.compressed(bench, plan)
        second.weights = dict(reversed(second.weights.items()))
        assert bench.network.write(first).data == bench.network.write(second).data

    def test_sizes_are_predicted(self, bench: Workbench) -> None:
        """From facts alone, before anything is built."""
        for plan in (Plan(), structure(bench), integers(bench, (8, 4), 32)):
            compressed = self.compressed(bench, plan)
            predicted = estimate(bench.network.table, compressed.plan, bench.evaluator.profile, self.format)
            size = len(bench.network.write(compressed).data)
            assert predicted["size_bytes"] == pytest.approx(size, rel=SIZE_TOLERANCE, abs=SMALL_SIZE)

    def test_what_is_refused_is_refused_with_a_reason(self, bench: Workbench) -> None:
        """A plan with a step that the format cannot hold never reaches the writer."""
        for bits in (*WIDTHS, 16):
            for layer in bench.network.table.layers:
                step = Step(layer.name, "quantize", {"weight_bits": bits, "activation_bits": 32})
                reason = self.format.legal(step, layer)
                assert isinstance(reason, str)
                if reason:
                    with pytest.raises(InputError, match="files can hold"):
                        check_format(Plan.of([step]), bench.network.table, self.format)

    def test_a_runtime_tells_time_and_memory(self, bench: Workbench) -> None:
        """Seconds of one inference by both clocks; bytes of RAM, or nothing."""
        runtime = self.format.open(bench.network.writer.original_file)
        reading = runtime.time({INPUT: bench.network.calibration[:1].numpy()}, 3)
        assert reading.cpu_seconds >= 0 and reading.wall_seconds > 0
        assert runtime.peak_memory_bytes is None or runtime.peak_memory_bytes > 0
        runtime.close()

    def test_files_ship_under_their_names(self, bench: Workbench) -> None:
        """The first one is the model; the snippet that runs it is Python."""
        files = self.format.files(bench.network.writer.original_file)
        name = next(iter(files))
        assert name == f"{MODEL}{self.format.suffix}" and all(isinstance(content, bytes) for content in files.values())
        compile(self.format.snippet(name, {INPUT: "inputs"}, ["scores"]), name, "exec")

    def test_it_travels_to_workers(self) -> None:
        """A format has no state, and pickles."""
        assert pickle.loads(pickle.dumps(self.format)).name == self.format.name

    def test_what_is_no_file_is_refused(self) -> None:
        """Rubbish is a failed trial, never a crash."""
        for rubbish in (b"", b"\\x00" * 64, b"not a model"):
            with pytest.raises(TrialError):
                self.format.open(rubbish)


def _rows(levels: np.ndarray) -> bytes:
    """Levels `(C, n)`, whatever their order in a row."""
    return str(levels.shape).encode() + np.sort(levels, axis=1).tobytes()


def _error(answers: np.ndarray, model: nn.Module, inputs: torch.Tensor) -> float:
    """Largest deviation relative to the largest score."""
    expected = outputs(model, inputs).numpy()
    assert answers.shape == expected.shape
    return float(np.abs(answers - expected).max() / np.abs(expected).max())
