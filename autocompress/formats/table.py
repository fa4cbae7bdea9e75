"""The table of file formats that ship with the package, by name; each is a folder beside this file.

A format is imported when it is asked for: to read `--help`, or a profile, neither torch nor a runtime is needed.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from autocompress.errors import EnvironmentFault, InputError
from autocompress.hardware.fields import meant

if TYPE_CHECKING:
    from autocompress.core.format_facts import FormatFacts

# Module by name; its `FORMAT` is the format, or what a colon names.
FORMATS = {"onnx": "autocompress.formats.onnx.format", "tflite": "autocompress.formats.tflite.format",
           "tflite-micro": "autocompress.formats.tflite_micro.format",
           "safetensors": "autocompress.formats.pytorch.safetensors:SAFETENSORS",
           "pt2": "autocompress.formats.pytorch.pt2:PT2",
           "onnx.xz": "autocompress.formats.onnx_xz.format",
           "openvino": "autocompress.formats.openvino.format",
           "tensorrt": "autocompress.formats.tensorrt.format",
           "executorch": "autocompress.formats.executorch.format", "coreml": "autocompress.formats.coreml.format",
           "vela": "autocompress.formats.vela.format:U55_128",
           "vela-u55-256": "autocompress.formats.vela.format:U55_256",
           "vela-u65-256": "autocompress.formats.vela.format:U65_256",
           "vela-u85-256": "autocompress.formats.vela.format:U85_256"}
# Distributions that a format needs beside those of the package, by its name: the extra, and a module that shows it.
EXTRAS = {"tflite": ("litert", ("tflite", "ai_edge_litert")), "tflite-micro": ("mcu", ("tflite", "tflite_micro")),
          "openvino": ("openvino", ("openvino",)), "executorch": ("executorch", ("executorch", "torchao")),
          "coreml": ("coreml", ("coremltools",)),
          **{name: ("ethos-u", ("tflite", "ai_edge_litert", "ethosu")) for name in FORMATS if name.startswith("vela")}}
# By name of a format, a module without torch whose `open`, `checked`, `tensor_spans` and `integer_levels` do for
# shipped files what those of the format do, and which refuses a file that refers to other files; other formats do it
# themselves.
READERS = {"onnx": "autocompress.formats.onnx.shipped", "onnx.xz": "autocompress.formats.onnx_xz.shipped",
           "openvino": "autocompress.formats.openvino.shipped", "tensorrt": "autocompress.formats.tensorrt.shipped"}
# Name of a shipped file before its format's suffix.
MODEL = "model"
# Files that shipped formats write.
SHIPPED = tuple(f"{MODEL}.{ending}" for ending in ("onnx", "onnx.xz", "tflite", "safetensors", "pt2", "pte",
                                                       "mlpackage.zip"))


def format_named(name: str) -> Any:
    """The shipped format `name`, an `autocompress.formats.base.Format`, imported when it is asked for.

    Raises:
        InputError: when there is no format of that name.
        EnvironmentFault: when a package that it needs is not installed.
    """
    if name not in FORMATS:
        raise InputError(f"a format must be one of {', '.join(FORMATS)}, or path/to/file.py:name, but got "
                         f"{name!r}{meant(name, FORMATS)}")
    extra, modules = EXTRAS.get(name, ("", ()))
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise EnvironmentFault(f"{name} files need the package {missing[0]}, but it is not installed: "
                               f"pip install {'--pre ' * (extra == 'mcu')}'autocompress[{extra}]'")
    module, _, attribute = FORMATS[name].partition(":")
    return getattr(import_module(module), attribute or "FORMAT")


def reader_named(name: str) -> Any:
    """What opens and checks shipped files of a format: `open(data, threads)`, `checked(data)`, `tensor_spans(data)` and
    `integer_levels(data)`, as of `autocompress.formats.base.Format`.

    Args:
        name: of the format.

    Raises:
        InputError: when there is no format of that name.
    """
    return import_module(READERS[name]) if name in READERS else format_named(name)


def facts_of(user_format: FormatFacts | None, name: str) -> FormatFacts:
    """The format that the user gave as an object, or else the shipped one that a profile names.

    Args:
        user_format: the object; None where there is none.
        name: of the shipped format.
    """
    facts: FormatFacts = format_named(name) if user_format is None else user_format
    return facts
