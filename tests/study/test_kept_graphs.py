"""Graphs of the original that are kept: used where nothing changed, made anew where anything did."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autocompress.formats.onnx.format import OnnxFormat
from autocompress.formats.onnx.template import Template, export_template
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.tasks.splits import Split, TaskData


class Net(nn.Module):
    """A classifier of points."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Scores `(N, 4)`."""
        return self.last(self.norm(self.first(x)).relu())


class Shifted(Net):
    """The same layers, and another computation."""

    def forward(self, x: Tensor) -> Tensor:
        """Scores `(N, 4)`."""
        return self.last(self.norm(self.first(x)).relu() + 0.01)


def _bench(folder: Path, model: nn.Module) -> Workbench:
    generator = torch.Generator().manual_seed(0)
    splits = [Split(torch.randn(64, 8, generator=generator), torch.arange(64) % 4) for _ in range(3)]
    return Workbench(model.eval(), TaskData("points", *splits, 4), load_profile("host"), seed=0, folder=folder,
                     epochs=1)


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was exported, in order."""
    calls: list[str] = []
    for name in ("prepare", "plain"):
        make = getattr(OnnxFormat, name)

        def counted(*args: object, name: str = name, make: object = make) -> object:
            calls.append(name)
            return make(*args)  # type: ignore[operator]

        monkeypatch.setattr(OnnxFormat, name, counted)
    return calls


def test_a_second_start_exports_nothing_and_has_the_same_files(tmp_path: Path, exports: list[str]) -> None:
    first = _bench(tmp_path, Net())
    before = first.network.writer.original_file, first.evaluator.original.file
    assert exports == ["prepare", "plain"]
    again = _bench(tmp_path, Net())
    assert (again.network.writer.original_file, again.evaluator.original.file) == before
    assert exports == ["prepare", "plain"] and not again.evaluator.original.note
    assert again.network.table == first.network.table


def test_other_weights_and_another_forward_are_exported_anew(tmp_path: Path, exports: list[str]) -> None:
    assert _bench(tmp_path, Net()).evaluator.original.file
    other = Net()
    with torch.no_grad():
        other.first.weight[0, 0] += 0.01
    file = _bench(tmp_path, other).evaluator.original.file
    assert exports == ["prepare", "plain"] * 2
    shifted = _bench(tmp_path, Shifted()).evaluator.original
    assert exports == ["prepare", "plain"] * 3 and shifted.file != file and not shifted.note


@pytest.mark.parametrize("damage", ["bytes", "meaning"])
def test_what_is_damaged_or_of_another_network_is_made_anew(tmp_path: Path, exports: list[str], damage: str) -> None:
    first = _bench(tmp_path, Net())
    expected = first.network.writer.original_file, first.evaluator.original.file
    graphs = first.network.graphs
    other = _bench(tmp_path / "other", Shifted()).network
    if damage == "bytes":
        for path in (tmp_path / "statistics").glob("*.bin"):
            path.write_bytes(path.read_bytes()[:-1] + b"\0")
    else:  # as though the answers of another code had the same digits
        graphs.put("graph", first.network.writer.format, other.writer.format.packed(other.writer.prepared) or b"")
        graphs.put("plain", first.network.writer.format, OnnxFormat().plain(Shifted().eval(), torch.zeros(2, 8)))
    exports.clear()
    again = _bench(tmp_path, Net())
    assert (again.network.writer.original_file, again.evaluator.original.file) == expected
    assert exports == ["prepare", "plain"]


def test_a_template_is_the_same_after_packing() -> None:
    template = export_template(Net().eval(), torch.zeros(2, 8))
    again = Template.unpacked(template.packed())
    assert again == template and again.slots == template.slots and again.anchors == template.anchors
