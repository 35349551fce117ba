"""Background removal with BRIA RMBG 1.4 and IS-Net: photo in, cutout out.

from background_remover import BackgroundRemover

remover = BackgroundRemover.from_pretrained()
remover("photo.jpg").save("cutout.png")
"""

from background_remover.allocator import keep_freed_memory
from background_remover.cutout import Cutout, Finish
from background_remover.downloads import WeightsError
from background_remover.engines import EngineError
from background_remover.photos import Photo
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
