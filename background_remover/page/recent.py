"""The cutouts that visitors work on, in memory, so that the next change opens no file; few, and of bounded size."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from background_remover.cutout import Cutout

MAX_BYTES = 350_000_000  # of all together: four photos of 12 megapixels; the newest stays whatever its size
MAX_PAIRS = 16  # of them; what a pair is found by, strokes among it, takes up to 10 MB as well

Pair = tuple[Cutout, Cutout]  # at full size, and as a preview


class RecentCutouts:
    """The last ones that were made, by what they were made of."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._pairs: OrderedDict[Hashable, Pair] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Pair]) -> Pair:
        """The pair of that key; `make` makes it if it is not there."""
        with self._lock:
            if key in self._pairs:
                self._pairs.move_to_end(key)
                return self._pairs[key]
        pair = make()
        with self._lock:
            self._pairs[key] = pair
            while len(self._pairs) > 1 and (
                len(self._pairs) > MAX_PAIRS or sum(map(byte_count, self._pairs.values())) > self._max_bytes
            ):
                self._pairs.popitem(last=False)
        return pair


def byte_count(pair: Pair) -> int:
    """What a pair takes in memory."""
    arrays = [array for one in pair for array in (*vars(one.photo).values(), one.alpha, one.foreground)]
    return sum(getattr(array, "nbytes", 0) for array in arrays)
