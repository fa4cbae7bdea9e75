"""Layer classes by what they compute, for `isinstance`."""

from __future__ import annotations

from torch import nn

from autocompress.backend.layers.transposed import TransposedConv

PlainConv = nn.Conv1d | nn.Conv2d | nn.Conv3d
Conv = PlainConv | TransposedConv
Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
# Convolutions among the operators of a traced graph.
CONV_OPS = {f"conv{axes}d" for axes in (1, 2, 3)} | {f"conv_transpose{axes}d" for axes in (1, 2, 3)}
RECURRENT_OPS = {"lstm", "gru", "rnn_tanh", "rnn_relu"}
