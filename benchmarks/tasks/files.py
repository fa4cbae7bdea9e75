"""The competitor, a plain export quantised by ONNX Runtime, and how files are run and timed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import chdir
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from subject import Arrays
from torch import nn

CALIBRATION, BATCH = 128, 16


class Samples(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime carries no types
    """Batches of samples `(N, …)` by name."""

    def __init__(self, inputs: Arrays) -> None:
        self._batches: Iterator[Arrays] = pieces(inputs, CALIBRATION)

    def get_next(self) -> Arrays | None:
        """The next batch, None behind the last."""
        return next(self._batches, None)


def pieces(inputs: Arrays, most: int | None = None) -> Iterator[Arrays]:
    """Batches of the first `most` samples."""
    rows = min(len(next(iter(inputs.values()))), most or 2**62)
    return ({name: array[i:min(i + BATCH, rows)] for name, array in inputs.items()} for i in range(0, rows, BATCH))


def plain_export(network: nn.Module, inputs: Arrays, path: Path) -> None:
    """`torch.onnx.export` as its documentation shows it, with a free batch size."""
    example = {name: torch.from_numpy(array[:2]) for name, array in inputs.items()}
    torch.onnx.export(network.eval(), (), str(path), kwargs=example, input_names=[*example], dynamo=True,
                      external_data=False, verbose=False,
                      dynamic_shapes={name: {0: torch.export.Dim("batch")} for name in example})


def int8(float_file: Path, inputs: Arrays, path: Path, *, dynamic: bool) -> None:
    """int8 weights per channel; activations as uint8 in ranges of the extremes of 128 samples, or, `dynamic`, in those
    of each run."""
    prepared = path.with_suffix(".prepared.onnx")
    with chdir(path.parent):  # it leaves files where it fails
        try:
            quant_pre_process(str(float_file), str(prepared))
        except Exception:  # where its symbolic shapes do not suffice, it says to leave them out
            quant_pre_process(str(float_file), str(prepared), skip_symbolic_shape=True)
    if dynamic:
        quantize_dynamic(str(prepared), str(path), per_channel=True, weight_type=QuantType.QInt8)
    else:
        quantize_static(str(prepared), str(path), Samples(inputs), quant_format=QuantFormat.QDQ, per_channel=True,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)


def session(path: Path) -> onnxruntime.InferenceSession:
    """The file on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def fed(runtime: onnxruntime.InferenceSession, batch: Arrays) -> Arrays:
    """A batch under the file's names: the only input may be called otherwise."""
    names = [each.name for each in runtime.get_inputs()]
    return {names[0]: next(iter(batch.values()))} if len(names) == 1 else {name: batch[name] for name in names}


def outputs_of(path: Path, inputs: Arrays, outputs: tuple[str, ...]) -> Arrays:
    """What a file puts out for all samples, `(N, …)` by the names `outputs`: those of the file, else in its order."""
    runtime = session(path)
    names = [each.name for each in runtime.get_outputs()]
    names = [*outputs] if {*names} == {*outputs} else names
    rows = [runtime.run(names, fed(runtime, batch)) for batch in pieces(inputs)]
    return {name: np.concatenate([row[i] for row in rows]) for i, name in enumerate(outputs)}


def processor_ms(files: Mapping[str, Path], inputs: Arrays, rounds: int = 25) -> dict[str, float]:
    """Median milliseconds of processor time of one sample, the files taking turns in one process and one thread."""
    sessions = {label: session(path) for label, path in files.items()}
    feeds = {label: fed(runtime, {name: array[:1] for name, array in inputs.items()})
             for label, runtime in sessions.items()}
    repeats = {}
    for label, runtime in sessions.items():
        runtime.run(None, feeds[label])
        start = time.thread_time()
        runtime.run(None, feeds[label])
        repeats[label] = max(1, round(0.005 / max(time.thread_time() - start, 1e-6)))
    taken: dict[str, list[float]] = {label: [] for label in files}
    for _ in range(rounds):
        for label, runtime in sessions.items():
            start = time.thread_time()
            for _ in range(repeats[label]):
                runtime.run(None, feeds[label])
            taken[label].append((time.thread_time() - start) / repeats[label])
    return {label: 1e3 * float(np.median(values)) for label, values in taken.items()}
