"""LSTM, GRU and plain recurrent layers whose weights are layers of their own: each can be quantised by itself.

Hochreiter & Schmidhuber, "Long Short-Term Memory" (1997); Cho et al., "Learning Phrase Representations using RNN
Encoder-Decoder" (EMNLP 2014); Sak et al. (Interspeech 2014) for the projection of the state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FAST: dict[str, Any] = {"LSTM": torch._VF.lstm, "GRU": torch._VF.gru,  # type: ignore[attr-defined]
                         "RNN_TANH": torch._VF.rnn_tanh, "RNN_RELU": torch._VF.rnn_relu}  # type: ignore[attr-defined]


class Gates(nn.Linear):
    """One weight of a recurrent layer, with its bias.

    The weight is `(gates * hidden, in)`, with rows in torch's order of gates, or the state's projection
    `(proj, hidden)`.
    """


class Recurrent(nn.Module):
    """An `nn.LSTM`, `nn.GRU` or `nn.RNN` whose weights are `Gates` named `ih_l0`, `hh_l0`, `hr_l0`, `ih_l0_reverse` ….

    The whole sequence is computed in one call. Within `stepwise` it is computed step by step through the `Gates`, so
    that hooks see what each weight reads and writes.
    """

    def __init__(self, module: nn.RNNBase) -> None:
        super().__init__()
        self.mode, self.input_size, self.hidden_size = module.mode, module.input_size, module.hidden_size
        self.num_layers, self.bias, self.batch_first = module.num_layers, module.bias, module.batch_first
        self.dropout, self.bidirectional, self.proj_size = module.dropout, module.bidirectional, module.proj_size
        self.stepwise = False
        for suffix in self._suffixes():
            for name in ("ih", "hh", "hr") if self.proj_size else ("ih", "hh"):
                weight = getattr(module, f"weight_{name}_{suffix}")
                gates = nn.utils.skip_init(Gates, weight.shape[1], len(weight),  # type: ignore[no-untyped-call]
                                           bias=self.bias and name != "hr")
                gates.weight = weight
                if gates.bias is not None:
                    gates.bias = getattr(module, f"bias_{name}_{suffix}")
                self.add_module(f"{name}_{suffix}", gates)
        self.train(module.training)

    def _suffixes(self) -> list[str]:
        ends = ("", "_reverse") if self.bidirectional else ("",)
        return [f"l{layer}{end}" for layer in range(self.num_layers) for end in ends]

    def flatten_parameters(self) -> None:
        """Do nothing: torch's layers have this method, but here no contiguous copy of the weights exists."""

    def forward(self, inputs: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """Compute what the replaced layer computes, with the same arguments. TypeError for packed sequences."""
        if not isinstance(inputs, Tensor) or inputs.dim() != 3:
            raise TypeError("a recurrent layer must read one tensor (N, T, features)")
        samples = inputs.shape[0 if self.batch_first else 1]
        if hx is None:
            count = self.num_layers * (2 if self.bidirectional else 1)
            first = torch.zeros(count, samples, self.proj_size or self.hidden_size, dtype=inputs.dtype,
                                device=inputs.device)
            hx = first if self.mode != "LSTM" else (first, torch.zeros(
                count, samples, self.hidden_size, dtype=inputs.dtype, device=inputs.device))
        if self.stepwise or (self.proj_size and torch.compiler.is_exporting()):  # ONNX has no such operator
            return self._step_by_step(inputs, hx)
        result = _FAST[self.mode](inputs, hx, self._flat(), self.bias, self.num_layers, self.dropout, self.training,
                                  self.bidirectional, self.batch_first)
        return result[0], result[1:] if self.mode == "LSTM" else result[1]

    def _flat(self) -> list[Tensor]:
        flat = []
        for suffix in self._suffixes():
            pair = [self.get_submodule(f"{name}_{suffix}") for name in ("ih", "hh")]
            flat += [gates.weight for gates in pair]
            flat += [gates.bias for gates in pair] if self.bias else []
            flat += [self.get_submodule(f"hr_{suffix}").weight] if self.proj_size else []
        return flat  # type: ignore[return-value]

    def _step_by_step(self, inputs: Tensor, hx: Any) -> tuple[Tensor, Any]:
        states, cells = hx if self.mode == "LSTM" else (hx, None)
        sequence = inputs if self.batch_first else inputs.transpose(0, 1)
        last: list[tuple[Tensor, Tensor | None]] = []
        for layer in range(self.num_layers):
            if layer and self.dropout:
                sequence = F.dropout(sequence, self.dropout, self.training)
            sides = []
            for end in ("", "_reverse") if self.bidirectional else ("",):
                place = len(last)
                side, state, cell = self._direction(f"l{layer}{end}", sequence, states[place],
                                                    None if cells is None else cells[place])
                sides.append(side)
                last.append((state, cell))
            sequence = torch.cat(sides, 2)
        final = torch.stack([state for state, _ in last])
        outputs = sequence if self.batch_first else sequence.transpose(0, 1)
        if self.mode != "LSTM":
            return outputs, final
        return outputs, (final, torch.stack([cell for _, cell in last if cell is not None]))

    def _direction(self, suffix: str, sequence: Tensor, state: Tensor,
                   cell: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run one layer in one direction.

        Returns:
            The states `(N, T, hidden)` in the order of the sequence, the last state and the last cell.
        """
        read, remember = self.get_submodule(f"ih_{suffix}"), self.get_submodule(f"hh_{suffix}")
        project = self.get_submodule(f"hr_{suffix}") if self.proj_size else None
        inputs = read(sequence)
        outputs = []
        steps = range(sequence.shape[1])
        for step in reversed(steps) if suffix.endswith("_reverse") else steps:
            state, cell = _CELLS[self.mode](inputs[:, step], remember(state), state, cell)
            state = state if project is None else project(state)
            outputs.append(state)
        return torch.stack(outputs[::-1] if suffix.endswith("_reverse") else outputs, 1), state, cell


def _lstm(inputs: Tensor, recurrent: Tensor, _: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor | None]:
    assert cell is not None
    input_gate, forget_gate, value, output_gate = (inputs + recurrent).chunk(4, 1)
    cell = forget_gate.sigmoid() * cell + input_gate.sigmoid() * value.tanh()
    return output_gate.sigmoid() * cell.tanh(), cell


def _gru(inputs: Tensor, recurrent: Tensor, state: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor | None]:
    reset, update, value = zip(inputs.chunk(3, 1), recurrent.chunk(3, 1), strict=True)
    update_gate = (update[0] + update[1]).sigmoid()
    new = (value[0] + (reset[0] + reset[1]).sigmoid() * value[1]).tanh()
    return new + update_gate * (state - new), None


def _plain(activation: Callable[[Tensor], Tensor]) -> Callable[..., tuple[Tensor, Tensor | None]]:
    return lambda inputs, recurrent, state, cell: (activation(inputs + recurrent), None)


_CELLS: dict[str, Callable[..., tuple[Tensor, Tensor | None]]] = {
    "LSTM": _lstm, "GRU": _gru, "RNN_TANH": _plain(torch.tanh), "RNN_RELU": _plain(torch.relu)}


@contextmanager
def stepwise(model: nn.Module) -> Iterator[None]:
    """Within, the recurrent layers of `model` compute step by step, through modules that hooks can watch."""
    recurrent = [module for module in model.modules() if isinstance(module, Recurrent)]
    for module in recurrent:
        module.stepwise = True
    try:
        yield
    finally:
        for module in recurrent:
            module.stepwise = False


def count_steps(model: nn.Module, inputs: Tensor) -> dict[str, int]:
    """Return how often each of the `Gates` of `model`, by name, is applied to inputs `(N, …)`, step by step."""
    counts: dict[str, int] = {}

    def count(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            counts[name] = counts.get(name, 0) + 1
        return hook

    handles = [module.register_forward_hook(count(name)) for name, module in model.named_modules()
               if isinstance(module, Gates)]
    if handles:
        with torch.no_grad(), stepwise(model):
            model(inputs)
    for handle in handles:
        handle.remove()
    return counts
