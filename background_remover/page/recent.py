"""The cutouts that visitors work on, in memory, so that the next change opens no file; few, and of bounded size."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

from background_remover.cutout import Cutout

MAX_BYTES = 250_000_000  # of all together: three photos of 12 megapixels; the newest stays whatever its size
MAX_PAIRS = 16  # of them; what a pair is found by, strokes among it, takes up to 10 MB as well

Pair = tuple[Cutout, Cutout]  # at full size, and as a preview


class RecentCutouts:
    """The last ones that were made, by what they were made of, the path of the photo first."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._pairs: OrderedDict[tuple[Hashable, ...], Pair] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[Hashable, ...], make: Callable[[], Pair]) -> Pair:
        """The pair of that key; `make` makes it if it is not there."""
        with self._lock:
            if key in self._pairs:
                self._pairs.move_to_end(key)
                return self._pairs[key]
        pair = make()
        with self._lock:
            self._pairs[key] = pair
            while len(self._pairs) > 1 and (
                len(self._pairs) > MAX_PAIRS or byte_count(self._pairs.values()) > self._max_bytes
            ):
                self._pairs.popitem(last=False)
        return pair

    def forget_deleted(self) -> None:
        """Keep none whose photo has been deleted."""
        with self._lock:
            for key in [key for key in self._pairs if not Path(str(key[0])).is_file()]:
                del self._pairs[key]


def byte_count(pairs: Iterable[Pair]) -> int:
    """What they take in memory; arrays that several share count once."""
    cutouts = [cutout for pair in pairs for cutout in pair]
    values = [value for one in cutouts for value in (*vars(one.photo).values(), one.alpha, one.foreground)]
    return sum(getattr(value, "nbytes", 0) for value in {id(value): value for value in values}.values())
