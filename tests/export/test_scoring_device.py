"""Candidates are scored on the device of their training, where ONNX Runtime can; the code on the CPU is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from autocompress.formats.onnx.format import FORMAT

CPU, GPU = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.fixture(scope="module")
def data() -> bytes:
    """A file of one layer."""
    return FORMAT.plain(nn.Linear(4, 2), torch.ones(2, 4))


@pytest.mark.parametrize(("device", "installed", "expected"), [
    ("cpu", [GPU, CPU], [CPU]), ("cuda", [CPU], [CPU]), ("cuda", [GPU, CPU], [(GPU, {"device_id": "0"}), CPU]),
    ("cuda:1", [GPU, CPU], [(GPU, {"device_id": "1"}), CPU])])
def test_files_are_scored_where_they_can_be(data: bytes, device: str, installed: list[str], expected: list[Any],
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = onnxruntime.InferenceSession

    def session(source: Any, options: Any, providers: list[Any]) -> Any:
        asked.extend(providers)
        return real(source, options, providers=[CPU])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: installed)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    inputs = {"input": np.ones((3, 4), np.float32)}
    answers = FORMAT.open_on(device, data).run(inputs)
    assert asked == expected
    asked.clear()
    assert all(np.array_equal(value, answers[name]) for name, value in FORMAT.open(data).run(inputs).items())
    assert asked == [CPU], "what ships is run as its users run it"
