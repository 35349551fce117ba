"""How fast on a GPU, against the model card and the card's own limit: `python benchmarks/gpu.py`, where one is.

The network alone is timed from bytes to bytes on the CPU, as the pipeline calls it; the floor is its arithmetic at the
rate of a large matrix product. Mattes are compared with those in fp32 on the CPU, over the example photos and these
mirrored. The results lie in results/gpu.json and between their marks in the README.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import textwrap
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speed import FOLDER, GFLOP, MEGAPIXELS, RESULTS, milliseconds, update_readme, write_photo

from background_remover import BackgroundRemover, engines, keep_freed_memory, weights
from background_remover.decoding import SIDE
from background_remover.engines import Engine
from background_remover.outputs import Task
from background_remover.pipeline import example_inputs
from background_remover.state_dicts import build_network
from briarmbg import BriaRMBG
from utilities import postprocess_image, preprocess_image

ENGINES = ("fp16 without Triton", "bf16", "fp32", "fp16")
KERNELS = engines._kernels
BATCHES = (1, 2, 4, 8, 16)
PRODUCT = 8192  # height and width of the matrices
COPIED = 1 << 30  # bytes
MANY = 320  # photos of 2 megapixels


def median(action: Callable[[], object], laps: int = 30) -> float:
    """Milliseconds, after three laps that don't count."""
    for _ in range(3):
        action()
    return statistics.median(milliseconds(action) for _ in range(laps))


def on_gpu(action: Callable[[], object], times: int = 1) -> float:
    """The same, each, of what only starts work there, so many in a row."""

    def whole() -> None:
        for _ in range(times):
            action()
        torch.cuda.synchronize()

    return median(whole) / times


def limits() -> dict[str, float]:
    """What the card can do: TFLOP/s, and TB/s read and written."""
    left, right = (torch.randn(PRODUCT, PRODUCT, device="cuda", dtype=torch.float16) for _ in range(2))
    source = torch.randint(256, (COPIED,), device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    return {
        "TFLOP/s": 2 * PRODUCT**3 / on_gpu(lambda: left @ right, 10) / 1e9,
        "TB/s": 2 * COPIED / on_gpu(lambda: target.copy_(source), 10) / 1e9,
    }


def exact_network() -> BriaRMBG:
    loaded = weights.load()
    return build_network(loaded.state_dict, loaded.name)


def network(name: str, images: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Milliseconds of a forward by batch, and how far the mattes move, in levels of 255."""
    precision, *without = name.split(" ")
    engines._kernels = (lambda *_: None) if without else KERNELS
    net = exact_network()
    start = time.perf_counter()
    engine = Engine(net, "cuda", precision)
    loaded = time.perf_counter() - start
    mattes = np.concatenate([engine(image[np.newaxis]) for image in images])
    moved = np.abs(mattes.astype(float) - truth).mean((1, 2))
    return {
        "ms": {batch: median(lambda batch=batch: engine(images[:batch])) for batch in BATCHES},
        "load_s": loaded,
        "moved": {"median": float(np.median(moved)), "worst": float(moved.max())},
    }


def card(photo: Path) -> dict[str, float]:
    """Milliseconds of the model card's snippet on the same GPU: of the network alone, and from file to file."""
    from PIL import Image

    net = BriaRMBG().eval()
    net.load_state_dict(weights.load().state_dict)
    net.to("cuda")
    image = torch.zeros(1, 3, SIDE, SIDE, device="cuda")

    def file() -> None:
        pixels = np.asarray(Image.open(photo))
        result = net(preprocess_image(pixels, [SIDE, SIDE]).to("cuda"))
        matte = Image.fromarray(postprocess_image(result[0][0], pixels.shape[:2]))
        cutout = Image.new("RGBA", matte.size, (0, 0, 0, 0))
        cutout.paste(Image.open(photo), mask=matte)
        cutout.save(photo.with_suffix(".card.png"))

    return {"network": on_gpu(lambda: net(image)[0][0]), "12 MP": median(file, 2)}


def pipeline(folder: Path) -> dict[str, float]:
    """Milliseconds from file to file, and photos a second of many."""
    remover = BackgroundRemover.from_pretrained(device="cuda")
    found: dict[str, float] = {}
    for megapixels in (1, 12):
        photo = write_photo(folder / f"{megapixels}.jpg", MEGAPIXELS[megapixels], "person.jpg")
        found[f"{megapixels} MP"] = median(lambda photo=photo: remover(photo).save(photo.with_suffix(".png")), 15)
    one = write_photo(folder / "many.jpg", FOLDER[1], "person.jpg")
    photos = [Path(shutil.copy(one, folder / f"many{number}.jpg")) for number in range(MANY)]
    tasks = [Task(photo, photo.with_suffix(".png")) for photo in photos]

    def run(options: dict[str, Any]) -> None:
        for outcome in remover.run(tasks, lambda cutout, path: cutout.save(path), count=MANY, **options):
            assert outcome.path, outcome.reason

    for name, options in {"clean colours": {}, "pasted": {"foreground": False}}.items():
        run(options)
        found[f"a second, {name}"] = 1000 * MANY / milliseconds(lambda options=options: run(options))
    return found


def measure() -> dict[str, Any]:
    keep_freed_memory()
    plain = np.stack([*example_inputs()])
    images = np.concatenate([plain, plain[:, :, ::-1]])
    exact = Engine(exact_network(), "cpu", "fp32")
    truth = np.concatenate([exact(image[np.newaxis]) for image in images])
    del exact
    with tempfile.TemporaryDirectory() as name:
        results = {
            "card": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "cores": os.cpu_count(),
            "date": date.today().isoformat(),
            "limits": limits(),
            "network": {name: network(name, images, truth) for name in ENGINES},
            "pipeline": pipeline(Path(name)),
        }
        results["model card"] = card(Path(name) / "12.jpg")
    return results


def text(results: dict[str, Any]) -> str:
    """For the README."""
    limits, of_card, files = results["limits"], results["model card"], results["pipeline"]
    floor, ours = GFLOP / limits["TFLOP/s"], results["network"]["fp16"]["ms"]
    lines = [
        "| ms a photo, at once | " + " | ".join(map(str, BATCHES)) + " | moved, median | worst |",
        "|---|" + "---|" * (len(BATCHES) + 2),
    ]
    for name in sorted(results["network"], key=lambda name: -len(name)):
        found = results["network"][name]
        times = " | ".join(f"{found['ms'][str(batch)] / batch:.2f}" for batch in BATCHES)
        moved = " | ".join(f"{value:.3f}" for value in found["moved"].values())
        lines.append(f"| {'**fp16**' if name == 'fp16' else name} | {times} | {moved} |")
    lines.append(f"| model card | {of_card['network']:.1f} |" + " |" * (len(BATCHES) + 1))
    alone, each = ours["1"] / floor, ours[str(BATCHES[-1])] / BATCHES[-1] / floor
    pasted, clean = (files[f"a second, {name}"] for name in ("pasted", "clean colours"))
    paragraph = (
        f"{results['card']}, torch {results['torch']}, {results['cores']} cores, {results['date']}; from bytes to "
        "bytes, medians of 30. Mattes against those in fp32 on the CPU, of the examples and these mirrored, in levels "
        f"of 255. Matrices are multiplied at {limits['TFLOP/s']:.0f} TFLOP/s there, at which the network's arithmetic "
        f"takes {floor:.2f} ms: one photo takes {alone:.1f} times as long, each of {BATCHES[-1]} {each:.1f} times. "
        "Without Triton, PyTorch's operators do what its kernels do. "
        f"From file to file, 12 megapixels take {files['12 MP']:.0f} ms and 1 megapixel {files['1 MP']:.0f}, mostly on "
        f"the CPU; by the model card's snippet, 12 take {of_card['12 MP'] / 1000:.1f} s. Of 2 megapixels, one process "
        f"cuts out {pasted:.0f} photos a second, with clean colours {clean:.0f}: its threads wait for Python's lock."
    )
    return "\n".join([*lines, "", textwrap.fill(paragraph, 120)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", action="store_true", help="only write the README's part again")
    path = RESULTS / "gpu.json"
    if not parser.parse_args().report:
        path.write_text(json.dumps(measure(), indent=1) + "\n")
    results = json.loads(path.read_text())
    update_readme("gpu", text(results))
    print(text(results))


if __name__ == "__main__":
    main()
