"""Attention in one canonical form, so that its heads can be pruned and its projections quantised and factorised.

Libraries implement attention in many ways (a bare stacked weight, a head count written into a reshape). Where a module
of this file computes the same from the same weights, it replaces the library's before the network is traced.

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

from autocompress.backend.canonical.equivalents import MODULE_TOLERANCE, Calls, alike, put_equivalents, record_calls


class _Attention(nn.Module):
    """Scaled dot-product attention of projected queries, keys and values. The number of heads follows from the weights.

    Dropout is left out. `gives_weights` says whether a module that is `like_torch` also returns attention weights.

    Args:
        proj: The projection of the mixed values.
        head_dim: The channels of one head.
        like_torch: Whether the module returns a tuple as `nn.MultiheadAttention` does, with None or the attention
            weights second.
        sequence_first: Whether inputs are `(T, N, C)` instead of `(N, T, C)`.
    """

    # Always False: `nn.TransformerEncoderLayer` then calls its attention instead of its fused form.
    batch_first = False

    def __init__(self, proj: nn.Linear, head_dim: int, like_torch: bool = False, sequence_first: bool = False) -> None:
        super().__init__()
        self.proj, self.head_dim = proj, head_dim
        self.like_torch, self.sequence_first, self.gives_weights = like_torch, sequence_first, False

    def projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values `(N, heads, T, head_dim)` of inputs `(N, T, C)`."""
        raise NotImplementedError

    def forward(self, query: Tensor, key: Tensor | None = None, value: Tensor | None = None,
                key_padding_mask: Tensor | None = None, need_weights: bool = True, attn_mask: Tensor | None = None,
                average_attn_weights: bool = True, is_causal: bool = False) -> Any:
        """Attend `(N, T, C)` → `(N, T, C')`; masks are those of `nn.MultiheadAttention`. ValueError for other axes."""
        key, value = query if key is None else key, query if value is None else value
        if query.dim() != 3:
            raise ValueError("it is called without an axis of samples")
        if self.sequence_first:
            query, key, value = _swapped(query, key, value)
        heads = self.projected(query, key, value)
        mask = _added(attn_mask, key_padding_mask, query)
        weights = None
        if self.gives_weights and need_weights:
            scores = heads[0] * self.head_dim**-0.5 @ heads[1].transpose(-2, -1)
            shares = (scores if mask is None else scores + mask).softmax(-1)
            mixed, weights = shares @ heads[2], shares.mean(1) if average_attn_weights else shares
        else:
            mixed = F.scaled_dot_product_attention(*heads, attn_mask=mask)
        result = self.proj(mixed.transpose(1, 2).flatten(2))
        if self.sequence_first:
            result = result.transpose(0, 1)
        return (result, weights) if self.like_torch else result


class SelfAttention(_Attention):
    """Multi-head self-attention with one layer `qkv` `(C → 3 · heads · head_dim)`.

    Its outputs are all heads of the queries, then of the keys, then of the values.
    """

    def __init__(self, qkv: nn.Linear, proj: nn.Linear, head_dim: int, like_torch: bool = False,
                 sequence_first: bool = False) -> None:
        super().__init__(proj, head_dim, like_torch, sequence_first)
        self.qkv = qkv

    def projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of one input `(N, T, C)`."""
        parts = self.qkv(query).unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4)
        return parts[0], parts[1], parts[2]


class CrossAttention(_Attention):
    """Multi-head cross-attention: keys and values may come from another sequence of another width."""

    def __init__(self, query: nn.Linear, key: nn.Linear, value: nn.Linear, proj: nn.Linear, head_dim: int,
                 sequence_first: bool = False) -> None:
        super().__init__(proj, head_dim, True, sequence_first)
        self.query, self.key, self.value = query, key, value

    def projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of three inputs `(N, T, C)`."""
        projected = [layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for layer, x in
                     ((self.query, query), (self.key, key), (self.value, value))]
        return projected[0], projected[1], projected[2]


def _swapped(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Swap positions and samples of each tensor; arguments that are the same tensor stay the same tensor."""
    swapped = {id(x): x.transpose(0, 1) for x in (query, key, value)}
    return swapped[id(query)], swapped[id(key)], swapped[id(value)]


def _added(attn_mask: Tensor | None, key_padding_mask: Tensor | None, query: Tensor) -> Tensor | None:
    """Return the sum of masks that is added to the scores `(N, heads, T, S)`; True in a mask is minus infinity."""
    masks = []
    if attn_mask is not None:
        masks.append(attn_mask if attn_mask.dim() == 2 else attn_mask.reshape(len(query), -1, *attn_mask.shape[1:]))
    if key_padding_mask is not None:
        masks.append(key_padding_mask[:, None, None])
    added = [torch.zeros_like(mask, dtype=query.dtype).masked_fill(mask, float("-inf"))
             if mask.dtype == torch.bool else mask for mask in masks]
    return sum(added[1:], added[0]) if added else None


def with_open_heads(model: nn.Module, inputs: Tensor) -> tuple[nn.Module, dict[str, str]]:
    """Rewrite attention modules in canonical form wherever the network's output stays the same.

    Args:
        model: The network, in eval mode; it is not changed.
        inputs: Real inputs `(N, …)`, on which every replacement must give the same output.

    Returns:
        The rewritten network, or `model` where it has no attention; and by name why other attention modules were left
        whole.
    """
    names = [name for name, module in model.named_modules() if _is_attention(module)]
    if not names and not any(isinstance(module, nn.TransformerEncoder | nn.TransformerEncoderLayer)
                             for module in model.modules()):
        return model, {}
    opened = copy.deepcopy(model)
    _without_fast_path(opened)
    with torch.no_grad(), plain_attention():
        calls, expected = record_calls(opened, names, inputs)
        replacements, whole = _canonical_forms(opened, names, calls)
        replaced = put_equivalents(opened, replacements, inputs, expected)
        unproved = {name: module for name, module in replacements.items() if name not in replaced and module.like_torch}
        for module in unproved.values():  # the network may also read their attention weights
            module.gives_weights = True
        replaced |= put_equivalents(opened, unproved, inputs, expected)
    whole |= dict.fromkeys((name for name in replacements if name not in replaced),
                           "attention is left whole: the network reads more of it than its output")
    return opened, whole


def _canonical_forms(model: nn.Module, names: list[str], calls: Calls) -> tuple[dict[str, _Attention], dict[str, str]]:
    """Return canonical forms by name, each proved on the module's calls, and by name why others have none."""
    forms, whole = {}, {}
    for name in names:
        try:
            module_calls = calls.get(name, [])
            if not module_calls:
                raise ValueError("it is never called")
            module = _canonical(model.get_submodule(name), all(_is_self_attention(call) for call in module_calls))
            _require_same(module, module_calls)
            forms[name] = module
        except (ValueError, RuntimeError, TypeError) as error:
            whole[name] = f"attention is left whole: {next(iter(str(error).splitlines()), '')}"
    return forms, whole


def _is_attention(module: nn.Module) -> bool:
    return isinstance(module, nn.MultiheadAttention) or (
        isinstance(getattr(module, "qkv", None), nn.Linear) and isinstance(getattr(module, "proj", None), nn.Linear)
        and isinstance(getattr(module, "num_heads", None), int))


def _is_self_attention(call: tuple[Any, Any, Any]) -> bool:
    """Tell whether query, key and value are one tensor."""
    args, options, _ = call
    operands = [*args[:3], *(options[name] for name in ("query", "key", "value") if name in options)]
    return all(x is operands[0] for x in operands)


def _canonical(module: nn.Module, of_itself: bool) -> _Attention:
    """Return a module's canonical form. ValueError where it has parameters that the canonical form lacks."""
    if isinstance(module, nn.MultiheadAttention):
        return _of_torch(module, of_itself)
    qkv, proj, heads = module.qkv, module.proj, module.num_heads
    assert isinstance(qkv, nn.Linear) and isinstance(proj, nn.Linear) and isinstance(heads, int)
    more = [name for name, _ in module.named_parameters() if name.split(".")[0] not in ("qkv", "proj")]
    if more:
        raise ValueError(f"it also holds {', '.join(more)}")
    head_dim, rest = divmod(qkv.out_features, 3 * heads)
    if rest or proj.in_features != heads * head_dim:
        raise ValueError("its queries, keys and values differ in size")
    return SelfAttention(qkv, proj, head_dim).eval()


def _of_torch(module: nn.MultiheadAttention, of_itself: bool) -> _Attention:
    if module.bias_k is not None or module.add_zero_attn:
        raise ValueError("keys and values have tokens of their own")
    biases = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    proj = _linear(module.out_proj.weight, module.out_proj.bias)
    stacked = module.in_proj_weight
    if stacked is not None and of_itself:
        return SelfAttention(_linear(stacked, module.in_proj_bias), proj, module.head_dim, True,
                             not module.batch_first).eval()
    weights = stacked.chunk(3) if stacked is not None else \
        (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    query, key, value = (_linear(weight, bias) for weight, bias in zip(weights, biases, strict=True))
    return CrossAttention(query, key, value, proj, module.head_dim, not module.batch_first).eval()


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a linear layer with these weights; slices of a parameter are copied."""
    layer = nn.Linear(weight.shape[1], len(weight), bias is not None)
    layer.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = bias if isinstance(bias, nn.Parameter) else nn.Parameter(bias.detach().clone())
    return layer


def _require_same(module: _Attention, calls: list[tuple[Any, Any, Any]]) -> None:
    for args, options, output in calls:
        got = module(*args, **options)
        if module.like_torch:
            got, output = got[0], output[0]
        if not alike(got, output, MODULE_TOLERANCE):
            raise ValueError("plain attention of its weights gives another output")


def _without_fast_path(model: nn.Module) -> None:
    """Turn off the fused form of torch's encoders, in place, so that they call their modules.

    The fused form bypasses modules that are measured and replaced, and with padding it skips positions.
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
        elif isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0


@contextmanager
def plain_attention() -> Iterator[None]:
    """Turn off the fused form of `nn.MultiheadAttention` inside the context."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
