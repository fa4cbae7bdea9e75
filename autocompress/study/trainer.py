"""Recovery of a compressed network by distillation from the original, rung by rung."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn

from autocompress.backend.network.checkpoint import kept_weights, load_weights, put_weights
from autocompress.backend.network.compressed import Compressed
from autocompress.backend.training.device import is_gpu, on_device
from autocompress.backend.training.distill import autocast, check_recipe, distill
from autocompress.backend.training.feature_distillation import Original
from autocompress.backend.training.recipe import Recipe
from autocompress.backend.training.teacher import Teacher
from autocompress.core.batch_sizes import LIVE_BYTES, TRAINING_BYTES, rows_at_once, rows_of
from autocompress.core.plan import Plan
from autocompress.core.store import WEIGHTS, Store, weights_key
from autocompress.formats.base import Runtime
from autocompress.formats.running import as_outputs, in_batches
from autocompress.study.file_writer import as_arrays
from autocompress.study.int8_teacher import int8_file
from autocompress.study.traced import TracedNetwork
from autocompress.study.warm_start import with_relative
from autocompress.tensors.named import Inputs

# Samples of an optimiser step at least, whatever their bytes: norms need some.
LEAST_BATCH = 8
# Least optimiser steps of a short and a long distillation when no time limit shapes them.
SHORT_STEPS, LONG_STEPS = 32, 128
# Samples that the original answers together on a GPU, as far as their bytes allow.
ANSWERED_ON_A_GPU = 1024
# How many times the bytes of a batch on a CPU go together there.
ON_A_GPU = 16


class Trainer:
    """Trains compressed networks to answer like the original, and keeps their weights.

    Args:
        network: the traced original.
        store: keeps weights of trained candidates and the teacher's answers, and has those of an earlier study.
        epochs: of the long distillation where no time limit is given.
        device: a torch device, on which training runs.
        threads: CPU threads of the teacher's file.
        recovery: how to train; how long is for the rung. With `block_steps`, rung 1 reconstructs blocks, no more.
    """

    def __init__(self, network: TracedNetwork, *, store: Store, epochs: int, device: str = "cpu", threads: int = 1,
                 recovery: Recipe | None = None) -> None:
        self._network, self._epochs, self.device, self.threads = network, epochs, device, threads
        self._store = store
        self._recovery = recovery or Recipe()
        check_recipe(self._recovery, network.table, network.calibration)
        self._int8_runtimes: dict[int, Runtime] = {}  # by threads
        live = network.compressor.statistics.footprint.live
        at_once = rows_of(live, ANSWERED_ON_A_GPU, ON_A_GPU * LIVE_BYTES) if is_gpu(device) else 0
        self.teacher = Teacher(self.answer, network.task, network.seed, store, network.likelihood, at_once)

    def is_trained(self, plan: Plan, rung: int) -> bool:
        """Whether the weights of a plan after a rung are kept."""
        return rung > 0 and weights_key(plan, rung) in self._store.keys(WEIGHTS)

    def inherited(self, compressed: Compressed) -> tuple[Compressed, bool]:
        """The network with weights of its nearest trained relative where that answers more like the original, and
        whether it has them."""
        network = self._network
        return with_relative(compressed, network.compressor, network.table, self._store, self._original_outputs)

    def train(self, compressed: Compressed, rung: int, seconds: float | None, trained: bool,
              should_stop: Callable[[], bool] | None) -> str:
        """Distil in place as the rung says, keep the weights, and return the hash of their file.

        `seconds` ends it by the clock; `trained`: whether it starts from trained weights. TrialError where training
        fails.
        """
        network = self._network
        original = Original(self._original, network.table, network.compressor.coupling)
        distill(compressed, self.teacher, network.task, self._recipe(rung, seconds, trained), network.calibration,
                network.seed, self.device, should_stop, original, network.likelihood,
                as_shipped=bool(network.training_difference))
        return put_weights(self._store, rung, compressed)

    def rebuild(self, plan: Plan, rung: int, weights: str = "") -> Compressed:
        """The network of a plan as it was after `rung`: recomputed, or read when training was involved.

        StorageError where the file of its weights is gone, or has another hash than `weights`, if that is given.
        """
        compressor = self._network.compressor
        if rung == 0:
            return compressor.compress(plan)
        key = weights_key(plan, rung)
        data = kept_weights(self._store, key, weights)
        return load_weights(compressor.restructure(plan, fit=False), data, key)

    def answer(self, inputs: Inputs) -> Tensor:
        """The original's outputs in canonical form for the teacher to give. On a CPU they come from its own 8-bit file
        where that puts out the same: it is several times faster there."""
        likelihood = self._network.likelihood
        if self._int8_file is not None:
            if self.threads not in self._int8_runtimes:
                self._int8_runtimes[self.threads] = self._network.writer.format.open(self._int8_file, self.threads)
            outputs = in_batches(self._int8_runtimes[self.threads], as_arrays(inputs), self._network.rows)
            return likelihood.compared(likelihood.canonical(as_outputs(outputs)), inputs)
        with torch.inference_mode(), autocast(self.device):
            outputs = self._original(on_device(inputs, self.device))
            return likelihood.compared(likelihood.canonical(outputs), inputs)

    @cached_property
    def _int8_file(self) -> bytes | None:
        return int8_file(self._network, self.threads) if self.device == "cpu" else None

    @cached_property
    def _original(self) -> nn.Module:
        model = self._network.model
        return model.eval() if self.device == "cpu" else copy.deepcopy(model).to(self.device).eval()

    @cached_property
    def _original_outputs(self) -> Tensor:
        """The original's outputs for the calibration data, in canonical form."""
        network = self._network
        runtime = network.writer.format.open(network.writer.original_file, self.threads)
        outputs = as_outputs(in_batches(runtime, as_arrays(network.calibration), network.rows))
        return network.likelihood.compared(network.likelihood.canonical(outputs), network.calibration)

    def _recipe(self, rung: int, seconds: float | None, trained: bool = False) -> Recipe:
        network = self._network
        batch = rows_at_once(network.sample_shape, self._recovery.batch, TRAINING_BYTES)
        recipe = replace(self._recovery, batch=max(min(LEAST_BATCH, self._recovery.batch), batch),
                         reads_labels=self._recovery.reads_labels and network.reads_labels)
        if trained:
            recipe = replace(recipe, block_steps=0)
        if rung == 1 and recipe.block_steps:  # a short distillation behind it only did harm
            return replace(recipe, epochs=0.0, seconds=seconds)
        per_epoch = max(1, network.task.samples("train") // recipe.batch)
        if seconds is not None:
            # The clock ends it; the count only has to be out of reach.
            return replace(recipe, epochs=1000.0, seconds=seconds, charge_teacher=rung > 1)
        epochs, steps = (max(1, self._epochs // 8), SHORT_STEPS) if rung == 1 else (self._epochs, LONG_STEPS)
        return replace(recipe, epochs=max(epochs, steps / per_epoch))
