"""What each kind measures."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import InputError
from autocompress.tasks.kinds.asked_metric import with_metric
from autocompress.tasks.kinds.base import KindContext
from autocompress.tasks.kinds.classification import classification
from autocompress.tasks.kinds.detection import detection, restored
from autocompress.tasks.kinds.embedding import embedding, nearest_is_alike, pooled
from autocompress.tasks.kinds.regression import regression
from autocompress.tasks.kinds.segmentation import segmentation
from autocompress.tasks.kinds.text import text
from autocompress.tasks.sources.base import Source
from autocompress.tensors.named import flat_outputs


def context(returned: Any, target: Tensor | None = None, **more: Any) -> KindContext:
    """Of a network that returns this for two samples."""
    model, decode = more.pop("model", nn.Identity()), more.pop("decode", None)
    batch = {"input": torch.zeros(2, 3)} | ({} if target is None else {"target": target})
    source = Source("data", {}, labelled=target is not None, **more)
    return KindContext(source, model, returned, flat_outputs(returned), batch, decode)


def value(measure: Any, outputs: dict[str, Any], batch: Any, original: dict[str, Any] | None = None) -> float:
    """A metric of one batch."""
    arrays = {name: np.asarray(array, np.float32) for name, array in outputs.items()}
    compared = {name: np.asarray(array, np.float32) for name, array in (original or {}).items()}
    return measure.over_split([measure.of_batch(arrays, batch, compared)], [batch])[0]


LABELS = torch.tensor([0, 1])


def test_classification_finds_the_scores_and_takes_one_number_for_two_classes() -> None:
    facts = classification(context({"hidden": torch.zeros(2, 4, 8), "logits": torch.zeros(2, 3)}, LABELS, classes=3))
    assert facts.classes == ("logits",) and [m.metric.name for m in facts.measures] == ["accuracy"]
    single = classification(context(torch.zeros(2, 1), LABELS, classes=2))
    assert single.classes == ()
    labels = {"target": torch.tensor([1, 0, 1, 0])}
    assert value(single.measures[0], {"output": [[2.0], [-1.0], [-1.0], [3.0]]}, labels) == 0.5
    assert value(single.measures[0], {"output": [[0.9], [0.2], [0.1], [0.7]]}, labels) == 0.5
    assert classification(context(torch.zeros(2, 3))).measures == ()
    with pytest.raises(InputError, match="a score for each of the 4 classes that targets name, but has 3"):
        classification(context(torch.zeros(2, 3), LABELS, classes=4))
    with pytest.raises(InputError, match=r"must put out scores \(N, classes\), but .* puts out output \(2, 3, 4, 4\)"):
        classification(context(torch.zeros(2, 3, 4, 4), LABELS))
    with pytest.raises(InputError, match="must read tokens, whole numbers"):
        text(context(torch.zeros(2, 3), LABELS))


def test_regression_takes_the_output_of_the_targets_shape() -> None:
    facts = regression(context({"a": torch.zeros(2, 4), "b": torch.zeros(2, 1)}, torch.zeros(2)))
    assert [m.metric.name for m in facts.measures] == ["rmse", "r2"]
    assert value(facts.measures[0], {"a": np.zeros((2, 4)), "b": [[1.0], [3.0]]},
                 {"target": torch.tensor([1.0, 0.0])}) == pytest.approx(np.sqrt(4.5))
    assert regression(context(torch.zeros(2, 3))).measures == ()
    with pytest.raises(InputError, match=r"numbers of the targets' shape \(2,\), but for two samples puts out a"):
        regression(context({"a": torch.zeros(2, 4)}, torch.zeros(2)))
    with pytest.raises(InputError, match="but are names such as cat, dog"):
        regression(context(torch.zeros(2, 1), LABELS, class_names=("cat", "dog")))


def test_segmentation_scales_maps_to_the_masks_and_leaves_out_what_is_void() -> None:
    facts = segmentation(context({"aux": torch.zeros(2, 2, 1, 1), "out": torch.zeros(2, 2, 2, 2)},
                                 torch.zeros(2, 4, 4).long(), classes=2))
    assert facts.classes == ("out",)
    mask = torch.zeros(1, 4, 4).long()
    mask[:, :, 2:] = 1
    scores = np.stack([np.array([[1, -1], [1, -1]]), np.array([[-1, 1], [-1, 1]])])[None]
    outputs = {"aux": np.zeros((1, 2, 1, 1)), "out": scores}
    assert value(facts.measures[0], outputs, {"target": mask}) == 1
    mask[:, 0] = 1 - mask[:, 0]
    assert value(facts.measures[0], outputs, {"target": mask}) == pytest.approx(0.6)
    mask[:, 0] = -100
    assert value(facts.measures[0], outputs, {"target": mask}) == 1


def test_embeddings_are_told_by_their_neighbours() -> None:
    vectors = np.array([[1, 0], [2, 0.1], [0, 1], [0.1, 3], [1, 0.02], [5, 5]], np.float32)
    assert nearest_is_alike(vectors, np.array([0, 0, 1, 1, 2, 3])).tolist() == [0, 0, 1, 1]
    with pytest.raises(InputError, match="classes of two samples or more in each split, but 2 samples are of 2"):
        nearest_is_alike(vectors[:2], np.array([0, 1]))
    facts = embedding(context({"last_hidden_state": torch.zeros(2, 4, 8), "pooler_output": torch.zeros(2, 8)}, LABELS))
    assert [m.metric.name for m in facts.measures] == ["recall_at_1", "cosine"]
    assert facts.predictions == "last_hidden_state"
    facts = embedding(context({"maps": torch.zeros(2, 4, 8), "vector": torch.zeros(2, 8)}, LABELS))
    labels = {"target": torch.tensor([0, 0, 1, 1])}
    outputs = {"vector": vectors[[0, 1, 2, 3]], "maps": np.zeros((4, 1, 2))}
    assert value(facts.measures[0], outputs, labels) == 1
    assert value(facts.measures[1], outputs, labels, outputs) == pytest.approx(1)
    assert [m.metric.name for m in embedding(context(torch.zeros(2, 8))).measures] == ["cosine"]


def test_tokens_that_do_not_count_are_left_out_of_an_embedding() -> None:
    tokens = np.array([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]])
    assert pooled(tokens, {"attention_mask": torch.tensor([[1, 1, 0]])}).tolist() == [[2, 3]]
    assert pooled(tokens, (tokens, 0)).tolist() == [[13 / 3, 5]]
    assert pooled(np.zeros((2, 3, 1, 1)), {}).shape == (2, 3)


BOXES = torch.tensor([[[0, 0, 4, 4, 1, 0], [-1.0] * 6], [[2, 2, 8, 8, 0, 0], [0, 0, 4, 4, 1, 1]]])
Pair = namedtuple("Pair", "boxes rest")


def two(outputs: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The first output as boxes, all of class 1."""
    return [(boxes, torch.ones(len(boxes)), torch.ones(len(boxes))) for boxes in outputs[0]]


class WithDecode(nn.Module):
    """A network that decodes."""

    def decode(self, outputs: Any) -> Any:
        return two(outputs)


def test_boxes_are_decoded_by_the_network_or_the_user() -> None:
    returned = torch.zeros(2, 1, 4), torch.zeros(2, 3)
    for more in ({"model": WithDecode()}, {"decode": two}):
        facts = detection(context(returned, BOXES, **more))
        assert [m.metric.name for m in facts.measures] == ["map50", "map"]
        outputs = {"output_0": [[[0, 0, 4, 4]], [[0, 0, 1, 1]]], "output_1": np.zeros((2, 3))}
        assert value(facts.measures[0], outputs, {"target": BOXES}) == pytest.approx(0.5)
    put_out = {"boxes": torch.zeros(2, 1, 4), "scores": torch.ones(2, 1), "labels": torch.ones(2, 1)}
    assert len(detection(context(put_out, BOXES)).measures) == 2


def test_detections_in_boxes_that_do_not_count_do_not_count_either() -> None:
    facts = detection(context((torch.zeros(2, 1, 4), torch.zeros(2, 3)), BOXES, decode=two))
    truth = torch.tensor([[[0, 0, 4, 4, 1, 0], [8, 0, 16, 4, 1, 1.0]]])
    outputs = {"output_0": [[[8, 0, 12, 4], [0, 0, 4, 4]]], "output_1": np.zeros((1, 3))}
    assert value(facts.measures[0], outputs, {"target": truth}) == pytest.approx(1)
    truth[0, 1, 5] = 0
    assert value(facts.measures[0], outputs, {"target": truth}) == pytest.approx(1)
    truth[0, 1, :4] = torch.tensor([20, 20, 24, 24])
    assert 0.2 < value(facts.measures[0], outputs, {"target": truth}) < 0.3


@pytest.mark.parametrize(("decode", "said"), [
    (lambda outputs: outputs["none"], "decode must take what the network's forward returns, but raised TypeError"),
    (lambda outputs: 3, "boxes for each of 2 pictures, but returned int"),
    (lambda outputs: [], "boxes for each of 2 pictures, but returned a sequence of 0"),
    (lambda outputs: [{"boxes": outputs[0]}] * 2, "for each picture, but returned a mapping of boxes"),
    (lambda outputs: [(outputs[0], outputs[1], outputs[1])] * 2, r"for each picture, but returned boxes \(2, 1, 4\)"),
    (None, "which must be made boxes: give the network a method decode"),
])
def test_what_decodes_to_no_boxes(decode: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        detection(context((torch.zeros(2, 1, 4), torch.zeros(2, 3)), BOXES, decode=decode))


@dataclass
class Fields:
    """Outputs in fields."""

    first: Tensor
    nothing: Tensor | None
    more: list[Tensor]


@pytest.mark.parametrize("returned", [
    torch.ones(2), (torch.ones(2), [torch.ones(3)]), {"a": torch.ones(2), "b": {"c": torch.ones(3)}},
    Pair(torch.ones(2), (torch.ones(3), None)), Fields(torch.ones(2), None, [torch.ones(3)])])
def test_outputs_come_back_in_what_forward_returns(returned: Any) -> None:
    changed = {name: tensor + 1 for name, tensor in flat_outputs(returned).items()}
    result = restored(returned, changed)
    assert type(result) is type(returned)
    assert {name: tensor.tolist() for name, tensor in flat_outputs(result).items()} == {
        name: tensor.tolist() for name, tensor in changed.items()}


def test_a_metric_that_is_asked_for_is_of_the_same_output() -> None:
    facts = regression(context({"a": torch.zeros(2, 4), "b": torch.zeros(2, 1)}, torch.zeros(2)))
    outputs, batch = {"a": np.zeros((2, 4)), "b": [[1.0], [3.0]]}, {"target": torch.tensor([1.0, 0.0])}
    measures = with_metric(facts, "mae")
    assert [m.metric.name for m in measures] == ["mae", "rmse", "r2"] and value(measures[0], outputs, batch) == 1.5
    assert [m.metric.name for m in with_metric(facts, "r2")] == ["r2", "rmse"]
    assert [m.metric.name for m in with_metric(facts, None)] == ["rmse", "r2"]
    of_function = with_metric(facts, lambda outputs, batch: 1.0)
    assert [m.metric.name for m in of_function] == ["metric", "rmse", "r2"]
    alone = classification(context({"a": torch.zeros(2, 4, 4), "logits": torch.zeros(2, 3)}))
    (agreement,) = with_metric(alone, "agreement")
    scores = {"a": np.zeros((2, 4, 4)), "logits": [[1, 0, 0], [0, 1, 0]]}
    assert value(agreement, scores, {}, scores) == 1
    with pytest.raises(InputError, match="did you mean 'rmse'"):
        with_metric(facts, "rsme")
