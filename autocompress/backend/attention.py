"""Self-attention in one canonical form, so that its heads can be cut and its projections quantised and factorised.

Libraries hold attention in many ways (a bare stacked weight, a head count written into a reshape). Where one of ours
computes the same from the same weights, it takes the place of theirs before anything is traced.

Pruning whole heads: Michel et al., "Are Sixteen Heads Really Better than One?" (NeurIPS 2019).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MODULE_TOLERANCE = 1e-5
NETWORK_TOLERANCE = 1e-4
"""Relative to the largest output: of one attention module, and of the whole network behind all of them."""


class SelfAttention(nn.Module):
    """Multi-head self-attention `(N, T, C)` → `(N, T, C')`. The number of heads follows from the weights.

    `qkv`: `(C → 3 · heads · head_dim)`, all heads of the queries first, then keys, then values. `with_weights`: answer
    as `nn.MultiheadAttention` does, a tuple with None for the attention weights. Dropout is left out.
    """

    batch_first = False
    """Not of this module: `nn.TransformerEncoderLayer` takes it as the sign to call its attention, not to bypass it."""

    def __init__(self, qkv: nn.Linear, proj: nn.Linear, head_dim: int, with_weights: bool = False) -> None:
        super().__init__()
        self.qkv, self.proj, self.head_dim, self.with_weights = qkv, proj, head_dim, with_weights

    def forward(self, query: Tensor, *others: Any, **options: Any) -> Any:
        """ValueError for cross-attention or a mask."""
        given = [*others, *(options.get(name) for name in ("key", "value", "key_padding_mask", "attn_mask"))]
        if any(value is not None and value is not query for value in given) or options.get("is_causal"):
            raise ValueError("it is called as cross-attention or with a mask")
        parts = self.qkv(query).unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2])  # (N, heads, T, head_dim)
        result = self.proj(mixed.transpose(1, 2).flatten(2))
        return (result, None) if self.with_weights else result


def with_open_heads(model: nn.Module, inputs: Tensor) -> tuple[nn.Module, dict[str, str]]:
    """A network that computes the same with `SelfAttention` wherever that is possible, and why the other attention
    modules were left whole, by name. `model` (eval mode) is not changed, and is returned where there is nothing to do.

    `inputs`: real ones `(N, …)`, on which every replacement must give the same output.
    """
    candidates = {name: module for name, module in model.named_modules() if _is_attention(module)}
    if not candidates:
        return model, {}
    opened = copy.deepcopy(model)
    with torch.no_grad(), _plain_attention():
        calls, expected = _calls(opened, list(candidates), inputs)
        made, whole = {}, {}
        for name in candidates:
            try:
                made[name] = _canonical(opened.get_submodule(name))
                _require_same(made[name], calls.get(name, []))
            except (ValueError, RuntimeError, TypeError) as error:
                made.pop(name, None)
                whole[name] = f"attention is left whole: {next(iter(str(error).splitlines()), '')}"
        if not _computes(opened, made, inputs, expected):
            for name in list(made):  # the network reads more of it than its output
                if not _computes(opened, {name: made[name]}, inputs, expected):
                    del made[name]
                    whole[name] = "attention is left whole: the network reads more of it than its output"
        for name, module in made.items():
            _put(opened, name, module)
    return (opened if made else model), whole


def _is_attention(module: nn.Module) -> bool:
    return isinstance(module, nn.MultiheadAttention) or (
        isinstance(getattr(module, "qkv", None), nn.Linear) and isinstance(getattr(module, "proj", None), nn.Linear)
        and isinstance(getattr(module, "num_heads", None), int))


def _canonical(module: nn.Module) -> SelfAttention:
    """ValueError where the module holds more than the canonical form has."""
    if isinstance(module, nn.MultiheadAttention):
        if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
            raise ValueError("keys and values have sizes or tokens of their own")
        if not module.batch_first:
            raise ValueError("its batch is not the first axis")
        width = module.embed_dim
        qkv = nn.Linear(width, 3 * width, bias=module.in_proj_bias is not None)
        proj = nn.Linear(width, width, bias=module.out_proj.bias is not None)
        qkv.weight, proj.weight = module.in_proj_weight, module.out_proj.weight
        if module.in_proj_bias is not None:
            qkv.bias = module.in_proj_bias
        if module.out_proj.bias is not None:
            proj.bias = module.out_proj.bias
        return SelfAttention(qkv, proj, module.head_dim, with_weights=True).eval()
    qkv, proj, heads = module.qkv, module.proj, module.num_heads  # type: ignore[assignment]
    assert isinstance(heads, int)
    more = [name for name, _ in module.named_parameters() if name.split(".")[0] not in ("qkv", "proj")]
    if more:
        raise ValueError(f"it also holds {', '.join(more)}")
    head_dim, rest = divmod(qkv.out_features, 3 * heads)
    if rest or proj.in_features != heads * head_dim:
        raise ValueError("its queries, keys and values differ in size")
    return SelfAttention(qkv, proj, head_dim).eval()


def _calls(model: nn.Module, names: list[str], inputs: Tensor) -> tuple[dict[str, list[tuple[Any, Any, Any]]], Tensor]:
    """Arguments, options and output of every call of the modules `names`, and the network's output."""
    calls: dict[str, list[tuple[Any, Any, Any]]] = {}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, args: Any, options: Any, output: Any) -> None:
            calls.setdefault(name, []).append((args, options, output))
        return hook

    handles = [model.get_submodule(name).register_forward_hook(watch(name), with_kwargs=True) for name in names]
    try:
        return calls, model(inputs)
    finally:
        for handle in handles:
            handle.remove()


def _require_same(module: SelfAttention, calls: list[tuple[Any, Any, Any]]) -> None:
    if not calls:
        raise ValueError("it is never called")
    for args, options, output in calls:
        got = module(*args, **options)
        if module.with_weights:
            got, output = got[0], output[0]
        if not _close(got, output, MODULE_TOLERANCE):
            raise ValueError("plain self-attention of its weights gives another output")


def _computes(model: nn.Module, made: dict[str, SelfAttention], inputs: Tensor, expected: Tensor) -> bool:
    """Whether the network gives the same output with the modules `made` in their places; it is left as it was."""
    before = {name: model.get_submodule(name) for name in made}
    try:
        for name, module in made.items():
            _put(model, name, module)
        return _close(model(inputs), expected, NETWORK_TOLERANCE)
    except Exception:  # the user's forward: anything can come
        return False
    finally:
        for name, original in before.items():
            _put(model, name, original)


def _close(got: Tensor, expected: Tensor, tolerance: float) -> bool:
    return got.shape == expected.shape and bool((got - expected).abs().max() <= tolerance * expected.abs().max())


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Without torch's fused encoder layer, which bypasses the modules inside it."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
