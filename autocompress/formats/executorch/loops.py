"""Recurrent layers as loops of a program. ExecuTorch's own decomposition writes every step of a sequence out, and each
step becomes a delegate that is lowered by itself: of 28 steps in two layers that takes minutes. As one loop of torch's
`scan` operator the program has one step, whatever the length of the sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.export import ExportedProgram

from autocompress.errors import TrialError

# A cell takes what a step reads of its inputs `(N, gates * hidden)` and of its state, and the last states; it puts out
# the next ones, that which is read first.
States = tuple[Tensor, ...]
Cell = Callable[[Tensor, Tensor, States], States]
# Most calls of one layer in a program: a loop in a network's `forward` is written out.
MOST_CALLS = 32


def with_loops(program: ExportedProgram) -> ExportedProgram:
    """The program with a loop in place of each recurrent layer."""
    present = {node.target for node in program.graph.nodes} & {*LOOPS}
    return program.run_decompositions({operator: LOOPS[operator] for operator in present}) if present else program


def require_few_calls(nodes: Sequence[fx.Node], keys: dict[str, str]) -> None:
    """Refuse a network that calls one layer so often that lowering each call takes minutes.

    Args:
        nodes: of the exported network.
        keys: parameters by the name of their node.

    Raises:
        TrialError: naming the layer.
    """
    calls, name = max(((len(node.users), keys[node.name]) for node in nodes if node.name in keys), default=(0, ""))
    if calls > MOST_CALLS:
        raise TrialError(f"its programs hold every call of a layer, at most {MOST_CALLS}, and {name} is read by "
                         f"{calls}: the steps of a loop are written out; torch's own nn.GRU, nn.RNN and nn.LSTM "
                         "(without proj_size) stay loops")


def _looped(cell: Cell, inputs: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], biased: bool, layers: int,
            bidirectional: bool, batch_first: bool) -> tuple[Tensor, States]:
    """Run all layers of a recurrent operator.

    Args:
        cell: one step.
        inputs: the sequence `(N, T, features)`, or `(T, N, features)`.
        states: first states `(layers * directions, N, hidden)`.
        weights: of every layer and direction in torch's order.
        biased: whether biases are among them.
        layers: how many.
        bidirectional: whether each has two directions.
        batch_first: whether the sequence has samples first.

    Returns:
        The sequence of the last layer, and the last states.
    """
    sequence = inputs.transpose(0, 1) if batch_first else inputs
    directions = 2 if bidirectional else 1
    count = len(weights) // (layers * directions)
    last: list[States] = []
    for _ in range(layers):
        sides = []
        for direction in range(directions):
            place = len(last)
            side, final = _direction(cell, sequence, tuple(state[place] for state in states),
                                     weights[place * count:(place + 1) * count], biased, direction == 1)
            sides.append(side)
            last.append(final)
        sequence = torch.cat(sides, 2) if bidirectional else sides[0]
    outputs = sequence.transpose(0, 1) if batch_first else sequence
    return outputs, tuple(torch.stack(of) for of in zip(*last, strict=True))


def _direction(cell: Cell, sequence: Tensor, states: States, weights: Sequence[Tensor], biased: bool,
               backwards: bool) -> tuple[Tensor, States]:
    """One layer in one direction: its outputs `(T, N, hidden)`, and its last states."""
    read = F.linear(sequence, weights[0], weights[2] if biased else None)

    def step(*values: Tensor) -> list[Tensor]:
        carried, inputs, recurrent = values[:len(states)], values[len(states)], values[len(states) + 1:]
        following = cell(inputs, F.linear(carried[0], *recurrent), carried)
        return [*following, following[0].clone()]  # a loop's outputs share no memory with its states

    # The operator itself: the function `scan` compiles the step anew for other shapes, and at most eight times.
    *last, outputs = torch.ops.higher_order.scan(step, [*states], [read.flip(0) if backwards else read],
                                                 (weights[1], weights[3]) if biased else (weights[1],))
    return outputs.flip(0) if backwards else outputs, tuple(last)


def _gru_cell(inputs: Tensor, recurrent: Tensor, states: States) -> States:
    reset, update, value = inputs.chunk(3, 1)
    reset_gate, update_gate, last = recurrent.chunk(3, 1)
    new = (value + (reset + reset_gate).sigmoid() * last).tanh()
    return (new + (update + update_gate).sigmoid() * (states[0] - new),)


def _lstm_cell(inputs: Tensor, recurrent: Tensor, states: States) -> States:
    input_gate, forget_gate, value, output_gate = (inputs + recurrent).chunk(4, 1)
    cell = forget_gate.sigmoid() * states[1] + input_gate.sigmoid() * value.tanh()
    return output_gate.sigmoid() * cell.tanh(), cell


def _lstm(inputs: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], biased: bool, layers: int, *rest: Any
          ) -> tuple[Tensor, Tensor, Tensor]:
    _dropout, _train, bidirectional, batch_first = rest
    outputs, (hidden, cells) = _looped(_lstm_cell, inputs, states, weights, biased, layers, bidirectional, batch_first)
    return outputs, hidden, cells


def _of_one_state(cell: Cell) -> Callable[..., tuple[Tensor, Tensor]]:
    def operator(inputs: Tensor, state: Tensor, weights: Sequence[Tensor], biased: bool, layers: int, *rest: Any
                 ) -> tuple[Tensor, Tensor]:
        _dropout, _train, bidirectional, batch_first = rest
        outputs, (last,) = _looped(cell, inputs, (state,), weights, biased, layers, bidirectional, batch_first)
        return outputs, last
    return operator


_ATEN = torch.ops.aten
LOOPS: dict[Any, Callable[..., Any]] = {
    _ATEN.gru.input: _of_one_state(_gru_cell), _ATEN.lstm.input: _lstm,
    _ATEN.rnn_tanh.input: _of_one_state(lambda inputs, recurrent, _: ((inputs + recurrent).tanh(),)),
    _ATEN.rnn_relu.input: _of_one_state(lambda inputs, recurrent, _: ((inputs + recurrent).relu(),))}
