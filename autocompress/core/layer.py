"""Facts about a network: the original's layers and coupling groups, and a compressed net's parts.

A `Layer` is a module of the original that holds parameters. A `Group` is a set of channels that can
only be cut together, because residual sums, depthwise convolutions or normalisation tie them. A `Part`
is one executed layer of a compressed network: a layer has one part, or one for each of its factors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property
from math import gcd, prod
from typing import Literal

import msgspec

Kind = Literal["conv", "linear", "embedding", "recurrent", "norm", "other"]


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One module of the original that holds parameters. Shapes leave the samples' axis out: `(C, H, W)`.

    An embedding's `out_channels` are its rows, one a token, its `in_channels` their width: axes as a weight has them. A
    recurrent layer has one of these for each of its weights; its positions are steps of the sequence.

    Attributes:
        name: of the module.
        kind: `conv`, `linear`, `embedding`, `recurrent`, `norm` or `other`.
        in_channels: input channels.
        out_channels: output channels.
        groups: of a convolution.
        kernel: sizes of the kernel; `()` for linear layers.
        stride: of a convolution.
        transposed: whether it is a transposed convolution: its weight is applied at input positions.
        in_shape: of one sample of its input.
        out_shape: of one sample of its output.
        frames: how many windows, frames or steps of one sample are folded into the axis of the samples; it does each.
        samples_first: whether the first axis of what it reads is proved to be the samples, the frames of each in a row.
        bias: whether it has one.
        params: number of its parameters.
        reads: identity of the tensor that it reads. Layers that share a tensor share its quantiser.
        writes: identity of the tensor that it writes, behind a norm that folds into it and a following Relu or Clip;
            empty for the network's output.
        folds_into: for a norm layer, the convolution whose weights absorb it in the exported file, or nothing.
        not_compressible_reason: why no technique can touch this layer; empty when one can.
        not_prunable_reason: why none of its output channels can be cut; empty when some can, or when it cannot be
            compressed anyway.
        scales_with: the layer, or the norm behind one, whose output channels can be rescaled against the input channels
            of this one, with no change of what the network computes; empty when there is none.
        not_rescalable_reason: why no such layer is named in `scales_with`; empty when one is, or when it cannot be
            compressed anyway.
    """

    name: str
    kind: Kind
    in_channels: int = 0
    out_channels: int = 0
    groups: int = 1
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    transposed: bool = False
    in_shape: tuple[int, ...] = ()
    out_shape: tuple[int, ...] = ()
    frames: int = 1
    samples_first: bool = True
    bias: bool = False
    params: int = 0
    reads: str = ""
    writes: str = ""
    folds_into: str = ""
    not_compressible_reason: str = msgspec.field(default="", name="locked")
    not_prunable_reason: str = msgspec.field(default="", name="uncut")
    scales_with: str = ""
    not_rescalable_reason: str = msgspec.field(default="", name="unscaled")

    @property
    def compressible(self) -> bool:
        """Whether a technique can touch this layer."""
        return not self.not_compressible_reason

    @property
    def positions(self) -> int:
        """Positions at which the weight is applied: of the output, but of a transposed convolution's input."""
        return self.in_positions if self.transposed else self.out_positions

    @property
    def out_positions(self) -> int:
        """Positions of the output."""
        return self.frames * (prod(self.out_shape[1:]) if self.kind == "conv" else prod(self.out_shape[:-1]))

    @property
    def float_activations(self) -> bool:
        """Whether no runtime has an integer kernel for it: then its activations stay float, whatever its weights."""
        return self.transposed or self.kind in ("embedding", "recurrent")

    @property
    def in_positions(self) -> int:
        """Input positions: what a leading 1×1 factor is applied to."""
        return self.frames * (prod(self.in_shape[1:]) if self.kind == "conv" else prod(self.in_shape[:-1]))


class Member(msgspec.Struct, frozen=True):
    """How a layer hangs on a coupling group.

    Args:
        layer: its name.
        side: whether its output or its input channels are of the group.
        per_channel: how many of the layer's own channels go with one channel of the group.
    """

    layer: str
    side: Literal["in", "out"]
    per_channel: int = 1


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A coupling group: channels that can only be cut together.

    Attributes:
        name: the first layer that produces them; where one layer's channels make several groups, the others are
            `name/2`, `name/3`, ….
        channels: how many there are.
        members: the layers that are cut with them.
        blocks: above 1, the channels form that many equal blocks (a grouped convolution) and the same number must be
            kept in each.
        heads: whether a channel of the group is an attention head: then any whole number of them is legal.
    """

    name: str
    channels: int
    members: tuple[Member, ...]
    blocks: int = 1
    heads: bool = False

    @property
    def unit(self) -> int:
        """The number of own channels by which all members shrink, or a multiple of it, when one channel goes."""
        return gcd(*(member.per_channel for member in self.members))


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """A residual branch that can be left out, beside a shortcut of the same shape.

    Args:
        name: of the block, a name in the original.
        layers: of the branch, in order.
    """

    name: str
    layers: tuple[str, ...]


class Activation(msgspec.Struct, frozen=True):
    """A tensor that the network reads, makes or puts out: `elements` per sample, alive from step `first` to `last`.

    Its size scales with the output channels of the layers in `sources`. The network's input has none; its `readers`
    are the layers that read it.
    """

    elements: int
    sources: tuple[str, ...]
    first: int
    last: int
    readers: tuple[str, ...] = ()


# Kinds of products that devices run at different rates: a depthwise convolution has as many groups as inputs, a linear
# layer multiplies a matrix by one vector, a matmul by several.
Arithmetic = Literal["conv", "pointwise", "grouped", "depthwise", "linear", "matmul", "none"]


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """What is computed or moved beside one application of each layer: attention's products, sums, pooling, softmax.

    `macs`: multiply-accumulates for one sample, at the rate of `kind`; `elements`: values read and written. Both scale
    with the output channels of the layers in `sources`.
    """

    kind: Arithmetic
    macs: int
    elements: int
    sources: tuple[str, ...]


class LayerTable(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Everything that a search knows about the original network.

    Attributes:
        input_shape: of one sample; of several inputs, that of the first.
        outputs: channels of the outputs together, those on their last axis.
        layers: every module that holds parameters, in order of execution.
        groups: channels that can only be cut together.
        blocks: residual branches that can be left out.
        activations: tensors that the network reads, makes or puts out, with the steps at which they are alive.
        operations: what is computed beside the layers.
        skeleton_bytes: bytes of the exported file that hold no layer parameter: graph, names, constants.
    """

    input_shape: tuple[int, ...]
    outputs: int
    layers: tuple[Layer, ...]
    groups: tuple[Group, ...] = ()
    blocks: tuple[Block, ...] = ()
    activations: tuple[Activation, ...] = ()
    operations: tuple[Operation, ...] = ()
    skeleton_bytes: int = 0

    @cached_property
    def by_name(self) -> dict[str, Layer]:
        """Layers by name."""
        return {layer.name: layer for layer in self.layers}

    def gone(self, dropped: Iterable[str]) -> frozenset[str]:
        """Layers of the blocks `dropped`, and the norms that fold into them."""
        names = set(dropped)
        return frozenset(layer for block in self.blocks if block.name in names for layer in block.layers)

    @cached_property
    def fingerprint(self) -> str:
        """Content hash of the facts."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:16]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One executed layer of the compressed network: what estimators count and formats write.

    Attributes:
        name: of the module; factors of a decomposed layer are `LAYER.0`, `LAYER.1`.
        layer: the layer of the original that it is of.
        kind: of the layer: `conv`, `linear`, `norm`, `embedding`, `recurrent` or `other`.
        in_channels: input channels; of an embedding, the width of a row.
        out_channels: output channels; of an embedding, its rows.
        groups: of a convolution.
        kernel: sizes of the kernel; empty for a linear layer.
        positions: places at which the weight is applied to one sample.
        in_positions: places of the input.
        out_positions: of a transposed convolution, those of its output; else 0.
        transposed: whether it is a transposed convolution.
        bias: whether the exported file stores a bias, after folding the norm that follows.
        reads: identity of the tensor that it reads; parts that share one share its quantiser.
        writes: identity of the tensor that it writes.
        weight_bits: width of its weights.
        activation_bits: width of its inputs and outputs.
        grid: levels of its weights: `linear`, `codebook` or `pow2`.
        quant_group_size: weights of a row that share a scale; 0 where the whole row does.
        pattern: which weights are zero: `unstructured`, n:m, or nothing.
        kept: weights that are not zero, where there is a pattern.
    """

    name: str
    layer: str
    kind: Kind
    in_channels: int
    out_channels: int
    groups: int = 1
    kernel: tuple[int, ...] = ()
    positions: int = 1
    in_positions: int = 1
    out_positions: int = 0
    transposed: bool = False
    bias: bool = True
    reads: str = ""
    writes: str = ""
    weight_bits: int = 32
    activation_bits: int = 32
    grid: str = "linear"
    quant_group_size: int = 0
    pattern: str = ""
    kept: int = 0

    @property
    def float_activations(self) -> bool:
        """See `Layer.float_activations`."""
        return self.transposed or self.kind in ("embedding", "recurrent")

    @property
    def weights(self) -> int:
        """Elements of the weight tensor; for a norm layer, of its four vectors."""
        if self.kind == "norm":
            return 4 * self.out_channels
        return self.out_channels * (self.in_channels // self.groups) * prod(self.kernel)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one sample; a norm counts none (it folds or is negligible), nor does an embedding,
        which looks up. What a layer of another kind computes is among the table's `operations`."""
        return self.weights * self.positions if self.kind in ("conv", "linear", "recurrent") else 0
