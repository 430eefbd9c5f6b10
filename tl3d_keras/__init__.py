"""Transfer learning for 3D medical image segmentation in TensorFlow/Keras."""

import importlib
from typing import Any

__version__ = "0.1.0"

# Resolved at first use: the data tools need the package without TensorFlow's import time.
_PUBLIC = {
    "base_model": "unet3d",
    "UNet3D": "unet3d",
    "load": "artifact",
    "save": "artifact",
    "inspect": "artifact",
    "freeze": "layers_by_name",
    "transfer_model": "transfer",
    "import_keras_model": "keras_import",
    "Segmenter": "inference",
    "segment": "inference",
    "ModelInfo": "model_info",
    "Intensity": "intensity",
    "Volume": "volumes",
    "IGNORE": "annotation",
    "InputError": "errors",
}
_MODULES = ("losses", "metrics", "records", "volume_io")
__all__ = ["__version__", *_PUBLIC, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
