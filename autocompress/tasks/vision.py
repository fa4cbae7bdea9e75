"""torchvision, also where its compiled operators do not fit the installed torch.

torchvision's wheel on PyPI is built against CUDA. Beside a CPU build of torch its extension cannot be
loaded, and the import then dies with "operator torchvision::nms does not exist", because Python code
registers shape rules for two operators that only the extension declares. Declaring their schemas is
enough: models, datasets and transforms need no compiled operator.
"""

from __future__ import annotations

import importlib
import importlib.util
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

import torch

from autocompress.errors import EnvironmentFault

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# Schemas live as long as the library object that declared them.
_declared: list[torch.library.Library] = []


def mend_torchvision() -> bool:
    """Make `import torchvision` work, if it is installed; whether it is. Call before running a user's code."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    if not _declared and not _loads(Path(spec.origin).parent):
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            library.define(schema)  # type: ignore[no-untyped-call]
        _declared.append(library)
    return True


def import_torchvision() -> ModuleType:
    """The torchvision module. EnvironmentFault when it is not installed or does not fit torch."""
    if not mend_torchvision():
        raise EnvironmentFault("this needs torchvision, which is not installed: pip install torchvision")
    try:
        return importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        raise EnvironmentFault(
            f"torchvision must fit torch {torch.__version__}, but its import failed ({error}): "
            "install the two releases that belong together, see https://github.com/pytorch/vision#installation"
        ) from error


def _loads(folder: Path) -> bool:
    """Whether the compiled operators can be loaded, as torchvision itself will try to."""
    for suffix in EXTENSION_SUFFIXES:
        extension = folder / f"_C{suffix}"
        if extension.exists():
            try:
                torch.ops.load_library(str(extension))  # type: ignore[no-untyped-call]
            except OSError:
                return False
            return True
    return False
