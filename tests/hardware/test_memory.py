"""The liveness sweep against a brute force over every step."""

from __future__ import annotations

from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.layer import Activation
from autocompress.hardware.memory import peak_activation_bytes

LAYERS = ("a", "b", "c")


@st.composite
def _activation(draw: st.DrawFn) -> Activation:
    first = draw(st.integers(0, 12))
    sources = tuple(draw(st.lists(st.sampled_from(LAYERS), max_size=3)))
    return Activation(draw(st.integers(0, 1000)), sources, first, first + draw(st.integers(0, 6)))


RATIOS = st.dictionaries(st.sampled_from(LAYERS), st.sampled_from([0.25, 0.5, 0.75, 1.0]))
WIDTHS = st.dictionaries(st.sampled_from(LAYERS), st.sampled_from([1.0, 2.0, 4.0]))


@given(st.lists(_activation(), max_size=12), RATIOS, WIDTHS)
def test_peak_equals_the_brute_force(
    activations: list[Activation], ratios: dict[str, float], widths: dict[str, float]
) -> None:
    def size(tensor: Activation) -> int:
        kept = [ratios.get(layer, 1.0) for layer in tensor.sources] or [1.0]
        width = max([widths.get(layer, 4.0) for layer in tensor.sources] or [4.0])
        return ceil(tensor.elements * sum(kept) / len(kept) * width - 1e-6)

    expected = max(
        (sum(size(tensor) for tensor in activations if tensor.first <= step <= tensor.last) for step in range(20)),
        default=0,
    )
    assert peak_activation_bytes(activations, ratios, widths) == expected
    by_function = peak_activation_bytes(
        activations, lambda layer: ratios.get(layer, 1.0), lambda layer: widths.get(layer, 4.0)
    )
    assert by_function == expected


@given(st.lists(_activation(), max_size=12), RATIOS)
def test_cutting_never_raises_the_peak(activations: list[Activation], ratios: dict[str, float]) -> None:
    assert peak_activation_bytes(activations, ratios, 1) <= peak_activation_bytes(activations, {}, 1)


def test_a_residual_keeps_its_input_alive() -> None:
    # input → a → b, and b + input: at the sum three tensors are alive.
    activations = [Activation(100, (), 0, 2), Activation(100, ("a",), 1, 2), Activation(100, ("b",), 2, 2)]
    assert peak_activation_bytes(activations, {}, 1) == 300
    assert peak_activation_bytes(activations, {"a": 0.5}, 1) == 250
    assert peak_activation_bytes(activations, {"a": 0.5, "b": 0.5}, 4) == 800


def test_concatenated_sources_count_their_mean_and_rounding_is_absorbed() -> None:
    assert peak_activation_bytes([Activation(100, ("a", "b"), 0, 0)], {"a": 0.5}, 1) == 75
    assert peak_activation_bytes([Activation(30, ("a",), 0, 0)], {"a": 0.1}, 1) == 3
    assert peak_activation_bytes([], {}, 1) == 0
