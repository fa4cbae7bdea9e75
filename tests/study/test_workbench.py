"""The workbench: who answers for the teacher."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from autocompress.backend.training.recipe import Recipe
from autocompress.backend.training.teacher import Teacher
from autocompress.core.plan import Plan, Step
from autocompress.core.store import weights_key
from autocompress.errors import InputError
from autocompress.formats.pytorch.safetensors import SafetensorsFormat
from autocompress.hardware.profile import load_profile
from autocompress.space.spec import load_space
from autocompress.study import int8_teacher as answering
from autocompress.study.identity import identity_of
from autocompress.study.loading import make_bench
from autocompress.study.request import Request
from autocompress.study.settings import SearchSettings
from autocompress.study.workbench import Workbench
from autocompress.tasks.models import LoadedModel
from autocompress.testing.networks import NETWORKS, task_data
from autocompress.testing.techniques import outputs


@pytest.mark.parametrize(("agreement", "fast"), [(0.0, True), (1.01, False)])
def test_the_originals_own_8_bit_file_teaches_where_it_agrees(agreement: float, fast: bool, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "LEAST_AGREEMENT", agreement)
    chain = NETWORKS["chain"]
    bench = Workbench(chain.make(), task_data(chain.input_shape), load_profile("host"), seed=0, folder=tmp_path,
                      epochs=1)
    rows = torch.arange(32)
    inputs, logits = bench.trainer.teacher.batch(0, rows)
    expected = outputs(bench.network.model, inputs)
    assert (bench.trainer._int8_file is not None) is fast
    assert np.corrcoef(logits.flatten().numpy(), expected.flatten().numpy())[0, 1] > 0.85


def test_an_interpreter_for_other_devices_teaches_nobody(tmp_path: Path) -> None:
    chain = NETWORKS["chain"]
    bench = Workbench(chain.make(), task_data(chain.input_shape), load_profile("host"), seed=0, folder=tmp_path,
                      epochs=1, file_format=SafetensorsFormat())
    inputs, logits = bench.trainer.teacher.batch(0, torch.arange(32))
    assert bench.trainer._int8_file is None
    assert torch.allclose(logits, outputs(bench.network.model, inputs), atol=0.1)


def test_a_candidate_is_trained_as_the_space_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = NETWORKS["chain"]
    recipe = Recipe(block_steps=3, feature_weight=1.0, mixup=0.2)
    bench = Workbench(chain.make(), task_data(chain.input_shape), load_profile("host"), seed=0, folder=tmp_path,
                      epochs=1, recovery=recipe)
    plan = Plan.of([Step("1.0", "prune", {"keep": 8}), Step("2.0", "quantize", {"weight_bits": 4,
                                                                                 "activation_bits": 8})])
    rungs = [{r.technique: r.facts for r in bench.evaluator.evaluate(plan, rung, seconds).receipts if r.site == ""}
             for rung, seconds in ((1, None), (2, 0.5))]
    assert rungs[0].keys() == {"blockwise"} and rungs[1].keys() == {"distill"}
    assert rungs[1]["distill"]["features_of"] == ["1.0", "2.0"]
    bench.store.remove(weights_key(plan, 1))
    again = bench.evaluator.evaluate(plan, 2, 0.5)
    assert {"blockwise", "distill"} <= {r.technique for r in again.receipts}, "nothing was trained before"


def test_a_recovery_that_the_network_does_not_allow_is_refused_before_any_work(tmp_path: Path) -> None:
    for network, recipe, message in (("mlp", Recipe(feature_weight=1.0), "without feature maps"),
                                     ("encoder", Recipe(mixup=0.2), "mixup must be 0")):
        entry = NETWORKS[network]
        with pytest.raises(InputError, match=message):
            Workbench(entry.make(), entry.data(), load_profile("host"), seed=0, folder=tmp_path, epochs=1,
                      recovery=recipe)


def test_the_space_file_reaches_the_bench_and_the_studys_identity(tmp_path: Path) -> None:
    chain = NETWORKS["chain"]
    data = chain.data()
    loaded = LoadedModel(chain.make(), "chain", "f")
    used, hashes = [], []
    for i, table in enumerate(("", "[recovery]\nblock_steps = 7\nmixup = 0.2\n")):
        file = tmp_path / f"{i}.toml"
        file.write_text(f'schema = 1\nname = "m"\n[quantize]\n{table}')
        request = Request.of(SearchSettings.of(model=loaded.model, data=data, space=str(file), device="cpu"))
        used.append(make_bench(loaded, data, request, tmp_path).trainer._recipe(1, None))
        hashes.append(identity_of(loaded, data, request)["space"])
        assert ("recovery" in msgspec.json.encode(load_space(file)).decode()) == bool(table), \
            "a study made before there was such a table resumes"
    assert (used[0].block_steps, used[0].mixup) == (0, 0.0) and (used[1].block_steps, used[1].mixup) == (7, 0.2)
    assert hashes[0] != hashes[1], "another recovery is another study"


class _Restless(torch.nn.Module):
    """Answers differently every time."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits and noise."""
        logits: torch.Tensor = self.network(inputs)
        return logits + torch.rand_like(logits)


def test_an_original_that_is_never_the_same_is_the_users_to_mend(tmp_path: Path) -> None:
    chain = NETWORKS["chain"]
    with pytest.raises(InputError, match=r"must compute the same in ONNX Runtime as in torch.*randomness"):
        Workbench(_Restless(chain.make()), task_data(chain.input_shape), load_profile("host"), seed=0, folder=tmp_path,
                  epochs=1)


def test_answers_that_cannot_be_kept_or_read_cost_time_alone(tmp_path: Path) -> None:
    chain = NETWORKS["chain"]
    bench = Workbench(chain.make(), task_data(chain.input_shape), load_profile("host"), seed=0, folder=tmp_path,
                      epochs=1)
    rows = torch.arange(32)
    first = bench.trainer.teacher.batch(0, rows)[1]
    (tmp_path / "teacher").write_text("a file where the folder should be")
    bench.trainer.teacher.save()
    (tmp_path / "teacher").unlink()
    bench.trainer.teacher.save()
    kept = next((tmp_path / "teacher").iterdir())
    kept.write_bytes(kept.read_bytes()[:100])
    again = Teacher(bench.trainer.answer, bench.network.task, 0, bench.store)
    assert torch.equal(again.batch(0, rows)[1], first)


@pytest.mark.usefixtures("short_searches")
def test_a_candidate_is_evaluated_with_as_many_threads_as_are_asked_for(tmp_path: Path) -> None:
    chain, before = NETWORKS["chain"], torch.get_num_threads()
    torch.set_num_threads(1)
    bench = Workbench(chain.make(), task_data(chain.input_shape), load_profile("host"), seed=0, folder=tmp_path,
                      epochs=1, threads=1)
    plan = Plan((Step("1.0", "quantize", {"weight_bits": 4, "activation_bits": 8}),))
    try:
        for threads in (1, 2):
            evaluation = bench.evaluator.evaluate(plan, 1, threads=threads)
            assert torch.get_num_threads() == threads
            assert evaluation.metrics["accuracy"] > 0
            bench.trainer.answer(bench.network.calibration[:4])
        assert set(bench.trainer._int8_runtimes) == {1, 2}  # the teacher answers with as many
    finally:
        torch.set_num_threads(before)
