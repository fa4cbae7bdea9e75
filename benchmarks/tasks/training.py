"""Networks trained on the spot: minutes at most on one core, cached by what they are made of."""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
import time
from collections.abc import Callable, Mapping

import torch
from subject import packages
from torch import Tensor, nn

Loss = Callable[[nn.Module, dict[str, Tensor]], Tensor]


def trained(name: str, make: Callable[[], nn.Module], data: Mapping[str, Tensor], loss: Loss, *, epochs: int,
            rate: float = 3e-3, batch: int = 64, decay: float = 0.01) -> nn.Module:
    """A network in eval mode, trained with seed 0 by AdamW and one cycle of the learning rate.

    Its weights are kept below the packages, by a hash of its first weights, the data, the loss and the settings.

    Args:
        name: of the file.
        make: builds the network.
        data: rows `(N, …)` by name.
        loss: of the network, in train mode, and a batch of rows.
        epochs, rate, batch, decay: settings of the training.
    """
    torch.manual_seed(0)
    network = make()
    digest = hashlib.sha256(f"{inspect.getsource(loss)} {epochs} {rate} {batch} {decay}".encode())
    for tensor in (*network.state_dict().values(), *data.values()):
        digest.update(tensor.contiguous().numpy().tobytes())
    path = packages(f"tasks/trained/{name}_{digest.hexdigest()[:16]}.pt")
    if path.exists():
        network.load_state_dict(torch.load(path, weights_only=True))
        return network.eval()
    rows = len(next(iter(data.values())))
    steps = epochs * -(-rows // batch)
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    start, total = time.monotonic(), 0.0
    for epoch in range(epochs):
        network.train()
        total = 0.0
        for batch_rows in torch.randperm(rows).split(batch):
            value = loss(network, {key: tensor[batch_rows] for key, tensor in data.items()})
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            total += value.item() * len(batch_rows) / rows
        if epoch + 1 in (1, epochs // 2, epochs):
            print(f"{name}: epoch {epoch + 1} of {epochs}, loss {total:.4f}, {time.monotonic() - start:.0f} s",
                  file=sys.stderr, flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    torch.save(network.state_dict(), partial)
    partial.rename(path)
    return network.eval()
