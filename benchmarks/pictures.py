"""Ten minutes with pictures of 224 pixels: how many candidates are tried, where the time goes, and the most memory.

    python benchmarks/pictures.py mobilenetv2 --out /tmp/pictures        # or resnet50
    python benchmarks/pictures.py mobilenetv2 --out /tmp/pictures-before --tree PATH_OF_ANOTHER_VERSION

Needs timm. The 1,000 pictures are shapes of eight kinds, each in about a colour of its own, on coloured grounds, drawn
from a seed (500 to train on, 250 to validate, 250 to test); the network is fitted to them once, on small copies, and
kept. `--tree` runs the
search of another working tree. Written as `RESULT.json` into the folder.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.core.allocator import reuse_memory
from autocompress.tasks.vision import import_torchvision

SIDE, CLASSES = 224, 8
COUNTS = {"train": 500, "validation": 250, "test": 250}
NETWORKS = {"mobilenetv2": "mobilenetv2_100", "resnet50": "resnet50"}
FIT_SIDE, FIT_EPOCHS, FIT_BATCH = 64, 24, 25
OWN_COLOUR = 0.75
"""Share of the colour of its kind in a shape's, the rest is chance: so a few hundred pictures teach a network."""
WEIGHTS = "PICTURES_WEIGHTS"
"""Environment variable: the folder of fitted weights."""


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """`(count, 3, 224, 224)` uint8 and labels `(count,)`."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    labels = torch.arange(count) % CLASSES
    drawn = torch.empty(count, 3, SIDE, SIDE, dtype=torch.uint8)
    for i in range(count):
        ground = torch.rand((1, 3, 8, 8), generator=generator) * 0.5 + 0.1
        ground = F.interpolate(ground, (SIDE, SIDE), mode="bilinear")[0]
        kind = int(labels[i])
        bits = torch.tensor([(kind >> bit) & 1 for bit in range(3)]).view(3, 1, 1)
        colour = 0.2 + 0.7 * (OWN_COLOUR * bits + (1 - OWN_COLOUR) * torch.rand((3, 1, 1), generator=generator))
        span = torch.tensor([80.0, 80.0, 30.0, math.pi])
        least = torch.tensor([72.0, 72.0, 35.0, 0.0])
        x, y, radius, angle = (torch.rand(4, generator=generator) * span + least).tolist()
        u = ((columns - x) * math.cos(angle) + (rows - y) * math.sin(angle)) / radius
        v = (-(columns - x) * math.sin(angle) + (rows - y) * math.cos(angle)) / radius
        noise = 0.08 * torch.randn((3, SIDE, SIDE), generator=generator)
        picture = torch.where(_inside(kind, u, v), colour, ground) + noise
        drawn[i] = (picture.clamp(0, 1) * 255).to(torch.uint8)
    return drawn, labels


def _inside(kind: int, u: Tensor, v: Tensor) -> Tensor:
    """Disc, ring, square, frame, bar, cross, triangle, striped disc."""
    far, a, b = (u * u + v * v).sqrt(), u.abs(), v.abs()
    square = (a < 0.8) & (b < 0.8)
    return (far < 1, (far < 1) & (far > 0.6), square, square & ((a > 0.5) | (b > 0.5)), (a < 1) & (b < 0.3),
            ((a < 1) & (b < 0.25)) | ((b < 1) & (a < 0.25)), (v > -0.6) & (v < 1 - 2 * a),
            (far < 1) & (torch.sin(6 * u) > 0))[kind]


def data() -> dict[str, Any]:
    """The factory of the data."""
    splits = {name: pictures(count, seed) for seed, (name, count) in enumerate(COUNTS.items())}
    return {**splits, "mean": (0.5,) * 3, "std": (0.25,) * 3, "flip": True}


def mobilenetv2() -> nn.Module:
    """The factory of a network of 2.2 M parameters, fitted."""
    return _fitted("mobilenetv2")


def resnet50() -> nn.Module:
    """The factory of a network of 23.5 M parameters, fitted."""
    return _fitted("resnet50")


def _fitted(name: str) -> nn.Module:
    import_torchvision()  # timm imports it too
    import timm

    torch.manual_seed(0)
    net: nn.Module = timm.create_model(NETWORKS[name], num_classes=CLASSES)
    path = Path(os.environ[WEIGHTS]) / f"{name}.pt"
    if path.is_file():
        net.load_state_dict(torch.load(path, weights_only=True))
    else:
        _fit(net)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(net.state_dict(), path)
    return net.eval()


def _fit(net: nn.Module) -> None:
    """On small copies; norms and the last layer are then told what large ones look like."""
    reuse_memory()
    inputs, labels = pictures(COUNTS["train"], 0)
    whole = (inputs.float() / 255 - 0.5) / 0.25
    small = F.interpolate(whole, (FIT_SIDE, FIT_SIDE), mode="area")
    steps = FIT_EPOCHS * (len(labels) // FIT_BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    net.train()
    for _ in range(FIT_EPOCHS):
        for rows in torch.randperm(len(labels)).split(FIT_BATCH):
            loss = F.cross_entropy(net(small[rows]), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        for rows in whole[:256].split(32):
            net(rows)
    _fit_head(net.eval(), whole, labels)


def _fit_head(net: Any, inputs: Tensor, labels: Tensor) -> None:
    head, read = net.get_classifier(), []
    handle = head.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    with torch.no_grad():
        for rows in inputs.split(FIT_BATCH):
            net(rows)
    handle.remove()
    features = torch.cat(read)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(head(features), labels) + 1e-3 * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)


def main() -> None:
    """Search and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--timeout", default="10m")
    parser.add_argument("--share", type=float, default=0.25, help="Budget as a share of the float file.")
    parser.add_argument("--tree", type=Path, default=Path(__file__).resolve().parent.parent)
    args = parser.parse_args()
    os.environ.setdefault(WEIGHTS, str(args.out.parent / "pictures-weights"))
    net = _fitted(args.network)
    budget = round(args.share * 4 * sum(p.numel() for p in net.parameters()))
    here = Path(__file__).resolve()
    environment = os.environ | {"PYTHONPATH": str(args.tree)}
    before, load = time.perf_counter(), os.getloadavg()[0]
    done = subprocess.run(
        [sys.executable, "-c", "from autocompress.cli.main import run; run()", "search",
         "--model", f"{here}:{args.network}", "--data",
         f"{here}:data", "--budget", str(budget), "--timeout", args.timeout, "--out", str(args.out), "--json"],
        env=environment, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - before
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = told(args.out) | {
        "network": args.network, "seconds": round(seconds), "exit": done.returncode, "load": round(load, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime), "kernel_seconds": round(usage.ru_stime),
        "peak_rss_mb": round(usage.ru_maxrss / 1024), "network_mb": round(budget / args.share / 1e6, 1)}
    if done.stdout:
        document = json.loads(done.stdout)
        result |= {"artifact": document.get("artifact"), "baseline": document.get("baseline", {}).get("accuracy")}
    (args.out / "RESULT.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


def told(folder: Path) -> dict[str, Any]:
    """Candidates by the rung that they reached, and seconds by phase, of a study."""
    from autocompress.study import open_study

    view = open_study(folder).view()
    reached = [c.reached for c in view.candidates if c.evaluations]
    groups = {"training": ("distill", "inherit"), "candidates": ("compress", "export", "score", "time")}
    seconds = {group: sum(view.timings.get(phase, 0.0) for phase in phases) for group, phases in groups.items()}
    grouped = {phase for phases in groups.values() for phase in phases}
    others = {phase: value for phase, value in view.timings.items() if phase not in grouped}
    return {"candidates": len(reached), "trained": sum(rung > 0 for rung in reached),
            "seconds_by_phase": {name: round(value, 1) for name, value in {**seconds, **others}.items()}}


if __name__ == "__main__":
    main()
