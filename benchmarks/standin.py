"""A network that takes all of a photo for its subject: what is around the real one, measured without it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np

from background_remover.cutters import Order
from background_remover.pipeline import BackgroundRemover
from background_remover.weights import Weights


class SolidEngine:
    """Gives mattes without a hole."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.full(images.shape[:3], 255, np.uint8)

    def split(self, count: int) -> int:
        return min(count, self.lanes)

    def one_of(self, _: int) -> Any:
        return nullcontext()


class SolidRemover(BackgroundRemover):
    """Without weights."""

    def __init__(self, lanes: int) -> None:
        self.engine = SolidEngine(lanes)  # type: ignore[assignment]
        self.weights = Weights("stand-in", "none", "", {})
        self._between_steps = lambda: None


def load(order: Order) -> BackgroundRemover:
    return SolidRemover(order.threads)
