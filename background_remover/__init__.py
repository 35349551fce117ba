"""Background removal with BRIA RMBG 1.4 and IS-Net: photo in, cutout out.

from background_remover import BackgroundRemover

remover = BackgroundRemover.from_pretrained()
remover("photo.jpg").save("cutout.png")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from background_remover.allocator import keep_freed_memory
    from background_remover.cutout import Cutout, Finish
    from background_remover.decoding import Photo
    from background_remover.downloads import WeightsError
    from background_remover.hardware import EngineError
    from background_remover.pipeline import BackgroundRemover, Outcome
    from background_remover.weights import Weights
    from utilities import PhotoError

__all__ = [
    "BackgroundRemover",
    "Cutout",
    "EngineError",
    "Finish",
    "Outcome",
    "Photo",
    "PhotoError",
    "Weights",
    "WeightsError",
    "keep_freed_memory",
]

# Where each is. It is imported when it is asked for: torch takes seconds, and who only opens photos needs none of it.
MODULES = {
    "keep_freed_memory": "allocator",
    "Cutout": "cutout",
    "Finish": "cutout",
    "EngineError": "hardware",
    "Photo": "decoding",
    "PhotoError": "photos",
    "BackgroundRemover": "pipeline",
    "Outcome": "pipeline",
    "Weights": "weights",
    "WeightsError": "downloads",
}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
