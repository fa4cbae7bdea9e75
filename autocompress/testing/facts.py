"""A network made of facts alone, for tests of everything that never sees torch."""

from __future__ import annotations

from autocompress.core.layer import Activation, Group, Layer, LayerTable, Member
from autocompress.core.plan import Step
from autocompress.core.sensitivity import SensitivityTable


def small_table() -> LayerTable:
    """Three convolutions, one of them depthwise, a classifier, and a layer that nothing can touch.

    About 60 kB in float32; 2-bit weights and a tenth of the channels bring it to about 2 kB.
    """
    def conv(name: str, n_in: int, n_out: int, side: int, groups: int = 1, stride: int = 1) -> Layer:
        return Layer(name=name, kind="conv", in_channels=n_in, out_channels=n_out, groups=groups, kernel=(3, 3),
                     stride=(stride, stride), in_shape=(n_in, side * stride, side * stride),
                     out_shape=(n_out, side, side), bias=True, params=n_out * (n_in // groups * 9 + 1),
                     reads=f"before {name}", writes=f"after {name}", scales_with={"b": "a", "c": "b"}.get(name, ""),
                     not_rescalable_reason="it reads the network's input" if name == "a" else "")

    layers = (
        conv("a", 3, 32, 16),
        conv("b", 32, 32, 16, groups=32),
        conv("c", 32, 48, 8, stride=2),
        Layer(
            name="fc",
            kind="linear",
            in_channels=48,
            out_channels=10,
            in_shape=(48,),
            out_shape=(10,),
            bias=True,
            params=490,
            reads="mean",
            scales_with="c",
        ),
        Layer(
            name="odd",
            kind="other",
            out_channels=7,
            in_channels=1,
            params=7,
            not_compressible_reason="no technique for LSTM",
        ),
    )
    groups = (Group(name="a", channels=32, members=(Member("a", "out"), Member("b", "out"), Member("c", "in"))),
              Group(name="c", channels=48, members=(Member("c", "out"), Member("fc", "in"))))
    activations = (Activation(32 * 256, ("a",), 0, 1), Activation(32 * 256, ("b",), 1, 2),
                   Activation(48 * 64, ("c",), 2, 3))
    return LayerTable(input_shape=(3, 16, 16), outputs=10, layers=layers, groups=groups, activations=activations,
                      skeleton_bytes=600)


def small_sensitivities() -> SensitivityTable:
    """What options of `small_table` would cost, in nats: the less is left of a layer, the more."""
    pruned = [(Step(group, "prune", {"keep": keep}), (keep,), 0.3 * (1 - keep / channels) ** 2)
              for group, channels in (("a", 32), ("c", 48)) for keep in range(4, channels, 4)]
    bits = [(Step(layer, "quantize", {"weight_bits": width}), (width,), 0.8 * 4.0**-width)
            for layer in ("a", "b", "c", "fc") for width in (6, 5, 4, 3, 2)]
    return SensitivityTable.of([*pruned, *bits])
