"""Control flow that hangs on data is refused with the user's own line, and nothing else on the screen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.graph.trace import trace
from autocompress.errors import InputError


class Deciding(nn.Module):
    """Does what a function says before a layer."""

    def __init__(self, decide: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.decide, self.fc = decide, nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 4)` → `(N, 5)`."""
        scores: Tensor = self.fc(self.decide(x))
        return scores


def _branch(x: Tensor) -> Tensor:
    if x.sum() > 0:  # the line
        return x
    return -x


def _item(x: Tensor) -> Tensor:
    return x[:, :int(x.abs().max().item()) + 4]  # the line


def _loop(x: Tensor) -> Tensor:
    for _ in range(int((x > 0).sum())):  # the line
        x = x + 1
    return x


@pytest.mark.parametrize("decide", [_branch, _item, _loop])
def test_the_users_line_and_the_way_out_are_named(decide: Callable[[Tensor], Tensor],
                                                  capfd: pytest.CaptureFixture[str]) -> None:
    lines = Path(__file__).read_text().splitlines()
    start = decide.__code__.co_firstlineno
    line = next(number for number in range(start, start + 5) if "# the line" in lines[number - 1])
    with pytest.raises(InputError) as caught:
        trace(Deciding(decide).eval(), (4,))
    text = str(caught.value)
    assert f"{__file__}:{line} (`{lines[line - 1].strip()}`)" in text
    assert "torch.where" in text and "\n" not in text and "\x1b" not in text
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""


def test_another_fault_is_told_where_it_comes_from() -> None:
    with pytest.raises(InputError, match=r"test_untraceable\.py:\d+"):
        trace(Deciding(lambda x: torch.from_numpy(x.numpy())).eval(), (4,))


class Mixed(nn.Linear):
    """Computes in 16 bits of its own accord."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(input).float()


def test_autocast_inside_forward_is_named() -> None:
    with pytest.raises(InputError, match=r"torch\.autocast, on or off: put autocast around the call"):
        trace(nn.Sequential(Mixed(4, 4), nn.Linear(4, 5)).eval(), (4,))


class Packed(nn.Module):
    """Reads sequences of unequal length as torch's tutorials do."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.fc = nn.GRU(1, 4, batch_first=True), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 4)` → `(N, 5)`."""
        lengths = (x > -9).sum(1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(x[:, :, None], lengths, batch_first=True, enforce_sorted=False)
        scores: Tensor = self.fc(self.rnn(packed)[1][0])
        return scores


def test_packed_sequences_are_named_with_the_way_out() -> None:
    with pytest.raises(InputError, match=r"packed sequences, as at .*test_untraceable\.py:\d+ .*torch\.gather"):
        trace(Packed().eval(), (4,))
