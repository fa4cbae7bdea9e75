"""Our stores under the contract, and what is particular to one of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autocompress.core.plan import Plan
from autocompress.core.store import FolderStore, MemoryStore, Reference, Store, weights_key
from autocompress.errors import StorageError
from autocompress.testing.store_contract import STEPS, StoreContract, weights_of


class TestFolderStore(StoreContract):
    """A study's folder."""

    def make(self, folder: Path) -> Store:
        """A new one."""
        return FolderStore(folder)


class TestMemoryStore(StoreContract):
    """A worker's memory."""

    def make(self, folder: Path) -> Store:
        """A new one."""
        return MemoryStore()


def test_a_folder_is_laid_out_by_kind(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "study", {"earlier": tmp_path / "first" / "weights"})
    plan = Plan.of(STEPS)
    FolderStore(tmp_path / "first").put(weights_key(plan, 2), weights_of(plan))
    store.put(weights_key(plan, 1), weights_of(plan))
    assert (tmp_path / "study" / "weights" / f"{plan.fingerprint}-1.safetensors").is_file()
    assert [key for key, _ in store.nearest(plan)] == [f"earlier/{plan.fingerprint}-2.safetensors",
                                                       weights_key(plan, 1)]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"files/a\.onnx must be writable, but: Not a directory"):
        FolderStore(tmp_path / "file").put("files/a.onnx", b"x")


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    store = FolderStore(tmp_path, limits={"statistics": 250})
    for age, name in enumerate("abc"):
        store.put(f"statistics/{name}-1.safetensors", bytes(100))
        os.utime(store.path(f"statistics/{name}-1.safetensors"), (1000 + age, 1000 + age))
        if name == "b":
            assert store.get("statistics/a-1.safetensors") is not None  # read just now
            os.utime(store.path("statistics/b-1.safetensors"), (1, 1))
    assert store.keys("statistics") == ["statistics/a-1.safetensors", "statistics/c-1.safetensors"]


def test_a_reference_is_fetched_once_and_anew_when_lent_again() -> None:
    fetched: list[str] = []
    store = MemoryStore({"files/a": Reference({}, lambda: fetched.append("a") or b"1")})  # type: ignore[func-returns-value]
    assert fetched == [] and store.keys("files") == ["files/a"]
    assert store.get("files/a") == store.get("files/a") == b"1" and fetched == ["a"]
    store.lend({"files/a": Reference({}, lambda: b"2")})
    assert store.get("files/a") == b"2" and store.taken() == {}
    store.lend({"files/a": Reference({}, lambda: None)})
    assert store.get("files/a") is None
