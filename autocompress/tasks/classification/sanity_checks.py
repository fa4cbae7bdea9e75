"""Doubts about answers: of the original before a search, and of the exported file after it.

Whether a share of right answers could be chance is told by its standard error under that hypothesis (the normal
approximation of the binomial distribution, at three of them: one false alarm in a thousand).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autocompress.core.warnings import Warned
from autocompress.quantities import format_percent
from autocompress.tasks.classification.calibration import calibration_error

ERRORS = 3.0
# Accuracy that a compressed network may lose before this is called so.
FAR_BELOW = 0.05
# Accuracy that another order of the labels must win before it is named as the cause.
RELABELLED = 0.2
LEAST_SAMPLES_A_CLASS = 4
# Times that the commonest class has more training samples than the rarest, from which on the rare are looked at.
LONG_TAIL = 10
_NAMED = 5

Numbers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class ClassAnswers:
    """Labels (N,) of a split and what a network answers (N,), with the probability (N,) that it gives that."""

    targets: Numbers
    answers: Numbers
    classes: int
    names: tuple[str, ...] = ()
    confidence: np.ndarray[Any, Any] | None = None

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float((self.targets == self.answers).mean())

    @property
    def majority(self) -> float:
        """Share of the commonest class."""
        return float(np.bincount(self.targets, minlength=self.classes).max() / len(self.targets))

    def name(self, label: int) -> str:
        """A class's name, or `class 3`."""
        return self.names[label] if label < len(self.names) else f"class {label}"

    def right(self, label: int) -> tuple[int, int]:
        """How many samples of a class are answered rightly, and how many there are."""
        rows = self.targets == label
        return int((self.answers[rows] == label).sum()), int(rows.sum())


def original_doubts(answers: ClassAnswers, claimed: tuple[str, float] | None, prepared: str) -> list[Warned]:
    """What speaks against the original being used as it was trained; `claimed` is what its weights say of its accuracy
    and under which key, `prepared` how its inputs were made."""
    causes = (f"Likely causes: other normalisation than in training (here: {prepared}), labels in another order, or "
              "weights of another network or task")
    doubts = _near_chance(answers, "original", "the original")
    doubts = [Warned(doubt.code, f"{doubt.message}. {causes}") for doubt in doubts]
    relabelled = _relabelled(answers)
    if relabelled:
        doubts.append(Warned("label-order", relabelled))
    if claimed is not None and not doubts:
        key, accuracy = claimed
        if answers.accuracy < accuracy - max(FAR_BELOW, ERRORS * _observed_error(accuracy, len(answers.targets))):
            doubts.append(Warned("original-below-its-weights", "the original answers "
                                 f"{format_percent(answers.accuracy)} rightly, but its weights say "
                                 f"{format_percent(accuracy)} ({key}). {causes}"))
    return doubts


def result_doubts(original: ClassAnswers, result: ClassAnswers, trained: Sequence[int]) -> list[Warned]:
    """What an exported file has lost against the original on the same split; `trained` are the training samples of each
    class."""
    doubts = _near_chance(result, "result", "the exported file")
    if original.accuracy - result.accuracy > max(
            FAR_BELOW, ERRORS * _observed_error(original.accuracy, len(result.targets))):
        doubts.append(Warned("result-far-below-original", "the exported file answers "
                             f"{format_percent(result.accuracy)} of the test data rightly, far below the original's "
                             f"{format_percent(original.accuracy)}: allow more bytes, or more time"))
    answered = set(result.answers.tolist())
    lost = [label for label in range(original.classes) if original.right(label)[0] and label not in answered]
    if lost:
        names = ", ".join(result.name(label) for label in lost[:_NAMED])
        more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        doubts.append(Warned("classes-lost", f"the exported file never answers {names}{more}, which the original does"))
    worse = [row for row in rarest(original, result, trained) if row["right"] < row["original_right"]]
    if worse:
        texts = ", ".join(f"{row['class']} ({row['training_samples']} training samples) {row['original_right']} → "
                          f"{row['right']} of {row['test_samples']}" for row in worse)
        doubts.append(Warned("rarest-classes-worse", f"of the rarest classes fewer are answered rightly: {texts}"))
    return doubts


def rarest(original: ClassAnswers, result: ClassAnswers, trained: Sequence[int]) -> list[dict[str, Any]]:
    """What became of the rarest classes that the split has, where training data have a long tail; empty where not."""
    present = [label for label in range(original.classes) if original.right(label)[1]]
    if not present or max(trained) < LONG_TAIL * max(1, min(trained[label] for label in present)):
        return []
    few = sorted(present, key=lambda label: (trained[label], label))[:_NAMED]
    return [{"class": original.name(label), "training_samples": int(trained[label]),
             "test_samples": original.right(label)[1], "original_right": original.right(label)[0],
             "right": result.right(label)[0]} for label in few]


def quality(original: ClassAnswers, result: ClassAnswers) -> dict[str, Any]:
    """Who pays for the compression: of each class that the split has the share that is answered rightly, before and
    after; and the calibration error of both."""
    rows = []
    for label in range(original.classes):
        (before, count), (after, _) = original.right(label), result.right(label)
        if count:
            rows.append({"class": original.name(label), "samples": count, "original": before / count,
                         "file": after / count})
    errors = {whose: calibration_error(answers.confidence, answers.targets == answers.answers)
              for whose, answers in (("original", original), ("file", result)) if answers.confidence is not None}
    return {"classes": rows, **({"calibration_error": errors} if len(errors) == 2 else {})}


def _error(share: float, count: int) -> float:
    return math.sqrt(share * (1 - share) / count)


def _observed_error(share: float, count: int) -> float:
    """The standard error of an observed share (Agresti & Coull, 1998): not zero where all are right."""
    return _error((share * count + 2) / (count + 4), count + 4)


def _near_chance(answers: ClassAnswers, code: str, what: str) -> list[Warned]:
    """At most one: that a network always gives one answer, is no better than chance, or than the commonest class."""
    count, accuracy = len(answers.targets), answers.accuracy
    shown = format_percent(accuracy)
    if len(np.unique(answers.answers)) == 1 and len(np.unique(answers.targets)) > 1:
        only = answers.name(int(answers.answers[0]))
        return [Warned(f"{code}-one-answer", f"{what} always answers {only} and so is right on {shown}")]
    chance = 1 / answers.classes
    if accuracy <= chance + ERRORS * _error(chance, count):
        return [Warned(f"{code}-near-chance", f"{what} answers {shown} rightly, which is near chance, "
                       f"{format_percent(chance)} for {answers.classes} classes on {count} samples")]
    if answers.majority > 2 * chance and accuracy <= answers.majority + _error(answers.majority, count):
        return [Warned(f"{code}-at-majority", f"{what} answers {shown} rightly, no better than always answering the "
                       f"commonest class ({format_percent(answers.majority)})")]
    return []


def _relabelled(answers: ClassAnswers) -> str:
    """A sentence where another order of the labels explains the answers; empty where it does not."""
    count = len(answers.targets)
    if count < LEAST_SAMPLES_A_CLASS * answers.classes:
        return ""
    from scipy.optimize import linear_sum_assignment  # half a second, which starting a search need not take

    confusion = np.zeros((answers.classes, answers.classes), np.int64)
    np.add.at(confusion, (answers.targets, answers.answers), 1)
    labels, outputs = linear_sum_assignment(-confusion)
    best = float(confusion[labels, outputs].sum() / count)
    if best < 0.5 or best - answers.accuracy < max(RELABELLED, ERRORS * _error(best, count)):
        return ""
    pairs = [f"{answers.name(int(label))} is output {output}" for label, output in zip(labels, outputs, strict=True)
             if label != output and confusion[label, output]]
    return (f"the original answers {format_percent(answers.accuracy)} rightly, but {format_percent(best)} if the "
            f"labels had another order: {', '.join(pairs[:_NAMED])}{', …' if len(pairs) > _NAMED else ''}. Give the "
            "data's labels the order in which the network was trained")
