"""How long each stage of the work on a photo takes, told to whoever wants to know."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# "wait": for a turn; "open"; "network"; "matte": to full size, refined, with the subject's colours; "save"
STAGES = ("wait", "open", "network", "matte", "save")

observers: list[Callable[[str, float], None]] = []  # each is given the stage's name and its seconds, in its thread


@contextmanager
def stage(name: str) -> Iterator[None]:
    """While it runs, that stage does. One that fails is not told of."""
    start = time.perf_counter()
    yield
    for observer in observers:
        observer(name, time.perf_counter() - start)
