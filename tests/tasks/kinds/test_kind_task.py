"""The network and the task that a kind and a source name, without a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from autocompress.errors import InputError
from autocompress.study.loading import load_task
from autocompress.study.settings import SearchSettings
from autocompress.tasks.kinds.make import KindRequest, kind_task
from autocompress.tasks.kinds.names import default_kind, is_kind, is_of_kind
from autocompress.tasks.preparation import Preparation
from autocompress.tensors.named import by_name

RNG = np.random.default_rng(0)


def linear(inputs: int, outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs)


def convolution(channels: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))


def scored(loaded: Any, task: Any) -> dict[str, float]:
    """What the network in torch reaches on the validation split."""
    task.compare_with(loaded.model, loaded.fingerprint)
    likelihood = task.likelihood(loaded.model(task.inputs("train", slice(0, 8))).detach(), ())
    rows = [*task.rows("validation", 4)]
    with torch.no_grad():
        answers = [(each, {name: tensor.numpy() for name, tensor in by_name(
            loaded.model(task.inputs("validation", each))).items()}) for each in rows]
    return dict(task.score(iter(answers), "validation", likelihood).metrics)


@pytest.mark.parametrize("last", [nn.Identity, lambda: nn.Flatten(0)])
def test_one_number_for_two_classes_needs_no_kind_to_be_named(last: Any) -> None:
    """As networks end that were trained by binary cross-entropy."""
    x = RNG.normal(size=(200, 3)).astype(np.float32)
    network = nn.Sequential(linear(3, 1), last())
    with torch.no_grad():
        labels = (network(torch.from_numpy(x)).flatten() > 0).long()
    loaded, task = load_task(SearchSettings.of(model=network, data=(x, labels)))
    assert task.metric.name == "accuracy" and scored(loaded, task)["accuracy"] == 1
    with pytest.raises(InputError, match=r"logits \(2, 3\), one for each class of data, but answered \(2, 1\)"):
        load_task(SearchSettings.of(model=linear(3, 1), data=(x, torch.arange(200) % 3)))


def test_python_data_of_a_regression() -> None:
    x = RNG.normal(size=(50, 3)).astype(np.float32)
    network = linear(3, 1)
    with torch.no_grad():
        y = network(torch.from_numpy(x))[:, 0].numpy()
    loaded, task = kind_task(KindRequest("regression", network, (x, y)))
    assert task.samples("train") == 40 and task.metric.name == "rmse" and loaded.name == "Linear"
    metrics = scored(loaded, task)
    assert metrics["rmse"] < 1e-6 and metrics["r2"] > 1 - 1e-6
    _, other = kind_task(KindRequest("regression", network, (x, y), preparation=Preparation(mean=(1.0, 2.0, 3.0))))
    one, two = (each.inputs("train", slice(0, 2)) for each in (task, other))
    assert torch.equal(two, one - torch.tensor([1.0, 2, 3]))
    assert other.fingerprint != task.fingerprint and other.views_fingerprint != task.views_fingerprint
    assert other.input_facts()["mean"] == [1, 2, 3] and "mean (1.0, 2.0, 3.0)" in other.described
    with pytest.raises(InputError, match="mean and std must hold 1 or 3 values"):
        kind_task(KindRequest("regression", network, (x, y), preparation=Preparation(mean=(1.0, 2.0))))


def test_pictures_are_kept_as_bytes_and_a_grey_network_reads_them() -> None:
    x = RNG.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    data = {"train": (x[:20], np.arange(20) % 2), "val": (x[20:30], np.arange(10) % 2),
            "test": (x[30:], np.arange(10) % 2)}
    preparation = Preparation(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    loaded, task = kind_task(KindRequest("classification", convolution(1), data, preparation=preparation,
                                         metric="f1_macro"))
    assert task.metric.name == "f1_macro" and [each.name for each in task.further] == ["accuracy"]
    assert task.train_view(0, 0)[torch.arange(3)].dtype == torch.uint8
    read = task.inputs("validation", slice(0, 10))
    expected = (torch.from_numpy(x[20:30]).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    assert torch.allclose(read, expected.mean(1, keepdim=True), atol=1e-6)
    assert set(scored(loaded, task)) >= {"f1_macro", "accuracy"}


def test_what_numbers_are_may_be_said() -> None:
    maps, whole = RNG.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8), RNG.integers(0, 9, (30, 3))
    labels = np.arange(30) % 2
    _, task = kind_task(KindRequest("classification", convolution(3), (maps, labels), metric="auroc", reading="values"))
    assert float(task.inputs("train", slice(0, 24)).max()) > 200 and task.input_facts()["scale"] == "as given"
    _, task = kind_task(KindRequest("classification", linear(3, 2), (whole, labels), metric="auroc"))
    assert task.inputs("train", slice(0, 2)).dtype == torch.float32
    with pytest.raises(InputError, match="must be one of pixels, values, tokens, but got 'numbers'"):
        kind_task(KindRequest("classification", linear(3, 2), (whole, labels), metric="auroc", reading="numbers"))
    embedding = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
    _, task = kind_task(KindRequest("text", embedding, (whole, labels), reading="tokens"))
    assert task.inputs("train", slice(0, 2)).dtype == torch.int64


def test_tokens_beyond_the_table_are_said_wherever_they_are() -> None:
    tokens, labels = RNG.integers(0, 9, (60, 3)), np.arange(60) % 2
    network = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
    tokens[57] = 9
    with pytest.raises(InputError, match=r"split: tokens must be from 0 to 8, .* but they are from 0 to 9"):
        kind_task(KindRequest("text", network, (tokens, labels)))


class Items(torch.utils.data.Dataset[Any]):
    """Samples as mappings."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> Any:
        return {"x": np.full(3, index, np.float32), "label": index % 2}


def test_a_dataset_of_mappings() -> None:
    loaded, task = kind_task(KindRequest("embedding", linear(3, 4), Items()))
    assert task.metric.name == "recall_at_1" and task.samples("train") == 24
    assert task.inputs("train", slice(0, 2)).shape == (2, 3) and loaded.claimed is None


def test_a_network_of_a_library_has_as_many_outputs_as_targets_name(tmp_path: Path) -> None:
    from autocompress.tasks.models import library_network

    torch.manual_seed(0)
    network = library_network("timm:test_resnet", 2, 3)
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    data = RNG.integers(0, 256, (30, 3, 32, 32), dtype=np.uint8), RNG.normal(size=(30, 2)).astype(np.float32)
    loaded, task = kind_task(KindRequest("regression", "timm:test_resnet", data, tmp_path / "net.safetensors"))
    assert loaded.name == "test_resnet" and task.input_facts()["scale"] == "pixels / 255"
    with pytest.raises(InputError, match="with weights for classification and regression"):
        kind_task(KindRequest("regression", "timm:test_resnet", data))
    with pytest.raises(InputError, match="model must be one of torchvision:NAME, timm:NAME, hf:FOLDER"):
        kind_task(KindRequest("regression", "resnet", data))


class Returns(nn.Module):
    """A network that returns what it is told to."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value, self.layer = value, nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Any:
        return self.value


def test_networks_that_do_not_fit() -> None:
    data = RNG.normal(size=(30, 3)), RNG.normal(size=30)
    with pytest.raises(InputError, match=r"must take the inputs of data, \(2, 3\) float32, but said: RuntimeError"):
        kind_task(KindRequest("regression", linear(5, 1), data))
    for value, said in (("text", "str"), ({}, "none")):
        with pytest.raises(InputError, match=f"must return tensors, but returned {said}"):
            kind_task(KindRequest("regression", Returns(value), data))
    for wrong, said in (((data[0], data[1][:9]), "a row for each sample, but have 9 and 30 rows"),
                        ({"training": data, "more": data}, "keys must be train, validation, test, but there is more"),
                        (3, "must be .inputs, labels. arrays")):
        with pytest.raises(InputError, match=said):
            kind_task(KindRequest("regression", linear(3, 1), wrong))


def test_which_task_is_made_by_its_kind(tmp_path: Path) -> None:
    assert [default_kind(data) for data in ("voc:x", "masks:a,b", "csv:x", "digits", None)] == [
        "detection", "segmentation", "classification", "classification", "classification"]
    assert is_kind("text") and not is_kind("net.py:text") and not is_kind(None)
    np.savez(tmp_path / "pairs.npz", x=np.zeros(3), y=np.zeros(3))
    np.savez(tmp_path / "named.npz", tokens=np.zeros(3), y=np.zeros(3))
    of_kind = {data: is_of_kind("classification", "a.py:net", data, None) for data in (
        "digits", "csv:x", f"npz:{tmp_path}/pairs.npz", f"npz:{tmp_path}/named.npz", f"npz:{tmp_path}/none.npz")}
    assert [*of_kind.values()] == [False, True, False, True, False]
    assert is_of_kind("regression", None, "digits", None) and is_of_kind("classification", "hf:x", "digits", None)
    assert is_of_kind("classification", None, "digits", "f1_macro")
