"""Training on a device, without a GPU: where GPU and CPU differ, a double stands for the GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autocompress
from autocompress.backend.training import device as device_module
from autocompress.backend.training.device import Halves, is_gpu, on_device
from autocompress.backend.training.distill import autocast
from autocompress.backend.training.teacher import Teacher
from autocompress.core.plan import Plan, Step
from autocompress.core.store import MemoryStore
from autocompress.errors import InputError, TrialError
from autocompress.hardware.profile import load_profile
from autocompress.search.executors.base import Place
from autocompress.study import loading
from autocompress.study.settings import SearchSettings
from autocompress.study.workbench import Workbench
from autocompress.tensors.named import NamedTensors
from autocompress.testing.networks import task_data


def test_a_gpu_computes_in_bfloat16_whichever_it_is() -> None:
    with pytest.warns(UserWarning, match="CUDA is not available") if not torch.cuda.is_available() else \
            pytest.MonkeyPatch.context():
        mode = autocast("cuda:1")
    assert mode.fast_dtype is torch.bfloat16 and mode.device == "cuda" and is_gpu("cuda:1") and not is_gpu("cpu")


def test_tensors_go_to_a_gpu_through_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[Any] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: (moved.append("pinned"), tensor)[1])
    monkeypatch.setattr(Tensor, "to", lambda tensor, *args, **named: (moved.append((args, named)), tensor)[1])
    on_device(torch.zeros(2), "cuda:1")
    on_device(NamedTensors(a=torch.zeros(2), b=torch.zeros(2)), "cuda")
    assert moved == ["pinned", (("cuda:1",), {"non_blocking": True}), "pinned", "pinned",
                     *[(("cuda",), {"non_blocking": True})] * 2]
    moved.clear()
    on_device(torch.zeros(2), "cpu")
    assert moved == [(("cpu",), {})]


def _pass(network: nn.Linear, most: int, halves: Halves, seen: list[int]) -> tuple[float, Tensor]:
    """One pass over eight samples on a device that has memory for `most`."""
    x = torch.arange(16.0).reshape(8, 2)

    def loss_of(rows: slice) -> Tensor:
        part = x[rows]
        seen.append(len(part))
        loss = network(part).square().mean()
        if len(part) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return loss

    loss = halves.backward(len(x), loss_of, network.zero_grad)
    assert network.weight.grad is not None
    return loss, network.weight.grad.clone()


def test_where_the_memory_does_not_suffice_half_a_batch_gives_the_same_gradients(
        monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[int] = []
    monkeypatch.setattr(device_module.torch.cuda, "empty_cache", lambda: emptied.append(1))
    network, halves, seen = nn.Linear(2, 3), Halves("cuda:0"), list[int]()
    loss, gradient = _pass(network, 8, Halves("cuda:0"), seen)
    halved_loss, halved = _pass(network, 4, halves, seen)
    torch.testing.assert_close(halved, gradient)
    assert halved_loss == pytest.approx(loss) and seen == [8, 8, 4, 4] and emptied == [1]
    _pass(network, 4, halves, seen)
    assert seen[4:] == [4, 4], "the next step begins with halves"


def test_where_half_a_batch_does_not_fit_either_the_candidate_fails_with_the_reason() -> None:
    with pytest.raises(TrialError, match=r"more memory than cuda:0 has, even with half the batch \(4 samples\): CUDA "
                                         r"out of memory. Tried to allocate 2 GiB"):
        _pass(nn.Linear(2, 3), 3, Halves("cuda:0"), [])


def _answered(monkeypatch: pytest.MonkeyPatch, at_once: int, most: int = 10**6) -> tuple[list[int], list[Tensor]]:
    """How many samples the original is asked for together, and its answers to two batches."""
    data, sizes = task_data((20,)), list[int]()
    network = nn.Linear(20, 5, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.linspace(-1, 1, 100).reshape(5, 20))

    def answer(inputs: Tensor) -> Tensor:
        sizes.append(len(inputs))
        if len(inputs) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        with torch.no_grad():
            return network(inputs)

    teacher = Teacher(answer, data, 0, None, at_once=at_once)
    return sizes, [teacher.batch(0, torch.arange(start, start + 16))[1] for start in (32, 0)]


def test_on_a_gpu_the_original_answers_many_samples_together(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, answers = _answered(monkeypatch, 0)
    assert sizes == [16, 16]
    ahead, same = _answered(monkeypatch, 1024)
    assert ahead == [64], "all samples of the view"
    torch.testing.assert_close(same[0], answers[0])
    torch.testing.assert_close(same[1], answers[1])
    fewer, again = _answered(monkeypatch, 1024, most=16)
    assert fewer == [64, 16, 16]
    torch.testing.assert_close(again[1], answers[1])


@pytest.mark.parametrize(("names", "device", "there"), [
    ([], "cuda", "there is cpu, and no GPU that torch can use"),
    (["H200", "H100"], "cuda:2", r"there is cpu, and cuda:0 \(H200\), cuda:1 \(H100\)")])
def test_a_gpu_that_is_not_there_is_said_before_anything_is_loaded(
        monkeypatch: pytest.MonkeyPatch, names: list[str], device: str, there: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: names[number])
    with pytest.raises(InputError, match=f"device must be one that is here, but got '{device}': {there}") as caught:
        autocompress.search("no/such.py:net", "digits", "2kB", device=device)
    assert caught.value.exit_code == 2
    for device in ("cpu", *(f"cuda:{i}" for i in range(len(names)))):
        loading.check_device(device)


@pytest.mark.parametrize(("device", "gpus"), [("cuda:1", 1.0), ("cuda", 0.0)])
def test_ray_gives_workers_their_gpus(device: str, gpus: float) -> None:
    with pytest.raises(InputError, match="Ray gives each worker its GPU"):
        SearchSettings.of(workers="ray", device=device, gpus_per_worker=gpus)
    SearchSettings.of(workers="ray", device="cuda", gpus_per_worker=0.5)


def test_workers_that_share_a_gpu_take_their_share_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", taken.append)
    monkeypatch.setattr(loading, "make_bench", lambda *_: (_ for _ in ()).throw(InputError("enough")))
    for gpus in (0.0, 0.5, 1.0):
        with pytest.raises(InputError, match="enough"):
            loading._rebuilt(None, None, None, None, Place(None, gpus=gpus))  # type: ignore[arg-type]
    assert taken == [0.5]


def test_targets_of_the_users_own_batches_are_halved_too(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = device_module.Halves._slices
    monkeypatch.setattr(device_module.Halves, "_slices", lambda self, rows: (setattr(self, "_parts", 2),
                                                                             whole(self, rows))[1])
    seen: list[int] = []

    def loss(outputs: Any, batch: Any) -> Tensor:
        seen.append(len(batch[1]))
        assert len(outputs["output"]) == len(batch[1])
        return nn.functional.cross_entropy(outputs["output"], batch[1])

    torch.manual_seed(0)
    data = torch.randn(96, 6), torch.arange(96) % 3
    network = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    task = autocompress.Task(train=data, metric="accuracy", loss=loss)
    bench = Workbench(network, task, load_profile("stm32h743"), seed=0, epochs=1, store=MemoryStore())
    trainer = bench.evaluator.trainer
    seen.clear()
    plan = Plan.of([Step("0", "quantize", {"weight_bits": 8, "activation_bits": 8})])
    trainer.train(trainer.rebuild(plan, 0), 1, None, False, None)
    assert seen and max(seen) <= 64 // 2 + 16
