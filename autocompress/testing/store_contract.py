"""The contract of a store: inherit `StoreContract`, say how to make one, and pytest runs it all.

    class TestFolderStore(StoreContract):
        def make(self, folder):
            return FolderStore(folder)
"""

from __future__ import annotations

import json
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load, save

from autocompress.core.plan import Plan, Step
from autocompress.core.store import STRUCTURE, MemoryStore, Store, header_of, references_to, weights_key

STEPS = tuple(Step(f"conv{n}", "quantize", {"weight_bits": 8}) for n in range(3))


def weights_of(plan: Plan, value: float = 1.0) -> bytes:
    """A file of weights of one `value` that says a `plan` in its header."""
    structure = json.dumps({"plan": msgspec.to_builtins(plan), "kept": {}})
    data: bytes = save({"weight": np.full(2, value, np.float32)}, {STRUCTURE: structure})
    return data


class StoreContract:
    """What every store must do."""

    def make(self, folder: Path) -> Store:
        """Return an empty store; `folder` is an empty folder that it may use."""
        raise NotImplementedError

    def test_what_was_put_last_is_got_whole(self, tmp_path: Path) -> None:
        store = self.make(tmp_path)
        assert store.get("files/a.onnx") is None
        for data in (b"", b"first", bytes(range(256)) * 4096):
            store.put("files/a.onnx", data)
            assert store.get("files/a.onnx") == data

    def test_keys_are_of_one_kind_and_sorted(self, tmp_path: Path) -> None:
        store = self.make(tmp_path)
        for key in ("files/b.onnx", "files/a.onnx", "teacher/teacher-1.safetensors"):
            store.put(key, b"x")
        assert store.keys("files") == ["files/a.onnx", "files/b.onnx"]
        assert store.keys("weights") == []

    def test_what_was_read_or_put_is_what_was_used(self, tmp_path: Path) -> None:
        self.make(tmp_path).put("statistics/other.safetensors", b"x")
        store = self.make(tmp_path)
        store.put("statistics/a.safetensors", b"x")
        store.put("files/a.onnx", b"x")
        assert store.get("statistics/none.safetensors") is None
        assert store.used("statistics") == ["statistics/a.safetensors"]
        store.remove("statistics/a.safetensors")
        assert store.used("statistics") == []

    def test_what_was_removed_is_gone(self, tmp_path: Path) -> None:
        store = self.make(tmp_path)
        store.put("files/a.onnx", b"x")
        store.remove("files/a.onnx")
        store.remove("files/never.onnx")
        assert store.get("files/a.onnx") is None and store.keys("files") == []

    @pytest.mark.parametrize("key", ["", "files", "files/", "files/../a", "../files/a", "files/a/b", "other/a",
                                     "/files/a", "files/.hidden", "files/a\\..\\b"])
    def test_what_is_no_key_is_refused(self, key: str, tmp_path: Path) -> None:
        store = self.make(tmp_path / "store")
        with pytest.raises(ValueError, match="a key must be"):
            store.put(key, b"x")
        with pytest.raises(ValueError, match="a key must be"):
            store.get(key)
        with pytest.raises(ValueError, match="a key must be"):
            store.remove(key)
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

    def test_the_nearest_weights_share_most_steps(self, tmp_path: Path) -> None:
        store, plans = self.make(tmp_path), [Plan.of(STEPS[:count]) for count in range(4)]
        for plan in plans[:3]:
            store.put(weights_key(plan, 1), weights_of(plan))
        store.put("weights/mine.safetensors", b"not a file of weights")
        store.put("files/a.onnx", b"x")
        near = store.nearest(plans[3])
        assert [key for key, _ in near] == [weights_key(plan, 1) for plan in reversed(plans[:3])]
        assert [header for _, header in near] == [header_of(weights_of(plan)) for plan in reversed(plans[:3])]
        assert store.nearest(plans[3], 1) == near[:1]

    def test_a_worker_reads_by_reference_and_gives_back_what_it_puts(self, tmp_path: Path) -> None:
        store, plan, other = self.make(tmp_path), Plan.of(STEPS[:1]), Plan.of(STEPS[:2])
        store.put(weights_key(plan, 1), weights_of(plan))
        worker = MemoryStore(references_to(store, dict(store.nearest(plan))))
        ((key, _),) = worker.nearest(other)
        data = worker.get(key)
        assert data is not None and load(data)["weight"].tolist() == [1, 1]
        worker.put(weights_key(other, 1), weights_of(other, 2.0))
        assert store.get(weights_key(other, 1)) is None
        for put, data in worker.taken().items():
            store.put(put, data)
        assert store.get(weights_key(other, 1)) == weights_of(other, 2.0) and worker.taken() == {}

    def test_a_reader_beside_writers_never_sees_a_part(self, tmp_path: Path) -> None:
        store, contents = self.make(tmp_path), [bytes([n]) * 100_000 for n in range(4)]
        store.put("files/a.onnx", contents[0])
        writers = [threading.Thread(target=store.put, args=("files/a.onnx", data)) for data in contents * 4]
        for writer in writers:
            writer.start()
        read = [store.get("files/a.onnx") for _ in range(20)]
        for writer in writers:
            writer.join()
        assert set(read) <= set(contents)
