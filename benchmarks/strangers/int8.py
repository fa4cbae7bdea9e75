"""What a careful engineer gets without a search: ONNX Runtime's static int8 of a plain export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

CALIBRATION = 128
BATCH = 16


class Samples(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime carries no types
    """Batches of normalised samples `(N, …)` float32."""

    def __init__(self, inputs: np.ndarray) -> None:
        self._batches: Iterator[dict[str, np.ndarray]] = iter(
            [{"input": inputs[i:i + BATCH]} for i in range(0, len(inputs), BATCH)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, None behind the last."""
        return next(self._batches, None)


def plain_export(network: nn.Module, example: np.ndarray, path: Path) -> None:
    """`torch.onnx.export` as its documentation shows it, with a free batch size."""
    torch.onnx.export(network.eval(), (torch.from_numpy(example),), str(path), input_names=["input"],
                      output_names=["output"], dynamo=True, external_data=False, verbose=False,
                      dynamic_shapes=({0: torch.export.Dim("batch")},))


def static_int8(float_file: Path, inputs: np.ndarray, path: Path) -> None:
    """uint8 activations, int8 weights per channel, ranges from the extremes of `inputs` `(N, …)`."""
    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(float_file), str(prepared))
    quantize_static(str(prepared), str(path), Samples(inputs), quant_format=QuantFormat.QDQ, per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)


def session(path: Path) -> onnxruntime.InferenceSession:
    """The file on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def accuracy(path: Path, inputs: np.ndarray, labels: np.ndarray) -> float:
    """Share of right answers of a file, in batches of 16."""
    runtime = session(path)
    name = runtime.get_inputs()[0].name
    rows = [runtime.run(None, {name: inputs[i:i + BATCH]})[0].argmax(1) for i in range(0, len(inputs), BATCH)]
    return float((np.concatenate(rows) == labels).mean())


def processor_ms(files: Mapping[str, Path], example: np.ndarray, rounds: int = 25) -> dict[str, float]:
    """Median milliseconds of processor time of one sample, the files taking turns in one process and one thread."""
    import time

    sessions = {label: session(path) for label, path in files.items()}
    names = {label: runtime.get_inputs()[0].name for label, runtime in sessions.items()}
    repeats = {}
    for label, runtime in sessions.items():
        runtime.run(None, {names[label]: example})
        start = time.thread_time()
        runtime.run(None, {names[label]: example})
        repeats[label] = max(1, round(0.005 / max(time.thread_time() - start, 1e-6)))
    taken: dict[str, list[float]] = {label: [] for label in files}
    for _ in range(rounds):
        for label, runtime in sessions.items():
            start = time.thread_time()
            for _ in range(repeats[label]):
                runtime.run(None, {names[label]: example})
            taken[label].append((time.thread_time() - start) / repeats[label])
    return {label: 1e3 * float(np.median(values)) for label, values in taken.items()}
