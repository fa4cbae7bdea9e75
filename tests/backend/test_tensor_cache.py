"""What is kept between candidates and between processes: found again when nothing changed, never when something did."""

from __future__ import annotations

import copy
import logging
import os
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.statistics import tensor_cache
from autocompress.backend.statistics.lru_cache import LruTensorCache, content
from autocompress.backend.statistics.moments import Statistics
from autocompress.backend.statistics.tensor_cache import LIMIT_BYTES, TensorCache
from autocompress.core.store import STATISTICS, FolderStore


class Net(nn.Module):
    """One layer and a function that no module shows."""

    def __init__(self, bend: str = "relu") -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(6, 8), nn.Linear(8, 3)
        self.bend = bend

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 6)` → `(N, 3)`."""
        hidden = self.fc(x)
        scores: Tensor = self.out(torch.relu(hidden) if self.bend == "relu" else torch.tanh(hidden))
        return scores


def _net(bend: str = "relu") -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net(bend).eval()


INPUTS = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))


def _store(folder: Path, limit: int = LIMIT_BYTES) -> FolderStore:
    return FolderStore(folder, {STATISTICS: folder}, {STATISTICS: limit})


def _measure(folder: Path | None, net: nn.Module, inputs: Tensor = INPUTS) -> Statistics:
    statistics = Statistics(net, inputs, None if folder is None else _store(folder))
    assert statistics.moments("out") is not None
    assert statistics.sensitivity("out") is not None
    return statistics


def _never(*_: object) -> None:
    raise AssertionError("measured again")


def test_a_second_process_reads_what_the_first_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, plain = _measure(tmp_path, _net()), _measure(None, _net())
    monkeypatch.setattr(Statistics, "_measured_moments", _never)
    monkeypatch.setattr(Statistics, "_measured_sensitivities", _never)
    second = _measure(tmp_path, _net())
    for ask in ("moments", "sensitivity"):
        for name in ("fc", "out"):
            facts = [getattr(each, ask)(name) for each in (plain, first, second)]
            for field in fields(facts[0]):
                values = [getattr(fact, field.name) for fact in facts]
                assert torch.equal(values[0], values[1])
                assert torch.equal(values[0], values[2])
    assert second.moments("ghost") is None


def test_another_network_or_other_data_are_measured_anew(tmp_path: Path) -> None:
    changed = _net()
    with torch.no_grad():
        changed.fc.weight[0, 0] += 1e-6
    for net, inputs in ((_net(), INPUTS), (changed, INPUTS), (_net("tanh"), INPUTS), (_net(), INPUTS[:31])):
        kept, fresh = _measure(tmp_path, net, inputs).moments("out"), _measure(None, net, inputs).moments("out")
        assert kept is not None
        assert fresh is not None
        assert torch.equal(kept.covariance, fresh.covariance)
    assert len(list(tmp_path.glob("moments-*.safetensors"))) == 4


@pytest.mark.parametrize("damage", ["cut short", "one bit", "text", "another's", "empty"])
def test_a_damaged_or_foreign_file_is_said_and_measured_again(tmp_path: Path, damage: str,
                                                              caplog: pytest.LogCaptureFixture) -> None:
    expected = _measure(tmp_path, _net()).moments("fc")
    (path,) = tmp_path.glob("moments-*")
    raw = bytearray(path.read_bytes())
    if damage == "another's":
        _measure(tmp_path / "other", _net("tanh"))
        raw = bytearray(next((tmp_path / "other").glob("moments-*")).read_bytes())
    elif damage == "one bit":
        raw[-3] ^= 1
    else:
        raw = {"cut short": raw[:-8], "text": bytearray(b"not tensors"), "empty": bytearray()}[damage]
    path.write_bytes(raw)
    with caplog.at_level(logging.WARNING):
        moments = _measure(tmp_path, _net()).moments("fc")
    assert expected is not None
    assert moments is not None
    assert torch.equal(moments.covariance, expected.covariance)
    assert [record.message for record in caplog.records if "cannot be used" in record.message
            and "computing it again" in record.message]
    caplog.clear()
    _measure(tmp_path, _net())
    assert not caplog.records, "the file was mended"


def test_a_folder_that_cannot_be_written_costs_time_alone(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert _measure(blocked / "below", _net()).moments("fc") is not None


def test_the_folder_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_cache, "LIMIT_BYTES", 3000)
    store = _store(tmp_path, 3000)
    for i in range(4):
        TensorCache(store, lambda i=i: f"{i}" * 64).get("x", lambda: {"a": torch.zeros(256)})
        for path in tmp_path.glob("*.safetensors"):  # file systems keep times too coarsely for a test
            os.utime(path, (0, int(path.stem.split("-")[1][0])))
    assert sorted(path.stem[2] for path in tmp_path.glob("*")) == ["2", "3"]
    TensorCache(store, lambda: "9" * 64).get("x", lambda: {"a": torch.zeros(1024)})
    assert not list(tmp_path.glob("x-9*")), "larger than the whole folder may be"


def test_results_are_shared_until_there_is_no_room() -> None:
    memo, computed = LruTensorCache(limit_bytes=2000), []

    def ask(key: str) -> Tensor:
        return memo.get(key, lambda: computed.append(key) or torch.zeros(200))

    for key in ("a", "b", "a", "c", "a", "b"):
        ask(key)
    assert computed == ["a", "b", "c", "b"], "the one not used for longest goes first"
    assert memo.bytes == 1600
    assert memo.get("large", lambda: torch.zeros(4000)).numel() == 4000
    assert memo.bytes == 0


def test_content_tells_values_shapes_and_types_apart() -> None:
    base = torch.arange(6.0)
    same = copy.deepcopy(base)
    others = [base.reshape(2, 3), base.double(), base + 1e-6, base.flip(0)]
    assert content(same) == content(base)
    assert len({content(each) for each in (base, *others, None)}) == 6
    assert content(base.reshape(2, 3).T) == content(base.reshape(2, 3).T.contiguous())
