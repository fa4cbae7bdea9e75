"""Every classification architecture of torchvision, families of timm, and those of `zoo_networks.py`: traced,
compressed, exported, run.

    python benchmarks/zoo.py [--only NAME …] [--timeout 600]

Each network is randomly initialised, its norm statistics too, and runs in a process of its own on the smallest input
that it takes. A random legal plan of the space `default`, with blocks dropped, is carried out (activations float, so
that the comparison is exact); the file must compute what the compressed network computes. Writes `benchmarks/zoo.json`
and, made from it, `benchmarks/zoo.md`, with pass or the precise reason for each. With `--only` the other rows stay.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import multiprocessing
import os
import platform
import random
import resource
import signal
import time
import traceback
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import zoo_networks

CLASSES = 10
SAMPLES = 16
SIZES = (64, 56, 128, 224, 240, 256, 299)
TOLERANCE = 1e-4
SEED = 0
KINDS = ("drop", "prune", "decompose", "quantize")
TIMM = (
    "beit_base_patch16_224", "cait_xxs24_224", "coat_lite_tiny", "coatnet_nano_rw_224", "convnext_atto",
    "convnextv2_atto", "crossvit_tiny_240", "cspdarknet53", "davit_tiny", "deit_tiny_patch16_224", "densenet121",
    "dla34", "edgenext_xx_small", "efficientformer_l1", "efficientnet_b0", "efficientnet_lite0",
    "eva02_tiny_patch14_224",
    "fastvit_t8", "focalnet_tiny_srf", "gcvit_xxtiny", "ghostnet_050", "gmlp_s16_224", "hardcorenas_a",
    "hrnet_w18_small", "inception_next_tiny", "inception_v4", "lcnet_050", "levit_128s", "mambaout_femto",
    "maxvit_rmlp_pico_rw_256", "mixer_s32_224", "mnasnet_small", "mobilenetv3_small_050", "mobilenetv4_conv_small",
    "mobileone_s0", "mobilevit_xxs", "mobilevitv2_050", "nf_resnet26", "pit_ti_224", "poolformer_s12", "pvt_v2_b0",
    "regnetx_002", "repghostnet_050", "repvgg_a0", "res2net50_26w_4s", "resmlp_12_224", "resnest14d", "resnet10t",
    "rexnet_100", "selecsls42b", "sequencer2d_s", "seresnext26d_32x4d", "skresnet18",
    "swin_tiny_patch4_window7_224", "tf_efficientnet_lite0", "tinynet_e", "twins_pcpvt_small", "vit_tiny_patch16_224",
    "vovnet39a", "xception41", "xcit_nano_12_p16_224",
)
RESULT = Path(__file__).with_suffix(".json")


def build(name: str) -> Any:
    """`torchvision:NAME` or `timm:NAME`, random weights, `CLASSES` outputs, eval mode."""
    from autocompress.tasks.vision import mend_torchvision

    mend_torchvision()
    library, _, architecture = name.partition(":")
    if library == "timm":
        import timm

        try:  # networks of fixed size are as fast to check at a smaller one
            return timm.create_model(architecture, pretrained=False, num_classes=CLASSES, img_size=SIZES[0]).eval()
        except (TypeError, AssertionError):  # no such argument, or a size that its windows do not divide
            return timm.create_model(architecture, pretrained=False, num_classes=CLASSES).eval()
    import torchvision

    more: dict[str, Any] = {"init_weights": False} if architecture in ("googlenet", "inception_v3") else {}
    if architecture.startswith("vit_"):
        more["image_size"] = 4 * int(architecture.rpartition("_")[2])
    return torchvision.models.get_model(architecture, weights=None, num_classes=CLASSES, **more).eval()


def livened(model: Any) -> Any:
    """The network, in place, with no norm statistic and no vector left at a constant: a branch whose scale begins at
    0 or 1e-6 would hide what is wrong in it."""
    import torch

    from autocompress.testing.networks import randomised_norms

    randomised_norms(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def smallest_input(model: Any) -> tuple[int, ...]:
    """The smallest of `SIZES` that the network takes."""
    import torch

    problem: Exception | None = None
    for size in SIZES:
        try:
            with torch.no_grad():
                if model(torch.zeros(2, 3, size, size)).shape == (2, CLASSES):
                    return 3, size, size
        except Exception as error:  # each architecture has its own way to refuse a size
            problem = error
    raise problem or ValueError(f"no input of {SIZES} gives {CLASSES} scores")


def drawn_plan(bench: Any) -> Any:
    """A random plan: every knob of the space `default`, and blocks left out."""
    import msgspec

    from autocompress.space.space import KnobKey, build_space
    from autocompress.space.spec import DropSpec, load_space

    space = build_space(
        bench.network.table, msgspec.structs.replace(load_space("default"), drop=DropSpec()), bench.evaluator.profile
    )
    draw = random.Random(SEED)
    values = {knob.key: draw.choice(knob.choices) if knob.choices else draw.uniform(knob.low, 0.7 * knob.high)
              for knob in space.knobs}
    drops = [knob.key for knob in space.knobs if knob.kind == "drop"]
    kept = dict.fromkeys(draw.sample(drops, len(drops) - len(drops) // 4), 0)
    return space.decode(values | kept | {KnobKey("act", "*"): 32})


def check(name: str) -> dict[str, Any]:
    """One network of the zoo, on the smallest input that it takes."""
    import torch

    torch.manual_seed(SEED)
    if not name.startswith(("timm:", "torchvision:")):
        network, inputs = zoo_networks.build(name, SAMPLES)
        return check_network(livened(network), inputs)
    model = livened(build(name))
    shape = smallest_input(model)
    tame(model, shape)
    return check_network(model, torch.randn(SAMPLES, *shape, generator=torch.Generator().manual_seed(SEED)))


def tame(model: Any, shape: tuple[int, ...]) -> None:
    """Where statistics drawn blindly let the answers pass a million (branches added up, block after block), draw them
    around those of random inputs: squares of larger numbers leave float32."""
    import torch

    from autocompress.backend.statistics.calibration import reestimate_norms

    inputs = torch.randn(SAMPLES, *shape)
    with torch.no_grad():
        if model(inputs).abs().max() < 1e6:
            return
        reestimate_norms(model, inputs)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.mul_(torch.empty_like(buffer).uniform_(0.5, 1.5))


def check_network(network: Any, data: Any) -> dict[str, Any]:
    """One network, of any number of outputs, from tracing to the file on `data` `(N, …)`; what was found, or what went
    wrong."""
    import torch

    from autocompress.backend.network.fold import fold_norms
    from autocompress.formats.onnx.runtime import Runtime
    from autocompress.formats.running import largest_difference
    from autocompress.hardware.profile import load_profile
    from autocompress.study.file_writer import as_arrays
    from autocompress.study.workbench import Workbench
    from autocompress.tasks.models import load_network
    from autocompress.tensors.named import by_name

    task = answers_of(data)
    model = load_network(network, task).model
    bench = Workbench(model, task, load_profile("host"), seed=SEED, folder=Path(os.devnull), epochs=1)
    plan = drawn_plan(bench)
    compressed = bench.network.compressor.compress(plan)
    file = bench.network.write(compressed).data
    inputs = bench.network.calibration
    result = {
        "input": inputs.shape[-1],
        "params": sum(p.numel() for p in model.parameters()),
        "kept": sum(p.numel() for p in compressed.model.parameters()),
        "bytes": len(file),
        "groups": len(bench.network.table.groups),
        "blocks": len(bench.network.table.blocks),
        "layers": sum(
            1 for layer in bench.network.table.layers if layer.kind in ("conv", "linear") and layer.compressible
        ),
        "locked": sum(1 for layer in bench.network.table.layers if layer.not_compressible_reason and layer.params),
        "refused": len(bench.network.refused),
        "reason": next(iter(bench.network.refused.values()), ""),
        "steps": {kind: len(plan.find(kind)) for kind in KINDS},
    }
    with torch.no_grad():
        executed = by_name(fold_norms(compressed, bench.network.table).model(inputs))
        expected = {key: tensor.numpy() for key, tensor in executed.items()}
    if not all(tensor.isfinite().all() for tensor in executed.values()):
        return result | {"fault": "the compressed network puts out values that are not finite"}
    result["error"] = largest_difference(Runtime(file).run(as_arrays(inputs)), expected)
    if not result["error"] <= TOLERANCE:
        result["fault"] = f"the file differs from the network by {result['error']:.2g}"
        if isinstance(inputs, torch.Tensor) and inputs.is_floating_point():
            with torch.no_grad():
                exact = by_name(fold_norms(compressed, bench.network.table).model.double()(inputs.double()))
            of_itself = largest_difference(expected, {key: tensor.float().numpy() for key, tensor in exact.items()})
            result["fault"] += f", which itself differs from float64 by {of_itself:.2g}"
    return result


def answers_of(data: Any) -> Any:
    """A task whose inputs are `data` `(N, …)` and whose outputs are any numbers."""
    import torch

    from autocompress.tasks.base import ArrayTask, Split
    from autocompress.tensors.composed import Joint
    from autocompress.tensors.likelihood import Gaussian
    from autocompress.tensors.named import by_name

    class Answers(ArrayTask):
        name = "random"

        def likelihood(self, outputs: Any, ends_in_sigmoid: Any) -> Any:
            tensors = by_name(outputs)
            return Joint(outputs, {name: Gaussian(tensor) for name, tensor in tensors.items()})

    split = Split(data, torch.zeros(len(data)))
    return Answers({"train": split, "validation": split, "test": split})


def send_check(name: str, timeout: int, results: Connection) -> None:
    """`check` in a process of its own."""
    resource.setrlimit(resource.RLIMIT_CPU, (timeout, timeout))
    began = time.process_time()
    warnings.simplefilter("ignore")
    try:
        result = check(name)
    except Exception as error:  # whatever it is, it is this network's result
        traceback.print_exc()
        result = {"fault": f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"}
    results.send(result | {"seconds": time.process_time() - began})


def run(name: str, timeout: int) -> dict[str, Any]:
    """The outcome of one network, whatever becomes of its process. `timeout`: seconds of processor time."""
    context = multiprocessing.get_context("fork")  # what is imported already is not imported again
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=send_check, args=(name, timeout, sending))
    process.start()
    sending.close()
    result: dict[str, Any]
    try:
        result = receiving.recv()
        process.join()
    except EOFError:
        process.join()
        signals = {-signal.SIGXCPU: f"longer than {timeout} seconds", -signal.SIGKILL: f"longer than {timeout} seconds"}
        result = {"fault": signals.get(process.exitcode or 0, f"the process ended with exit code {process.exitcode}"),
                  "seconds": timeout}
    return result


def preload() -> None:
    """Import once what every network needs, and read the exporter's operators, before processes branch off."""
    import torch
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    import autocompress.study.workbench
    import autocompress.testing.techniques  # noqa: F401
    from autocompress.tasks.vision import mend_torchvision

    mend_torchvision()
    importlib.import_module("timm")
    torch.set_num_threads(1)
    ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))  # type: ignore[method-assign]


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The result as Markdown."""
    passed = sum("fault" not in row for row in rows.values())
    lines = ["# Model zoo", "", f"`python benchmarks/zoo.py`: **{passed} of {len(rows)}** architectures "
             f"({100 * passed / max(len(rows), 1):.1f}%) are traced, compressed by a random legal plan, exported, and "
             f"compute in ONNX Runtime what the compressed network computes (largest difference at most {TOLERANCE:g} "
             f"of the largest output, {SAMPLES} samples). Random weights and norm statistics, seed {SEED}, one thread, "
             f"{platform.machine()}.", "",
             "Layers can be quantised, locked ones are stored as they are; the plan's steps are counted as "
             "dropped blocks / pruned groups / factored layers / quantised layers.", "",
             "| network | input | parameters | kept | file bytes | groups | blocks | layers | locked | steps | "
             "groups refused | difference | result | seconds |", "|---" * 14 + "|"]
    for name, row in sorted(rows.items()):
        if "error" in row:
            facts = (f"{row['input']} | {row['params']:,} | {row['kept']:,} | {row['bytes']:,} | {row['groups']} | "
                     f"{row['blocks']} | {row['layers']} | {row['locked']} | "
                     f"{' / '.join(str(row['steps'][kind]) for kind in KINDS)} | "
                     f"{row['refused']}{': ' + row['reason'] if row['reason'] else ''} | {row['error']:.1e}")
        else:
            facts = " | " * 10
        fault = str(row.get("fault", "")).replace("|", "/")
        lines.append(f"| {name} | {facts} | {fault or 'pass'} | {row['seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def names() -> list[str]:
    """All of torchvision's classification networks, the smallest first; timm's, all of them small, before the large."""
    from autocompress.tasks.vision import import_torchvision

    models = import_torchvision().models
    size = {f"timm:{name}": 30_000_000 for name in TIMM}
    for name in models.list_models(module=models):
        size[f"torchvision:{name}"] = models.get_model_weights(name).DEFAULT.meta["num_params"]
    return sorted(size, key=lambda name: size[name]) + zoo_networks.names()


def main() -> None:
    """Run all and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timeout", type=int, default=600,
                        help="processor seconds for one network")
    parser.add_argument("--only", nargs="+", metavar="NAME")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    preload()
    rows: dict[str, dict[str, Any]] = json.loads(RESULT.read_text()) if args.only and RESULT.is_file() else {}
    for name in args.only or names():
        rows[name] = run(name, args.timeout)
        print(name, rows[name].get("fault", "pass"), f"{rows[name]['seconds']:.0f}s", flush=True)
        RESULT.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
        RESULT.with_suffix(".md").write_text(table(rows))


if __name__ == "__main__":
    main()
