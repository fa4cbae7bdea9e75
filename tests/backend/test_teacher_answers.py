"""The original's answers within a bound, and those of many classes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from autocompress.backend.statistics.outputs import outputs_of
from autocompress.backend.training import answers
from autocompress.backend.training.answers import AnswerTable, Likeliest, Whole, encoding_named, encoding_of
from autocompress.backend.training.teacher import Teacher, holds_answers
from autocompress.core.store import FolderStore
from autocompress.tensors.likelihood import CATEGORICAL, Gaussian
from autocompress.testing.networks import task_data


def _scores(classes: int = 1000, samples: int = 64) -> Tensor:
    """Scores as of a network: a few likely classes, the rest far below."""
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.randn(samples, classes, generator=generator) + 12 * torch.rand(
        samples, classes, generator=generator).pow(40)


def test_the_likeliest_classes_and_the_mass_of_the_rest_are_kept() -> None:
    scores, encoding = _scores(), Likeliest(1000)
    encoded = encoding.encode(scores)
    decoded = encoding.decode(encoded)
    assert sum(tensor.nbytes for tensor in encoded.values()) < scores.nbytes / 7
    for temperature in (1.0, 4.0):
        before, after = (scores / temperature).softmax(1), (decoded / temperature).softmax(1)
        top = scores.topk(answers.KEPT_CLASSES, 1).indices
        torch.testing.assert_close(after.gather(1, top), before.gather(1, top), rtol=0.1 / temperature**2, atol=1e-4)
    assert CATEGORICAL.agreement(decoded, scores) == 1
    assert CATEGORICAL.divergence(decoded, scores) < 0.2 * CATEGORICAL.divergence(torch.zeros_like(scores), scores)


def test_only_scores_of_many_classes_are_shortened() -> None:
    many, few = torch.zeros(2, 300), torch.zeros(2, 256)
    assert str(encoding_of(many, CATEGORICAL, 10**6)) == "likeliest of 300"
    assert isinstance(encoding_of(many, CATEGORICAL, 1000), Whole), "where all have room"
    for answers_of_batch, likelihood in ((few, CATEGORICAL), (many, Gaussian(torch.rand(4, 300))), (many, None),
                                         (torch.zeros(2, 300, 4), CATEGORICAL)):
        assert isinstance(encoding_of(answers_of_batch, likelihood, 10**6), Whole)
    assert str(encoding_named("likeliest of 300")) == "likeliest of 300"
    for text in ("", "likeliest of", "likeliest of x", "half"):
        with pytest.raises(ValueError, match="another way"):
            encoding_named(text)


def test_what_exceeds_the_bound_is_not_kept_and_comes_out_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "LIMIT_BYTES", 4 * 5 * 20)
    data, counts = task_data((20,)), []
    net = nn.Linear(20, 5)

    def answer(inputs: Tensor) -> Tensor:
        counts.append(len(inputs))
        return outputs_of(net, inputs)

    teacher = Teacher(answer, data, 0, None)
    first = [teacher.batch(0, torch.arange(16))[1], teacher.batch(0, torch.arange(16, 32))[1]]
    again = [teacher.batch(0, torch.arange(16))[1], teacher.batch(0, torch.arange(16, 32))[1]]
    assert counts == [16, 16, 12], "four of the second batch had room"
    assert torch.equal(torch.cat(first), torch.cat(again))


def test_answers_that_are_not_numbers_are_answers(tmp_path: Path) -> None:
    """A masked position is NaN: it is not asked for again."""
    data, counts = task_data((20,)), []

    def answer(inputs: Tensor) -> Tensor:
        counts.append(len(inputs))
        return torch.full((len(inputs), 3), torch.nan)

    for _ in range(2):
        teacher = Teacher(answer, data, 0, FolderStore(tmp_path))
        assert teacher.batch(0, torch.arange(4))[1].isnan().all()
        teacher.save()
    assert counts == [4]


def test_many_classes_are_the_same_kept_and_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "LIMIT_BYTES", 10_000)
    data, net = task_data((20,)), nn.Linear(20, 400)
    teacher = Teacher(partial(outputs_of, net), data, 0, FolderStore(tmp_path), CATEGORICAL)
    fresh = teacher.batch(0, torch.arange(8))[1]
    assert torch.equal(teacher.batch(0, torch.arange(8))[1], fresh)
    teacher.save()
    (path,) = (tmp_path / "teacher").iterdir()
    assert holds_answers(path)
    unable = Teacher(lambda inputs: pytest.fail("asked again"), data, 0, FolderStore(tmp_path), CATEGORICAL)
    assert torch.equal(unable.batch(0, torch.arange(8))[1], fresh)


@pytest.mark.parametrize("tensors", [{"logits": torch.zeros(32, 5)},
                                     {"rows": torch.tensor([99]), "logits": torch.zeros(1, 5)},
                                     {"rows": torch.tensor([1, 2]), "logits": torch.zeros(1, 5)}], ids=str)
@pytest.mark.parametrize("encoding", ["whole", ""])
def test_files_of_another_kind_are_not_used(tensors: dict[str, Tensor], encoding: str, tmp_path: Path,
                                            caplog: pytest.LogCaptureFixture) -> None:
    data, store = task_data((20,)), FolderStore(tmp_path)
    views = {"views": f"{data.views_fingerprint} seed 0", "encoding": encoding}
    store.put("teacher/teacher-1.safetensors", save(tensors, views))
    teacher = Teacher(partial(outputs_of, nn.Linear(20, 5)), data, 0, store)
    assert teacher.batch(0, torch.arange(4))[1].abs().max() > 0
    assert "computing the original's outputs again" in caplog.text


def test_tables_of_other_shapes_are_not_mixed() -> None:
    table = AnswerTable(8)
    table.encoding = Whole()
    table.put(torch.tensor([2]), torch.ones(1, 3))
    with pytest.raises(ValueError, match="another way"):
        table.merge({"rows": torch.tensor([1]), "logits": torch.ones(1, 4)}, Whole())
    table.merge({"rows": torch.tensor([2, 1]), "logits": torch.zeros(2, 3)}, Whole())
    assert torch.equal(table.get(torch.tensor([1, 2])), torch.tensor([[0.0] * 3, [1.0] * 3]))
