"""The compressor: drop, prune, decompose, sparsify, equalise and quantise as a plan says, on a copy of the original.

The whole plan is checked and resolved on facts before a tensor is touched. The result is a deterministic
function of weights, plan, calibration data and seed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.backend.decompose.factorize import factorize, shapes
from autocompress.backend.graph.coupling import Coupling, cut_channels, removed_indices
from autocompress.backend.graph.rescale import fits
from autocompress.backend.graph.residual_blocks import drop_blocks
from autocompress.backend.graph.sample_axes import SampleAxis, observe_calls
from autocompress.backend.layers.kinds import Conv
from autocompress.backend.layers.recurrent import stepwise
from autocompress.backend.network.compressed import (
    Compressed,
    IntegerLayer,
    integer_layers,
    leaves,
    only_modules,
    replace_module,
)
from autocompress.backend.network.quantized_weight import QuantizedWeight
from autocompress.backend.prune.importance import channel_scores
from autocompress.backend.quantize.cross_layer_equalization import equalize
from autocompress.backend.quantize.gptq import Factor, factored
from autocompress.backend.quantize.rounding import quantize, rounded_weight
from autocompress.backend.sparsify.magnitude_wanda_obs import sparsify
from autocompress.backend.statistics.calibration import NormInputs, correct_biases, norm_inputs
from autocompress.backend.statistics.lru_cache import LruTensorCache, content
from autocompress.backend.statistics.moments import Moments, Samples, Statistics, width
from autocompress.backend.statistics.reconstruct import as_matrix, from_matrix, on_remaining
from autocompress.core.cancellation import checkpoint
from autocompress.core.layer import Group, LayerTable
from autocompress.core.plan import Plan, Receipt, Step
from autocompress.core.store import Store
from autocompress.techniques import sparsify as sparsity
from autocompress.techniques.apply import Techniques, resolve, technique_of
from autocompress.techniques.decompose import DECOMPOSE
from autocompress.techniques.drop import DROP, dropped_layers
from autocompress.techniques.prune import DEFAULT_CRITERION, PRUNE
from autocompress.techniques.quantize import KINDS, equalized, steps_of
from autocompress.techniques.sparsify import SPARSIFY
from autocompress.techniques.table import TECHNIQUES
from autocompress.tensors.likelihood import CATEGORICAL, Likelihood
from autocompress.tensors.named import Inputs


@dataclass(frozen=True)
class _Refit:
    """A layer fitted to its remaining inputs: its weight, the shift of its outputs, and the moments of those inputs."""

    weight: Tensor
    shift: Tensor
    moments: Moments


class Compressor:
    """Applies plans to one original (eval mode, CPU, float32); the original is never changed.

    Args:
        model: The original.
        table: Its layer table.
        coupling: Its recorded coupling.
        calibration: Normalised inputs `(N, …)`.
        store: A store for statistics of the calibration data, shared by processes; None keeps none.
        likelihood: What the network's outputs stand for.
        techniques: The techniques by name, in the order of application.
        samples: Those that weights are fitted to; None for the calibration inputs.
    """

    def __init__(self, model: nn.Module, table: LayerTable, coupling: Coupling, calibration: Inputs,
                 store: Store | None = None, likelihood: Likelihood = CATEGORICAL,
                 techniques: Techniques = TECHNIQUES, samples: Samples | None = None) -> None:
        self.techniques = techniques
        self.original, self._table, self.coupling = model, table, coupling
        self.calibration, self.likelihood = calibration, likelihood
        self.statistics = Statistics(model, calibration, store, likelihood, samples)
        self._groups = {group.name: group for group in table.groups}
        self._order: dict[tuple[str, str], np.ndarray] = {}
        self._memo = LruTensorCache()
        self._originals = {name.removesuffix(".weight"): weight for name, weight in model.named_parameters()
                           if name.endswith(".weight")}
        self.normed = {layer.folds_into for layer in table.layers if layer.folds_into}

    def restructure(self, plan: Plan, fit: bool = True) -> Compressed:
        """Drop, prune, decompose and sparsify a copy of the original; weights stay float.

        Args:
            plan: The plan.
            fit: Whether remaining weights are fitted to their inputs; False where trained weights will replace them.

        Raises:
            InputError, ValueError: A step cannot be carried out.
        """
        resolve(self._table, plan, self.techniques)
        return self._restructured(Compressed(copy.deepcopy(self.original), plan), fit)

    def restructure_alone(self, step: Step) -> Compressed:
        """Return `restructure` for one step that drops nothing, on the modules that it touches and no others."""
        on_group = technique_of(step, self.techniques).acts_on == "group"
        touched = {item.module for item in self.coupling.items[step.site]} if on_group else {step.site}
        return self._restructured(Compressed(only_modules(self.original, touched), Plan.of([step])), fit=True)

    def _restructured(self, result: Compressed, fit: bool) -> Compressed:
        plan = result.plan
        result.norms = dict(self._norms) if fit else {}
        for name, row in self.techniques.items():
            steps = list(plan.find(name).values())
            if name in _STRUCTURE:
                result.receipts += _STRUCTURE[name](self, result, steps, fit)
            elif steps and not row.after_training:
                result.receipts += row.apply(result, steps)
        return result

    def compress(self, plan: Plan) -> Compressed:
        """Apply the whole plan without training.

        The network is restructured and equalised, weights are rounded, norms re-estimated and biases corrected.
        """
        result = self.restructure(plan)
        self._equalize(result)
        quantize(result, self.calibration, self.rounded(result))
        return result

    def forget(self) -> None:
        """Empty the cache of layers that later plans could share; statistics stay."""
        self._memo = LruTensorCache()

    def kept_channels(self, group: Group, keep: int, criterion: str = DEFAULT_CRITERION) -> np.ndarray:
        """Return the indices of the `keep` most important channels, equally many in each block, ascending."""
        key = group.name, criterion
        if key not in self._order:
            scores = channel_scores(criterion, self.original, self.coupling.items[group.name], group.channels,
                                    self.statistics)
            # Stable sort: of equal scores the lower index stays, on every machine.
            blocks = np.argsort(-scores.reshape(group.blocks, -1), axis=1, kind="stable")
            self._order[key] = blocks + np.arange(group.blocks)[:, None] * blocks.shape[1]
        return np.sort(self._order[key][:, :keep // group.blocks].reshape(-1))

    def _drop(self, result: Compressed, steps: list[Step], _fit: bool) -> list[Receipt]:
        if not steps:
            return []
        gone = {step.site: self._table.gone([step.site]) for step in steps}
        result.model = drop_blocks(result.model, list(gone))
        return [Receipt(site, DROP.name, {"layers": sorted(layers)}) for site, layers in gone.items()]

    def _prune(self, result: Compressed, steps: list[Step], fit: bool) -> list[Receipt]:
        remaining = {
            step.site: self.kept_channels(self._groups[step.site], int(step.args["keep"]),
                                          str(step.args.get("criterion", DEFAULT_CRITERION))) for step in steps}
        cut_channels(result.model, self.coupling.items, remaining)
        if fit:
            self._cut_norms(result, remaining)
            self._refit(result, remaining)
        return [Receipt(site, PRUNE.name, {"kept": channels.tolist()}) for site, channels in remaining.items()]

    @cached_property
    def sample_axes(self) -> dict[str, SampleAxis]:
        """The axis of the samples in what each layer reads and writes, by layer name.

        Layers are left out where that axis is not proved, differs between input and output, or is an axis of channels.
        """
        layers = [layer.name for layer in self._table.layers if layer.kind in KINDS and layer.compressible]
        axes = {}
        with stepwise(self.original):
            calls = observe_calls(self.original, self.calibration, layers)
        for name, call in calls.items():
            samples, module = call.reads.samples, self.original.get_submodule(name)
            last = 0 if isinstance(module, Conv) else len(call.writes.shape) - 1
            if samples is not None and samples == call.writes.samples and samples.axis <= last:
                axes[name] = samples
        return axes

    @cached_property
    def _norms(self) -> dict[str, NormInputs]:
        return norm_inputs(self.original, self.calibration)

    def _cut_norms(self, result: Compressed, remaining: dict[str, np.ndarray]) -> None:
        for (name, _), gone in removed_indices(self.coupling.items, remaining).items():
            if name in result.norms:
                count = len(self._norms[name].running_mean)
                stay = torch.tensor([i for i in range(count) if i not in gone])
                result.norms[name] = self._norms[name].channels(stay)

    def _refit(self, result: Compressed, remaining: dict[str, np.ndarray]) -> None:
        """Reconstruct the outputs of every layer with pruned inputs by least squares on its remaining inputs."""
        removed = removed_indices(self.coupling.items, remaining)
        absent = dropped_layers(self._table, result.plan)
        for (name, side), gone in removed.items():
            original = self.original.get_submodule(name)
            moments = self.statistics.moments(name)
            if side != "in" or not gone or name in absent or moments is None or len(moments.mean) > 1:
                continue
            area = moments.mean.shape[1] // len(moments.magnitude)
            assert isinstance(original.weight, Tensor)
            stay = torch.tensor([i for i in range(len(moments.magnitude)) if i not in gone])
            rows = torch.tensor([i for i in range(len(original.weight)) if i not in removed.get((name, "out"), ())])
            weight = as_matrix(original.weight.detach()[rows], moments.mean.shape[1])
            columns = (stay[:, None] * area + torch.arange(area)).flatten()
            checkpoint()
            compute = partial(self._refitted, name, weight, moments, stay, columns)
            refit = self._memo.get(("refit", name, content(rows), content(stay)), compute)
            layer: Any = result.model.get_submodule(name)
            with torch.no_grad():
                layer.weight.copy_(from_matrix(refit.weight, tuple(layer.weight.shape)))
                if isinstance(layer.bias, Tensor):
                    layer.bias += refit.shift.reshape(len(rows), -1).sum(1)
            result.moments[name] = refit.moments

    def _refitted(self, name: str, weight: Tensor, moments: Moments, stay: Tensor, columns: Tensor) -> _Refit:
        refitted = on_remaining(weight, self.output_moments(name, moments), columns, name)
        shift = weight @ moments.mean[0] - refitted @ moments.mean[0, columns]
        return _Refit(refitted, shift, moments.channels(stay))

    def output_moments(self, name: str, moments: Moments) -> Tensor:
        """Return the second moments `(d, d)` that weigh a weight error of an ungrouped layer.

        They are about the mean where a bias or a norm absorbs a shift of the outputs, about zero elsewhere.
        """
        absorbs = name in self.normed or self.original.get_submodule(name).bias is not None
        return (moments.covariance if absorbs else moments.second)[0]

    def _equalize(self, result: Compressed) -> None:
        """Equalise channels across layers as the plan says, and rescale the moments of their inputs.

        Networks that trained weights are loaded into skip this: those weights are already rescaled.
        """
        ways = {source: way for source, way in equalized(self._table, result.plan).items()
                 if fits(result.model, self.coupling.scalings[source])}
        if not ways:
            return
        folds = {source: self._table.by_name[source].folds_into for source in ways}
        scalings = self.coupling.scalings
        for source, factor in equalize(result.model, scalings, ways, folds, self.calibration).items():
            for name, repeat in scalings[source].readers.items():
                input_factor = factor.repeat_interleave(repeat)
                moments = self._moments(result, leaves(result.model, name)[0])
                if moments is not None:
                    key = ("equalize", name, id(moments), content(input_factor))
                    result.moments[name], _ = self._memo.get(key, partial(_rescaled, moments, input_factor))
            result.receipts += [Receipt(name, "equalize", {
                "against": source, "rescaled": int((factor != 1).sum()), "channels": len(factor),
                "least": round(float(factor.min()), 6), "largest": round(float(factor.max()), 6),
            }) for name in scalings[source].readers if name in steps_of(result.plan)]

    def _moments(self, result: Compressed, name: str) -> Moments | None:
        """Return the moments of the input that a layer, or its first factor, still has.

        None where its groups were cut, and where a first factor sees the input through another kernel.
        """
        layer = name if name in self._table.by_name else name.removesuffix(".0")
        moments = result.moments.get(layer) or self.statistics.moments(layer)
        module: Any = result.model.get_submodule(name)
        if moments is None:
            return None
        fits = moments.mean.shape[1] in (width(module), module.weight.shape[1]) \
            and len(moments.mean) == getattr(module, "groups", 1)
        return moments if fits else None

    def rounded(self, result: Compressed) -> dict[str, QuantizedWeight]:
        """Return integer weights, rounded by GPTQ or as the plan says, by layer name."""
        rounded = {}
        layers = integer_layers(result)
        for done, layer in enumerate(layers):
            checkpoint("rounding layers", done, len(layers))
            moments = self._moments(result, layer.name)
            key = ("round", layer.name, str(layer.args), id(moments), self._identity(layer), content(layer.mask))
            rounded[layer.name], _ = self._memo.get(key, partial(self._rounded, layer, moments))
        return rounded

    def _identity(self, layer: IntegerLayer) -> str:
        """Return a cache key of a layer's weight: `original` where unchanged, as comparing is faster than hashing."""
        original = self._originals.get(layer.name)
        return "original" if original is not None and torch.equal(layer.weight, original) else content(layer.weight)

    def _rounded(self, layer: IntegerLayer, moments: Moments | None) -> tuple[QuantizedWeight, Moments | None]:
        """Return the rounded weight, and the moments: the cache key holds their id, so that they must stay alive."""
        second = None if moments is None else self._weighing(layer.name, moments)

        def shared() -> Factor:
            """Return the factor of the second moments, which all bit-widths share."""
            assert second is not None
            key = ("factor", layer.name, id(moments))
            return self._memo.get(key, lambda: (factored(second, layer.name), moments))[0]

        return rounded_weight(layer.weight.detach(), layer.args, second, layer.mask, layer.name, shared), moments

    def _weighing(self, name: str, moments: Moments) -> Tensor:
        """Return the second moments `(groups, d, d)` that weigh a weight error of a layer or of its first factor."""
        layer = name if name in self._table.by_name else name.removesuffix(".0")
        return self.output_moments(layer, moments)[None] if len(moments.mean) == 1 else moments.second

    def _decompose(self, result: Compressed, steps: list[Step], fit: bool) -> list[Receipt]:
        receipts = []
        for step in steps:
            module = result.model.get_submodule(step.site)
            checkpoint()
            args = {name: value for name, value in step.args.items() if isinstance(value, int)}
            factors = shapes(module, str(step.args["method"]), args)
            if fit:
                moments = self._moments(result, step.site)
                hashes = [content(parameter) for parameter in module.parameters()]
                key = ("factors", step.site, str(step.args), id(moments), *hashes)
                computed, _ = self._memo.get(key, partial(self._factors, module, step, args, moments))
                factors = copy.deepcopy(computed)
            replace_module(result.model, step.site, factors)
            receipts.append(Receipt(step.site, DECOMPOSE.name, {
                "method": step.args["method"], **args, "weights_before": sum(p.numel() for p in module.parameters()),
                "weights_after": sum(p.numel() for p in factors.parameters())}))
        return receipts

    def _factors(self, module: nn.Module, step: Step, args: dict[str, int],
                 moments: Moments | None) -> tuple[nn.Sequential, Moments | None]:
        second, mean = (None, None) if moments is None else (self.output_moments(step.site, moments), moments.mean[0])
        return factorize(module, str(step.args["method"]), args, second, mean, step.site), moments

    def _sparsify(self, result: Compressed, steps: list[Step], fit: bool) -> list[Receipt]:
        receipts = []
        for step in steps if fit else []:
            pattern, density = str(step.args["pattern"]), float(step.args.get("density", 1.0))
            criterion = str(step.args.get("criterion", sparsity.DEFAULT_CRITERION))
            counts = {}
            for name in leaves(result.model, step.site):
                module: Any = result.model.get_submodule(name)
                moments = self._moments(result, name)
                second = None if moments is None else self._weighing(name, moments)
                before = module.weight.detach().clone()
                weight, result.masks[name] = sparsify(before, pattern, density, criterion, second, name)
                with torch.no_grad():
                    module.weight.copy_(weight)
                if moments is not None and module.bias is not None:
                    correct_biases(result.model, {name: weight - before}, {name: moments.channel_mean})
                counts[name] = int(result.masks[name].kept.sum())
            facts = {"pattern": pattern, "criterion": criterion, "kept": counts}
            receipts.append(Receipt(step.site, SPARSIFY.name, facts))
        return receipts


def _rescaled(moments: Moments, factor: Tensor) -> tuple[Moments, Moments]:
    """Return rescaled moments, and the original ones: the cache key holds their id, so that they must stay alive."""
    return moments.rescaled(factor), moments


# The techniques that change the structure or remove weights, in their order; quantisation follows recovery.
_STRUCTURE: dict[str, Callable[[Compressor, Compressed, list[Step], bool], list[Receipt]]] = {
    DROP.name: Compressor._drop, PRUNE.name: Compressor._prune, DECOMPOSE.name: Compressor._decompose,
    SPARSIFY.name: Compressor._sparsify,
}
