"""OpenVINO under the contract of formats, and what it alone must do."""

from __future__ import annotations

import pytest

from autocompress.core.plan import Step
from autocompress.errors import TrialError
from autocompress.formats.openvino.format import FORMAT
from autocompress.testing.exporters import integers
from autocompress.testing.format_contract import FormatContract
from autocompress.testing.techniques import workbench


class TestOpenvino(FormatContract):
    """Convolutions, sequences and tokens."""

    format, networks = FORMAT, ("residual", "gru", "encoder")


def test_activations_of_16_bits_are_refused() -> None:
    layer = workbench("mlp", FORMAT).network.table.layers[0]
    step = Step(layer.name, "quantize", {"weight_bits": 8, "activation_bits": 16})
    assert "16 bits" in FORMAT.legal(step, layer)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_refused(share: float) -> None:
    bench = workbench("flattened", FORMAT)
    data = bench.network.write(bench.network.compressor.compress(integers(bench, (3,), 8))).data
    with pytest.raises(TrialError, match="OpenVINO refuses the file"):
        FORMAT.open(data[:int(len(data) * share)])
