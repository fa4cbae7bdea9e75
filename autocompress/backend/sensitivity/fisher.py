"""Fisher sensitivity: the predicted cost of each step alone, from a handful of passes for all steps.

To second order, changing weights by Δ costs, in Kullback-Leibler divergence from the original's answers, half the
mean of ⟨g, Δ⟩², where g is the gradient of the logarithm of an answer that is drawn from them: the Fisher form, which
needs no labels. One forward and one backward pass give, layer by layer, the gradients of single samples, and products
with them the costs of all steps. Answers are softened, as in distillation: the gradients of a network that is sure of
every answer vanish.

Sources: LeCun et al., "Optimal Brain Damage" (NIPS 1989); Amari, "Natural Gradient Works Efficiently in Learning"
(Neural Computation 10, 1998).

What a norm or a corrected bias behind a layer makes good is taken out of Δ first: a shift of the mean, and, with a
norm, a change of scale.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.backend.compress import Compressor
from autocompress.backend.graph.sample_axes import SampleAxis
from autocompress.backend.layers.recurrent import stepwise
from autocompress.backend.layers.transposed import TransposedConv
from autocompress.backend.sensitivity.weight_deltas import weight_changes
from autocompress.backend.statistics.moments import windows
from autocompress.backend.statistics.reconstruct import as_matrix
from autocompress.core.allocator import release_memory
from autocompress.core.batch_sizes import EVERY_BYTES, rows_of
from autocompress.core.cancellation import checkpoint
from autocompress.core.plan import Step
from autocompress.errors import TrialError
from autocompress.techniques.apply import technique_of
from autocompress.tensors.named import Inputs

# Of how costs are predicted: a change makes what was kept void.
VERSION = 2
# Asked for the table: as many as its time allows.
SAMPLES = (96, 48, 24)
# What asking one sample costs in forward passes of it: forward, backward, and products with the changes; and the most
# passes of the calibration inputs that the table may take.
PASSES, MOST_PASSES = 4, 30
# Of its time, that goes into them; the rest works out how weights would change.
PASSES_SHARE = 0.5
TIMED = 4
BATCH = 32
# Answers drawn for each sample, each for one backward pass.
DRAWS = 1
# Of changes held at once, half of it where tensors are so large that passes hold as much; each chunk costs its own
# passes.
CHUNK_BYTES = 512 * 2**20
PRODUCT_BYTES = 128 * 2**20

# The number of the step that it belongs to, and how it changes the layer's weight, flat.
Change = tuple[int, Tensor]


def sensitivities(compressor: Compressor, steps: Sequence[Step], seconds: float = math.inf) -> list[float]:
    """Predict the cost of each step alone, in nats of KL divergence of softened answers.

    Costs are kept step by step with the statistics of the network: another budget, or a resumed study, computes nothing
    again, and another device only what the ones before could not do.

    Args:
        compressor: of the original, with its calibration data.
        steps: of any technique that changes weights.
        seconds: that it may take. Where that is too short, it looks at fewer samples, and then at fewer steps, those
            that solve least last.

    Returns:
        A cost for each step; NaN for those left out.

    Raises:
        TrialError: where even the widths of layers with the fewest samples take longer.
    """
    samples, until = _affordable(compressor, steps, seconds)
    kind = _kind(compressor, samples)
    nats = compressor.statistics.gathered(
        kind, _names(steps), lambda missing: _measured(compressor, [steps[place] for place in missing], samples, until))
    return [float(cost) for cost in nats]


def _affordable(compressor: Compressor, steps: Sequence[Step], seconds: float) -> tuple[int, float]:
    """How many samples are asked, and until when (`time.perf_counter()`) changes of weights are worked out.

    One sample costs about `PASSES` forward passes of it, once for each chunk of changes; together that is at most
    `MOST_PASSES` passes of all calibration inputs.
    """
    count = len(compressor.calibration)
    missing = {samples: unknown(compressor, steps, samples) for samples in SAMPLES}
    for samples in SAMPLES:
        if not missing[samples]:
            return samples, math.inf
    chunks = math.ceil(sum(_bytes(compressor, steps[place]) for place in missing[SAMPLES[0]])
                       / _chunk_bytes(compressor))
    legal = [n for n in SAMPLES if n * PASSES * chunks <= MOST_PASSES * count] or [SAMPLES[-1]]
    if seconds == math.inf:
        return legal[0], math.inf
    began = time.perf_counter()
    each = PASSES * chunks * _forward_seconds(compressor)
    for samples in legal:
        if min(samples, count) * each <= PASSES_SHARE * seconds:
            return samples, began + seconds - min(samples, count) * each
    raise TrialError(f"{legal[-1]} samples would take {legal[-1] * each:.0f} of {seconds:.0f} s")


def _forward_seconds(compressor: Compressor) -> float:
    """Of one sample, measured on a few after the first pass, which prepares more than it computes."""
    inputs = compressor.calibration[:TIMED]
    with torch.no_grad():
        compressor.original(inputs[:1])
        began = time.perf_counter()
        compressor.original(inputs)
    return (time.perf_counter() - began) / len(inputs)


def _rows_together(compressor: Compressor) -> int:
    """Samples of one pass."""
    return rows_of(compressor.statistics.footprint.every, BATCH, EVERY_BYTES)


def _chunk_bytes(compressor: Compressor) -> int:
    return CHUNK_BYTES if _rows_together(compressor) == BATCH else CHUNK_BYTES // 2


def _bytes(compressor: Compressor, step: Step) -> int:
    """Of the changes of weights that a step makes, about."""
    if technique_of(step, compressor.techniques).acts_on != "group":
        return _nbytes(compressor.original, step.site)
    items = compressor.coupling.items.get(step.site, ())
    return sum(_nbytes(compressor.original, item.module) for item in items) // 2  # readers alone


def _nbytes(model: nn.Module, name: str) -> int:
    weight = getattr(model.get_submodule(name), "weight", None)
    return weight.nbytes if isinstance(weight, Tensor) else 0


def unknown(compressor: Compressor, steps: Sequence[Step], samples: int = 0) -> list[int]:
    """Places among `steps` whose costs on so many `samples` (0: the most) the statistics of `compressor` do not hold.
    """
    return compressor.statistics.missing(_kind(compressor, samples or SAMPLES[0]), _names(steps))


def _kind(compressor: Compressor, samples: int) -> str:
    request = f"{VERSION} {samples} {DRAWS} {compressor.likelihood.fingerprint}"
    return f"sensitivities-{hashlib.sha256(request.encode()).hexdigest()[:16]}"


def _names(steps: Sequence[Step]) -> list[str]:
    return [hashlib.sha256(msgspec.json.encode(step, order="sorted")).hexdigest()[:16] for step in steps]


def _measured(compressor: Compressor, steps: Sequence[Step], samples: int, until: float) -> Tensor:
    inputs = compressor.calibration[:samples]
    felt = torch.zeros(len(steps), len(inputs) * DRAWS)
    left = set(range(len(steps)))
    for chunk in _chunks(compressor, steps, until, left):
        for change, by_answer in _products(compressor, inputs, chunk):
            felt[change] += by_answer
    felt[sorted(left)] = torch.nan
    return felt.square().mean(1) / 2


def _chunks(compressor: Compressor, steps: Sequence[Step], until: float,
            left: set[int]) -> Iterator[dict[str, list[Change]]]:
    """Changes by layer, as many at once as `CHUNK_BYTES` allow; those of one layer together, for what they share. Where
    the clock ends it, steps that matter most come first, and `left` keeps the numbers of those that it left out.
    TrialError where it ends it before the widths of layers."""
    chunk: dict[str, list[Change]] = {}
    parts: dict[str, Tensor | None] = {}
    held, limit = 0, _chunk_bytes(compressor)
    for done, number in enumerate(_in_order(compressor, steps, timed=until < math.inf)):
        checkpoint("options of layers", done, len(steps))
        if time.perf_counter() > until:
            if technique_of(steps[number], compressor.techniques).after_training:
                raise TrialError(f"the time was up after {done} of {len(steps)} options")
            break
        left.remove(number)
        for name, change in weight_changes(compressor, steps[number]).items():
            if held and held + change.nbytes > limit:
                yield chunk
                chunk, held = {}, 0
            if name not in parts:
                parts[name] = _own_parts(compressor, name)
            chunk.setdefault(name, []).append(
                (number, _without_norm_compensation(compressor, name, change, parts[name]).flatten()))
            held += change.nbytes
    if chunk:
        yield chunk


def _in_order(compressor: Compressor, steps: Sequence[Step], timed: bool) -> list[int]:
    """Numbers of the steps layer by layer; `timed`: all widths first, then every other number of channels, factors, and
    the rest."""
    places = {name: place for place, (name, _) in enumerate(compressor.original.named_modules())}
    tiers = dict.fromkeys(range(len(steps)), 0)
    seen: dict[str, int] = {}
    for number, step in enumerate(steps if timed else ()):
        row = technique_of(step, compressor.techniques)
        if row.acts_on == "group":
            seen[step.site] = seen.get(step.site, 0) + 1
            tiers[number] = 1 if seen[step.site] % 2 else 3
        elif not row.after_training:
            tiers[number] = 2
    return sorted(tiers, key=lambda n: (tiers[n], places.get(steps[n].site.partition("/")[0], -1)))


def _own_parts(compressor: Compressor, name: str) -> Tensor | None:
    """What a change of a weight, both as `as_matrix` writes them, is multiplied with so that the sum over an output is
    its part along the weight itself, in the measure of the layer's input; None where no norm is behind the layer."""
    moments = compressor.statistics.moments(name)
    if moments is None or name not in compressor.normed:
        return None
    weight: Any = compressor.original.get_submodule(name).weight
    groups, d = moments.covariance.shape[:2]
    rows = as_matrix(weight.detach(), d)
    seen = (rows.reshape(groups, -1, d) @ moments.covariance).reshape(len(weight), -1)
    whole = (rows.reshape(len(weight), -1) * seen).sum(1, keepdim=True)
    return (seen / whole.clamp_min(1e-12)).reshape(-1, d)


def _without_norm_compensation(compressor: Compressor, name: str, change: Tensor, parts: Tensor | None) -> Tensor:
    """A norm behind the layer gives its output the variance that it had: to first order that takes from each row of
    the change its part along the row itself."""
    if parts is None:
        return change
    weight: Any = compressor.original.get_submodule(name).weight
    share = (as_matrix(change, parts.shape[1]) * parts).reshape(len(change), -1).sum(1)
    made_good: Tensor = share.reshape(-1, *[1] * (change.dim() - 1)) * weight.detach()
    return change - made_good


def _products(compressor: Compressor, inputs: Inputs,
              chunk: dict[str, list[Change]]) -> Iterator[tuple[int, Tensor]]:
    """For each change its products `(samples * DRAWS,)` with the gradients of single answers. The chunk is used up.

    Layers in whose tensors no axis is proved to be the samples are given one sample at a time: all that such a layer
    reads and writes is then that sample's.
    """
    layouts = {name: compressor.sample_axes.get(name) for name in chunk}
    together = {name: chunk.pop(name) for name, layout in layouts.items() if layout is not None}
    if together:
        size = _rows_together(compressor)
        yield from _of_layers(compressor, inputs, together, layouts, _means(compressor, together, size), size)
    if chunk:
        yield from _of_layers(compressor, inputs, chunk, layouts, _means(compressor, chunk, 1), 1)


def _means(compressor: Compressor, names: Iterable[str], size: int) -> dict[str, Tensor]:
    """Of what layers read, where `size` samples, fewer than a whole batch, do not tell them."""
    moments_of = {name: compressor.statistics.moments(name) for name in names} if size < BATCH else {}
    return {name: moments.mean for name, moments in moments_of.items() if moments is not None}


def _of_layers(compressor: Compressor, inputs: Inputs, chunk: dict[str, list[Change]],
               layouts: Mapping[str, SampleAxis | None], means: Mapping[str, Tensor],
               size: int) -> Iterator[tuple[int, Tensor]]:
    """`means`: of what is read, for layers of which one batch does not tell it; the others' follow from the batch."""
    model, generator = compressor.original, torch.Generator().manual_seed(0)
    likelihood = compressor.likelihood
    numbers = {name: [number for number, _ in changes] for name, changes in chunk.items()}
    matrices = {name: torch.stack([change for _, change in chunk.pop(name)]) for name in numbers}  # not held twice
    products: dict[str, list[Tensor]] = {name: [] for name in numbers}
    batches = torch.split(inputs, size)
    for done, batch in enumerate(batches):
        checkpoint("what options cost", done, len(batches))
        release_memory()
        reads, writes, outputs = _watched(model, batch, list(numbers))
        with torch.enable_grad():
            answers = likelihood.canonical(outputs)
        compared = likelihood.compared(answers.detach(), batch)
        for draw in range(DRAWS):
            last = draw + 1 == DRAWS
            gradients = list(torch.autograd.grad(answers, [write for calls in writes.values() for write in calls],
                                                 likelihood.drawn_gradient(compared, generator),
                                                 retain_graph=not last, allow_unused=True))[::-1]
            for name in list(writes):
                calls = writes.pop(name) if last else writes[name]  # what a layer held is free for the next one
                read = reads.pop(name) if last else reads[name]
                of_calls = [gradients.pop() for _ in calls]
                if any(got is not None for got in of_calls):
                    gradient = _stacked([torch.zeros_like(write) if got is None else got
                                         for write, got in zip(calls, of_calls, strict=True)])
                    with _named(name):
                        products[name].append(_with_gradients(
                            model.get_submodule(name), _by_sample(layouts[name], read),
                            _by_sample(layouts[name], gradient), matrices[name], means.get(name)))
    for name, of_steps in numbers.items():
        if products[name]:
            by_answer = torch.cat(products[name])
            yield from ((number, by_answer[:, i]) for i, number in enumerate(of_steps))


@contextmanager
def _named(layer: str) -> Iterator[None]:
    """What fails here is said of the layer."""
    try:
        yield
    except RuntimeError as error:
        cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise TrialError(f"the gradients of {layer} cannot be taken sample by sample: {cause}") from error


def _by_sample(layout: SampleAxis | None, tensor: Tensor) -> Tensor:
    """`(N, …)`: the entries of each sample in a row; where there is no layout, all of them are of one sample."""
    return tensor[None] if layout is None else layout.split(tensor)


def _watched(model: nn.Module, batch: Inputs,
             names: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, list[Tensor]], Tensor]:
    """What the named layers read and, call by call, write, and the outputs; the writes can be differentiated."""
    reads: dict[str, list[Tensor]] = {}
    writes: dict[str, list[Tensor]] = {}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            reads.setdefault(name, []).append(args[0].detach())
            written = output if output.requires_grad else output.requires_grad_()
            writes.setdefault(name, []).append(written)
            return written
        return hook

    handles = [model.get_submodule(name).register_forward_hook(watch(name)) for name in names]
    try:
        with torch.enable_grad(), stepwise(model):
            outputs: Tensor = model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: _stacked(calls) for name, calls in reads.items()}, writes, outputs


def _stacked(calls: Sequence[Tensor]) -> Tensor:
    """Tensors `(N, features)` of several calls, such as steps of a sequence, as `(N, calls, features)`."""
    return calls[0] if len(calls) == 1 else torch.stack(list(calls), 1)


def _with_gradients(module: Any, inputs: Tensor, gradient: Tensor, changes: Tensor, mean: Tensor | None) -> Tensor:
    """Products `(N, changes)` of the weight gradients of single samples, less what a shift of the mean does to them,
    with `changes` `(changes, weights)`. `inputs`, `gradient`: as `_by_sample` gives what the layer reads and writes.
    `mean` `(groups, d)`: of its rows, that of all samples here where there is none of that size."""
    if isinstance(module, nn.Embedding):
        looked_up = changes.reshape(len(changes), *module.weight.shape)[:, inputs]
        return (looked_up * gradient).flatten(2).sum(2).T
    rows, errors = _rows(module, inputs), _errors(module, gradient)
    has_mean = mean is not None and mean.shape == rows.shape[1:3]
    rows = rows - (mean[None, :, :, None] if mean is not None and has_mean else rows.mean((0, 3), keepdim=True))
    each = max(1, PRODUCT_BYTES // (4 * changes.shape[1]))
    products = [(errors[i:i + each] @ rows[i:i + each].transpose(2, 3)).flatten(1) @ changes.T
                for i in range(0, len(rows), each)]
    return torch.cat(products)


def _rows(module: Any, inputs: Tensor) -> Tensor:
    """What the weight matrix is multiplied with, `(N, groups, d, positions)`; for a convolution `inputs` are
    `(N, frames, C, …)`."""
    if isinstance(module, nn.Linear):
        return inputs.reshape(len(inputs), 1, -1, module.in_features).transpose(2, 3)
    items = inputs.flatten(0, 1)
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        padded = F.pad(items, module._reversed_padding_repeated_twice,
                       mode="constant" if module.padding_mode == "zeros" else module.padding_mode)
        kernel, dilation, stride = module.kernel_size, module.dilation, module.stride
        if isinstance(module, nn.Conv1d):
            padded, kernel, dilation, stride = padded[:, :, None], (1, *kernel), (1, *dilation), (1, *stride)
        columns = F.unfold(padded, kernel, dilation, 0, stride)
    else:
        axes, view = len(module.kernel_size), windows(module, items)
        columns = view.permute(0, 1, *range(2 + axes, 2 + 2 * axes), *range(2, 2 + axes)).reshape(
            len(items), -1, prod(view.shape[2:2 + axes]))
    return _frames_as_positions(columns.reshape(len(items), module.groups, -1, columns.shape[2]), len(inputs))


def _errors(module: Any, gradient: Tensor) -> Tensor:
    """The gradient of what a layer writes, `(N, groups, out / groups, positions)`."""
    if isinstance(module, nn.Linear):
        return gradient.reshape(len(gradient), 1, -1, gradient.shape[-1]).transpose(2, 3)
    items = gradient.flatten(0, 1)
    if isinstance(module, TransposedConv):  # in the order of `windows`
        items = items.flip(tuple(range(2, items.dim())))
    return _frames_as_positions(items.reshape(len(items), module.groups, items.shape[1] // module.groups, -1),
                                len(gradient))


def _frames_as_positions(items: Tensor, samples: int) -> Tensor:
    """`(samples * frames, groups, d, positions)` → `(samples, groups, d, frames * positions)`."""
    frames = items.reshape(samples, -1, *items.shape[1:])
    return frames.permute(0, 2, 3, 1, 4).flatten(3)
