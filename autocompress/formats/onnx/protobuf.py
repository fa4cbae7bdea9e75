"""Bytes of the pieces of an ONNX file: protobuf stores a field as tag, length and content."""

from __future__ import annotations

from collections.abc import Iterable

TO = 11  # bytes of the attribute `to` of a Cast
AXIS = 13  # bytes of the attribute `axis` of a DequantizeLinear or a Concat


def varint_bytes(value: int) -> int:
    """Count the bytes of a whole number, seven bits in a byte."""
    return max(1, -(-value.bit_length() // 7))


def field_bytes(content: int) -> int:
    """Count the bytes of a field of `content` bytes with its tag and length."""
    return 1 + varint_bytes(content) + content


def tensor_bytes(name: int, dims: tuple[int, ...], content: int) -> int:
    """Count the bytes of an initialiser with a name of `name` letters and `content` bytes of values; its element type
    takes two bytes."""
    return field_bytes(sum(1 + varint_bytes(size) for size in dims) + 2 + field_bytes(name) + field_bytes(content))


def node_bytes(op: str, names: Iterable[int], attributes: int = 0) -> int:
    """Count the bytes of a node; `names` are the lengths of its inputs' and outputs' names."""
    return field_bytes(field_bytes(len(op)) + sum(map(field_bytes, names)) + attributes)


def numbers_bytes(name: str, amount: int) -> int:
    """Count the bytes of an attribute of small integers."""
    return field_bytes(field_bytes(len(name)) + 2 * amount + 3)
