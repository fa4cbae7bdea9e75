"""The workbench: who answers for the teacher."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from autocompress.hardware.profile import load_profile
from autocompress.study import workbench
from autocompress.study.workbench import Workbench
from autocompress.testing.networks import NETWORKS, task_data
from autocompress.testing.techniques import outputs


@pytest.mark.parametrize(("agreement", "fast"), [(0.0, True), (1.01, False)])
def test_the_originals_own_8_bit_file_teaches_where_it_agrees(agreement: float, fast: bool, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbench, "TEACHER_AGREEMENT", agreement)
    chain = NETWORKS["chain"]
    bench = Workbench(chain.make(), task_data(chain.input_shape), load_profile("host"), seed=0, folder=tmp_path,
                      epochs=1)
    rows = torch.arange(32)
    inputs, logits = bench.teacher.batch(0, rows)
    expected = outputs(bench.model, inputs)
    assert torch.equal(logits, expected) is not fast
    assert np.corrcoef(logits.flatten().numpy(), expected.flatten().numpy())[0, 1] > 0.85
