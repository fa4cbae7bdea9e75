"""What `autocompress.Task` refuses, each with a sentence and before anything is trained."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import autocompress
from autocompress.errors import InputError
from autocompress.tasks.models import load_network

X, Y = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3


class Net(nn.Module):
    """Three scores of four numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu())


class Stateful(Net):
    """A state goes in and out under one name."""

    def forward(self, x: Tensor, state: Tensor) -> Any:
        return {"scores": super().forward(x + state), "state": state + x}


class Masked(nn.Module):
    """Scores of tokens with a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 8), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head((self.embed(input_ids) * attention_mask[:, :, None]).sum(1))


class OfEight(Net):
    """A number of samples is written into `forward`."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu().view(8, -1))


class OfOne(Net):
    """All samples become one."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).view(1, -1)


def search(task: Any, net: nn.Module | None = None, **options: Any) -> Any:
    torch.manual_seed(0)
    settings = {"budget": "1kB", "trials": 1, "epochs": 1} | options
    return autocompress.search((net or Net()).eval(), task=task, **settings)


def nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a candidate was evaluated")

    monkeypatch.setattr("autocompress.study.evaluator.Evaluator.outcome", refuse)


def raises(outputs: Any, batch: Any) -> float:
    raise ZeroDivisionError("no boxes")


@pytest.mark.parametrize(("metric", "message"), [
    (raises, r"metric raises for batch 1 of the validation split must return a number, but raised ZeroDivisionError: "
     "no boxes"),
    (autocompress.metric(lambda outputs, batch: float("nan"), name="empty"),
     "empty must be a finite number, but is nan on the validation split"),
    (autocompress.metric(lambda outputs, batch: torch.tensor(1.0), name="tensor"), "but returned Tensor"),
    (autocompress.metric(lambda outputs, batch: outputs["boxes"].mean(), name="boxes"),
     "the file puts out output, but the metric asks for 'boxes'"),
    (autocompress.metric(lambda outputs, batches: outputs[0]["boxes"].mean(), name="all"), "asks for 'boxes'"),
    (autocompress.metric("accuracy", predictions="boxes"), "asks for 'boxes'"),
    (autocompress.metric("accuracy", targets="kind"), "batches, tuple of 2, have no 'kind'"),
    ("miou", "labels must have the shape of scores|from 0 to 2"),
    ("map", "map needs boxes"),
    ("mae", "same shape"),
])
def test_metrics_that_cannot_be_computed(metric: Any, message: str, monkeypatch: pytest.MonkeyPatch,
                                         tmp_path: Path) -> None:
    nothing_is_trained(monkeypatch)
    labels = Y[:, None].expand(60, 5) if metric == "miou" else Y
    with pytest.raises(InputError, match=message):
        search(autocompress.Task(train=(X, labels), metric=metric), out=tmp_path / "study")


def test_a_metric_that_cannot_be_computed_is_bad_input_of_a_plan_too() -> None:
    traced = autocompress.trace(Net().eval(), task=autocompress.Task(train=(X, Y), metric=raises))
    with pytest.raises(InputError, match="raised ZeroDivisionError"):
        traced.evaluate(autocompress.Plan())


def test_labels_that_are_no_class(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nothing_is_trained(monkeypatch)
    with pytest.raises(InputError, match="labels must be from 0 to 2, for 3 scores, but one is 3"):
        search(autocompress.Task(train=(X, Y + 1), metric="accuracy"), out=tmp_path / "study")


@pytest.mark.parametrize(("loss", "message"), [
    (lambda outputs, batch: torch.tensor(1.0, requires_grad=True), "must depend on the outputs"),
    (lambda outputs, batch: outputs["output"].detach().mean(), "must depend on the outputs"),
    (lambda outputs, batch: outputs["output"].mean().item(), "must return a tensor of one number, but returned float"),
    (lambda outputs, batch: outputs["output"].mean(1), "a tensor of 32 values: take the mean"),
    (lambda outputs, batch: outputs["logits"].mean(), r"takes? the outputs output .* KeyError: there is no 'logits'"),
    (lambda outputs, batch: outputs["output"].mean() / 0, "must be finite"),
    (lambda outputs: 0, "TypeError"),
])
def test_losses_that_train_nothing(loss: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_network(Net().eval(), autocompress.Task(train=(X, Y), metric="accuracy", loss=loss))


@pytest.mark.parametrize(("options", "message"), [
    ({"loss": "mse"}, "loss must be a function"), ({"outputs": {"output": "scores"}}, "outputs must say classes"),
    ({"weights": {"output": -1}}, "weights must be"), ({"weights": {"output": 0}}, "above 0"),
    ({"inputs": 3}, "inputs must be a function"), ({"inputs": ["x", "x"]}, "name 'x' twice"),
    ({"inputs": ["z"]}, "there is no 'z'"), ({"metric": "nothing"}, "must be one of"),
])
def test_arguments_that_are_none(options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        autocompress.Task(train={"x": X, "y": Y}, **options)


def test_a_task_is_an_object_of_ours_or_like_it() -> None:
    with pytest.raises(InputError, match=r"task must be an autocompress\.Task, .* but is NoneType"):
        load_network(Net().eval(), None)  # type: ignore[arg-type]


def test_a_loss_needs_samples_that_can_be_mixed() -> None:
    boxes = [{"x": X, "boxes": torch.rand(i, 6)} for i in (3, 5)]
    with pytest.raises(InputError, match=r"none can be taken out of a tensor of float32 with 2 axes at .boxes"):
        autocompress.Task(train=boxes, validation=boxes, test=boxes, loss=lambda outputs, batch: outputs["a"].mean())


def test_keep_must_name_a_module(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'tail.\*' names none of its layers body, head"):
        search(autocompress.Task(train=(X, Y), metric="accuracy", keep="tail.*"), out=tmp_path / "study")


@pytest.mark.parametrize(("task", "net", "message"), [
    (lambda: autocompress.Task(train=(X[:, :3], Y)), Net,
     r"must take the inputs of data, \(2, 3\) float32, but said: RuntimeError"),
    (lambda: autocompress.Task(train={"a": X, "y": Y}, inputs=["a", "y"]), Net,
     "arguments of the network's forward, x, but a, y"),
    (lambda: autocompress.Task(train={"input_ids": Y[:, None], "y": Y}), Masked,
     "forward needs attention_mask, but batches have input_ids, y"),
    (lambda: autocompress.Task(train=Y[:, None]), Masked, "batches hold one input"),
    (lambda: autocompress.Task(train={"input_ids": Y[:, None].expand(60, 7),
                                      "attention_mask": (torch.arange(60)[:, None] > torch.arange(7)).long()}), Masked,
     "attention_mask must be usable for every sample, but for 1 of the .* split it is 0 everywhere"),
    (lambda: autocompress.Task(train={"x": X, "state": X}), Stateful, "reads and puts out 'state': give the output"),
    (lambda: autocompress.Task(train=(torch.where(X > 2, torch.nan, X), Y)), Net, "is NaN or infinite"),
    (lambda: autocompress.Task(train=(X, Y), test=(X[:, :3], Y)), Net, r"of the test split are float32 \(3,\), and of "
     r"the train split float32 \(4,\)"),
    (lambda: autocompress.Task(train=(X, Y), test=((255 * X).byte(), Y)), Net, "of the test split are uint8"),
    (lambda: autocompress.Task(train=X, outputs={"boxes": "classes"}), Net, "puts out .* output, but name boxes"),
    (lambda: autocompress.Task(train=X, outputs={"output": "classes"}, weights={"boxes": 1}), Net, "'boxes'"),
])
def test_examples_that_do_not_fit_the_network(task: Any, net: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        search(task(), net(), out=tmp_path / "study")


def test_the_command_line_ends_with_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from autocompress.cli.main import run

    (tmp_path / "mine.py").write_text(
        "import torch, autocompress\nnet = lambda: torch.nn.Linear(4, 3)\n"
        "def task():\n    return autocompress.Task(train=(torch.zeros(60, 4), torch.zeros(3)), metric='accuracy')\n")
    with pytest.raises(SystemExit) as ended:
        run(["search", "--model", f"{tmp_path}/mine.py:net", "--task", f"{tmp_path}/mine.py:task", "--budget", "1kB",
             "--out", f"{tmp_path}/study"])
    assert ended.value.code == 2 and "have 3 and 60 rows" in capfd.readouterr().err


@pytest.mark.usefixtures("short_searches")
def test_a_candidate_whose_metric_is_not_defined_fails_alone(tmp_path: Path) -> None:
    """The original's metric is fine; that of some candidates raises, and the search goes on."""
    calls = []

    def moody(outputs: Any, batch: Any) -> float:
        whole = len(outputs["output"]) == 20  # fewer are asked for the standard error
        calls.extend([20] * whole)
        if whole and len(calls) == 2:
            raise ValueError("undefined here")
        return float((outputs["output"].argmax(1) == np.asarray(batch[1])).mean())

    task = autocompress.Task(train=(X, Y), validation=(X[:20], Y[:20]), test=(X[:20], Y[:20]), metric=moody)
    result = search(task, trials=3, out=tmp_path / "study")
    reasons = result.trials["reason"].tolist() if "reason" in result.trials else []
    assert any("undefined here" in str(reason) for reason in reasons) and result.best is not None


def test_a_dict_of_rows_says_which_entry_is_no_array() -> None:
    boxes = [{"boxes": torch.zeros(1, 4)}] * 60
    with pytest.raises(InputError, match=r"but is dict, in which target is list: give what is no array by a Dataset"):
        autocompress.Task(train={"x": X, "target": boxes})


@pytest.mark.parametrize(("net", "message"), [
    (OfEight(), r"forward takes 8 samples alone, a number that is written into it: use x.shape\[0\]"),
    (OfOne(), r"answers with one. Its forward takes 1 sample alone"),
])
def test_a_number_of_samples_that_is_written_into_forward_is_named(net: nn.Module, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_network(net.eval(), autocompress.Task(train=(X, Y), metric="accuracy"))


class Pictured(nn.Module):
    """Three scores of a picture of three channels."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


@pytest.mark.parametrize(("pictures", "message"), [
    (torch.zeros(60, 8, 8, 3), r"data, \(2, 8, 8, 3\) float32, but said: .* transpose\(0, 3, 1, 2\)"),
    (torch.zeros(60, 3, 8, 8, dtype=torch.uint8), r"Bytes must be given as .* x.float\(\) / 255"),
    (torch.zeros(60, 2, 8, 8), r"by inputs= where others are meant"),
])
def test_pictures_that_the_network_does_not_take_as_they_are(pictures: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_network(Pictured().eval(), autocompress.Task(train=(pictures, Y), metric="accuracy"))


def test_objects_that_are_no_arrays_are_named() -> None:
    with pytest.raises(InputError, match="tuple of 2, the first of them a list of PurePosixPath: make arrays of these"):
        autocompress.Task(train=[(PurePosixPath("a.png"), 1)] * 20)


def test_an_entry_that_is_said_is_what_a_network_of_one_input_reads() -> None:
    data = {"id": torch.arange(60), "features": X, "label": Y}
    task = autocompress.Task(train=data, inputs="features", metric="accuracy")
    load_network(Net().eval(), task)
    assert torch.equal(task.inputs("train", slice(0, 1)), task.train_view(0, 0)[:1])
    assert task.inputs("train", slice(0, 3)).shape == (3, 4)
    with pytest.raises(InputError, match="must be arguments of the network's forward, input_ids, attention_mask"):
        load_network(Masked().eval(), autocompress.Task(train=data, inputs="features", metric="accuracy"))
