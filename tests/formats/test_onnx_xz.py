"""Entropy-coded ONNX files under the contract of formats, and streams that lie."""

from __future__ import annotations

import lzma
from collections.abc import Callable

import pytest

from autocompress.core.plan import Plan
from autocompress.errors import TrialError
from autocompress.estimate import estimate
from autocompress.formats.onnx.format import FORMAT as ONNX
from autocompress.formats.onnx_xz.coding import MOST_TIMES, decoded, encoded
from autocompress.formats.onnx_xz.format import FORMAT
from autocompress.study.workbench import Workbench
from autocompress.testing.exporters import integers
from autocompress.testing.format_contract import FormatContract
from autocompress.testing.techniques import workbench


class TestOnnxXz(FormatContract):
    """A small network; the file in the stream is one for ONNX Runtime."""

    format, networks = FORMAT, ("residual",)

    def test_sizes_are_predicted(self, bench: Workbench) -> None:
        """As bounds: a stream is never larger."""
        for plan in (Plan(), integers(bench, (8, 4), 32)):
            compressed = bench.network.compressor.compress(plan)
            bound = estimate(bench.network.table, compressed.plan, bench.evaluator.profile, FORMAT)["size_bytes"]
            assert bound / 2 < len(bench.network.write(compressed).data) <= bound


def small() -> bytes:
    bench = workbench("flattened", FORMAT)
    return bench.network.write(bench.network.compressor.compress(integers(bench, (3,), 8))).data


def test_the_stream_holds_the_file_of_onnx() -> None:
    bench = workbench("flattened", ONNX)
    compressed = bench.network.compressor.compress(integers(bench, (3,), 8))
    whole = bench.network.write(compressed).data
    assert decoded(small()) == whole == lzma.decompress(small()) and len(small()) < len(whole)
    assert FORMAT.checked(small())["decoded_bytes"] == len(whole)


@pytest.mark.parametrize(("spoil", "reason"), [
    (lambda data: data[:-5], "must be whole"), (lambda data: data[:len(data) // 2], "must be whole"),
    (lambda data: data + b"more", "4 bytes follow"), (lambda data: data + data, "bytes follow"),
    (lambda data: b"\x28\xb5\x2f\xfd" + data, "no xz stream"),
    (lambda data: data[:-200] + bytes([data[-200] ^ 1]) + data[-199:], "xz stream")],
    ids=["truncated", "half", "trailing", "two streams", "wrong magic", "changed"])
def test_a_stream_that_is_not_one_whole_is_refused(spoil: Callable[[bytes], bytes], reason: str) -> None:
    with pytest.raises(TrialError, match=reason):
        FORMAT.open(spoil(small()))


def test_a_stream_that_grows_without_end_is_refused() -> None:
    bomb = lzma.compress(bytes(2**24))
    assert MOST_TIMES * len(bomb) < 2**24
    with pytest.raises(TrialError, match="goes on beyond"):
        FORMAT.open(bomb)
    with pytest.raises(TrialError, match="times as large"):
        encoded(bytes(2**24))
