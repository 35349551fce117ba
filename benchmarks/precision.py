"""What 8 bits cost and save, for each convolution alone and for sets of them.

    python benchmarks/precision.py [--pairs FOLDER] [--sets]
    python benchmarks/precision.py --calibration

Photos are those that come with installed packages, the examples' subjects on other backgrounds with their true alpha,
and --pairs (folder/input/NAME, folder/alpha/NAME); none is one that the rates come from. A matte is held against that
in fp32, and its error on true alphas against that of fp32's. The network's time is the least of several forwards in
turns with bf16 and fp32.

Writes results/precision.json and .md, docs/precision.png, the table between the marks in README.md; with --calibration
only the file beside `calibration`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
from speed import RESULTS, ROOT, update_readme

os.environ.setdefault("RMBG_WEIGHTS", "isnet-general-use")

from scenes import CLASSES, compose

from background_remover import calibration, keep_freed_memory, quantization, weights
from background_remover.channels import narrowed, sources, without
from background_remover.engines import SIDE, _Matte, _side
from background_remover.hardware import FLOATS, native_floats
from background_remover.onednn import PATCH
from background_remover.photos import open_photo
from background_remover.pipeline import example_inputs
from briarmbg import DECODER, ENCODER, REBNCONV, BriaRMBG

PACKAGES = {
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
    "gradio": (
        "media_assets/images/cheetah1.jpg",
        "media_assets/images/groot.jpeg",
        "media_assets/images/tower.jpg",
        "test_data/cheetah2.jpg",
    ),
    "skimage": (
        "data/rocket.jpg",
        "data/retina.jpg",
        "data/coffee.png",
        "data/camera.png",
        "data/astronaut.png",
        "data/motorcycle_left.png",
        "data/chelsea.png",
        "data/coins.png",
        "data/color.png",
    ),
    "sklearn": ("datasets/images/flower.jpg", "datasets/images/china.jpg"),
}
HARD = 8  # photos for each convolution alone: those that the shipped set moves most
FORWARDS = 9
SHIPPED = "`int8`"
WITHOUT_BF16 = "`int8` where there is no bf16"
LEAST = 0.5  # GFLOP: convolutions below save nothing, since what is around them costs as much

Layers = dict[str, tuple[str, ...]]
Photo = tuple[str, np.ndarray, np.ndarray | None]


def photos(pairs: Path | None) -> Iterator[Photo]:
    """Name, input 1024 x 1024 x 3, and true alpha at the network's size if there is one."""

    def shrunk(alpha: np.ndarray) -> np.ndarray:
        return cv2.resize(alpha, (SIDE, SIDE), interpolation=cv2.INTER_AREA)

    for file in sorted((pairs / "input").iterdir()) if pairs else []:
        alpha = open_photo(next((pairs / "alpha").glob(f"{file.stem}.*"))).rgb[..., 0]
        yield file.name, open_photo(file).for_network(), shrunk(alpha)
    for package, names in PACKAGES.items():
        spec = importlib.util.find_spec(package)
        for name in names if spec and spec.origin else ():
            if (file := Path(spec.origin).parent / name).is_file():
                yield file.name, open_photo(file).for_network(), None
    for number, (name, kind) in enumerate(CLASSES.items()):
        for background in ("plain", "busy"):
            scene = compose((name,), kind, background, 50 + number)
            yield scene.name, open_photo(scene.photo).for_network(), shrunk(scene.alpha)


def all_layers() -> Layers:
    """All but the sixth stage."""
    net = BriaRMBG()
    return {
        stage: tuple(name.removeprefix("rebnconv") for name, _ in net.get_submodule(stage).named_children())
        for stage in (*ENCODER, *DECODER)
        if stage != "stage6"
    }


def sets() -> dict[str, Layers]:
    """What may run in 8 bits, from nothing to all that can."""
    shipped, every = quantization.INT8, all_layers()
    decoder = ("stage4d", "stage3d", "stage2d", "stage1d")
    more = {"stage1": ("in", "1", "2", "3d", "2d", "1d"), "stage3d": ("in", "1", "2d", "1d")}
    return {
        "none": {},
        "of `int8`'s, the encoder's": {stage: levels for stage, levels in shipped.items() if stage not in decoder},
        "of `int8`'s, the decoder's": {stage: levels for stage, levels in shipped.items() if stage in decoder},
        "`int8`'s but stage1d.rebnconvin": shipped | {"stage1d": ("1", "2d", "1d")},
        SHIPPED: shipped,
        "these and stage4d, stage3d.rebnconv1": shipped | {"stage4d": ("1", "2d", "1d"), "stage3d": ("1", "2d")},
        "these and stage1.rebnconv1, stage3d": shipped | more,
        "all but stage5, stage5d": {
            name: levels for name, levels in every.items() if name not in ("stage5", "stage5d")
        },
        "all": every,
    }


class Networks:
    """Forwards with any convolutions in 8 bits."""

    def __init__(self, known: calibration.Calibration) -> None:
        self.known = known
        self.state = weights.load().state_dict

    def __call__(self, floats: str, layers: Layers | None = None, *, whole: bool = False) -> _Matte:
        """With dead channels if it is to be the whole network."""
        net = BriaRMBG()
        net.load_state_dict(self.state)
        matte = _Matte(net, FLOATS[floats])
        with patch.object(quantization, "INT8", layers or {}):
            matte.pack(None if whole else self.known, eight_bits=bool(layers))
        return matte

    def operations(self, *, whole: bool = True) -> dict[str, float]:
        """GFLOP of each convolution, with its dead channels or without them."""
        net = BriaRMBG()
        left, found = {} if whole else without(self.known.dead), {}
        for name, block in net.named_modules():
            if isinstance(block, REBNCONV):
                conv = narrowed(block.conv_s1, name, sources(net, name), left)
                read = PATCH if name == quantization.FIRST else conv.in_channels  # which the first one is a part of
                found[name] = 2e-9 * 9 * read * conv.out_channels * _side(net, name) ** 2
        return found


def run(net: _Matte, image: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return net.forward(torch.tensor(image[np.newaxis]))[0].numpy().astype(np.float32)


def compare(net: _Matte, seen: list[Photo], exact: list[np.ndarray]) -> dict[str, Any]:
    """How far the mattes are from those in fp32, of 255, and on true alphas how much farther than these."""
    moved, shared, ours, theirs = [], [], [], []
    for (_, image, alpha), wanted in zip(seen, exact, strict=True):
        matte = run(net, image)
        moved.append(float(np.abs(matte - wanted).mean()))
        either = ((matte > 127) | (wanted > 127)).sum()
        shared.append(float(((matte > 127) & (wanted > 127)).sum() / either) if either else 1.0)
        if alpha is not None:
            ours.append(float(np.abs(matte - alpha).mean()))
            theirs.append(float(np.abs(wanted - alpha).mean()))
    return {
        "median": statistics.median(moved),
        "worst": max(moved),
        "iou": min(shared),
        "alpha": sum(ours) / sum(theirs) if theirs else 1.0,
        "moved": moved,
    }


def least_ms(nets: dict[str, _Matte], image: np.ndarray) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in nets}
    for _ in range(FORWARDS):
        for name, net in nets.items():
            start = time.perf_counter()
            run(net, image)
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: min(values) for name, values in times.items()}


def measure(pairs: Path | None, alone: bool) -> dict[str, Any]:
    keep_freed_memory()
    net = BriaRMBG().eval()
    net.load_state_dict(weights.load().state_dict)
    with patch.object(quantization, "INT8", all_layers()):
        networks = Networks(calibration.measure(net, example_inputs()))
    seen, operations, floats = [*photos(pairs)], networks.operations(), native_floats()
    whole = networks("fp32", whole=True)
    exact = [run(whole, image) for _, image, _ in seen]
    rows, without_dead = {}, networks("fp32")
    dead = compare(without_dead, seen, exact) | {
        "channels": int(sum(mask.sum() for mask in networks.known.dead.values())),
        "share": 1 - sum(networks.operations(whole=False).values()) / sum(operations.values()),
        "ms": {
            precision: least_ms({"without": networks(precision), "whole": networks(precision, whole=True)}, seen[0][1])
            for precision in dict.fromkeys(("fp32", floats))
        },
    }
    print("dead", {key: value for key, value in dead.items() if key != "moved"}, flush=True)
    cases = [(name, floats, layers) for name, layers in sets().items() if layers or floats != "fp32"]
    if floats != "fp32":
        cases.append((WITHOUT_BF16, "fp32", quantization.INT8))
    for name, beside, layers in cases:
        mixed, plain = networks(beside, layers), networks(floats)
        ms = least_ms({"mixed": mixed, "plain": plain, "fp32": whole}, seen[0][1])
        with patch.object(quantization, "INT8", layers):
            chosen, _ = quantization.chosen(FLOATS[beside])
        share = sum(operations[block] for block in chosen) / sum(operations.values())
        rows[name] = {"share": share, "ms": ms, **compare(mixed, seen, exact)}
        print(name, {key: value for key, value in rows[name].items() if key != "moved"}, flush=True)
    hard = np.argsort(rows[SHIPPED]["moved"])[-HARD:]
    layers = [
        (stage, level)
        for stage, levels in all_layers().items()
        for level in levels
        if operations[f"{stage}.rebnconv{level}"] >= LEAST
    ]
    single = {
        f"{stage}.rebnconv{level}": compare(
            networks(floats, {stage: (level,)}), [seen[i] for i in hard], [exact[i] for i in hard]
        )
        | {"gflop": operations[f"{stage}.rebnconv{level}"]}
        for stage, level in (layers if alone else [])
    }
    for row in (*rows.values(), *single.values(), dead):
        row["mean"] = statistics.mean(row.pop("moved"))
    return {
        "date": date.today().isoformat(),
        "floats": floats,
        "photos": len(seen),
        "true_alphas": sum(alpha is not None for *_, alpha in seen),
        "dead": dead,
        "sets": rows,
        "alone": single,
    }


def table(results: dict[str, Any]) -> str:
    floats = results["floats"]
    lines = [
        f"| in 8 bits | operations | time, to {floats} | to fp32 | moved, median | worst | IoU, worst | true alphas |",
        "|---" * 8 + "|",
    ]
    for name, row in results["sets"].items():
        ms = row["ms"]
        lines.append(
            f"| {name} | {row['share']:.0%} | {ms['mixed'] / ms['plain']:.2f} | {ms['mixed'] / ms['fp32']:.2f} "
            f"| {row['median']:.3f} | {row['worst']:.2f} | {row['iou']:.4f} | {row['alpha']:.4f} |"
        )
    lines.append(
        f"\nThe rest is in {floats}, in the last row in fp32 and in two bytes for each value. Mattes against those in "
        f"fp32, in levels of 255, over {results['photos']} photos that the rates do not come from; the "
        f"error on {results['true_alphas']} true alphas is relative to fp32's. "
        f"{results['date']}."
    )
    dead = results["dead"]
    times = " and ".join(f"{ms['without'] / ms['whole']:.2f} in {name}" for name, ms in dead["ms"].items())
    lines.append(
        f"\nAll but the whole network in fp32 are without {dead['channels']} dead channels, {dead['share']:.1%} of the "
        f"operations. That takes {times} of the whole network's time, and moved no photo's matte in fp32 by more than "
        f"{dead['worst']:.4f}."
    )
    return "\n".join(lines) + "\n"


def alone_table(results: dict[str, Any]) -> str:
    lines = ["| convolution | GFLOP | moved, mean | worst | IoU, worst |", "|---" * 5 + "|"]
    for name, row in sorted(results["alone"].items(), key=lambda item: -item[1]["mean"]):
        lines.append(f"| {name} | {row['gflop']:.1f} | {row['mean']:.3f} | {row['worst']:.2f} | {row['iou']:.4f} |")
    text = "\n".join(lines)
    return f"\nEach convolution alone in 8 bits, over the {HARD} photos that `int8` moves most:\n\n{text}\n"


def plot(results: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for name, row in results["sets"].items():
        x = row["ms"]["mixed"] / row["ms"]["plain"]
        axes.plot([x, x], [row["median"], row["worst"]], color="#8aa", lw=1)
        axes.plot(x, row["worst"], "o", color="#c33" if name == SHIPPED else "#26a")
        axes.plot(x, row["median"], "o", color="#c33" if name == SHIPPED else "#26a", mfc="white")
    axes.set_yscale("log")
    axes.set_xlabel(f"the network's time, {results['floats']} alone being 1")
    axes.set_ylabel("matte moved, of 255")
    axes.set_title("Convolutions in 8 bits: median (open) and worst photo; red: `int8`", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--calibration", action="store_true", help="only measure the weights, and write their file")
    parser.add_argument("--report", action="store_true", help="only write tables and picture again")
    parser.add_argument("--sets", action="store_true", help="no convolution alone: those of the last run stay")
    arguments = parser.parse_args()
    if arguments.calibration:
        keep_freed_memory()
        net = BriaRMBG().eval()
        net.load_state_dict(weights.load().state_dict)
        file = Path(calibration.__file__).with_name(f"calibration-{calibration.fingerprint(net)}.safetensors")
        calibration.write(calibration.measure(net, example_inputs()), file)
        return
    if not arguments.report:
        results = measure(arguments.pairs, not arguments.sets)
        if arguments.sets:
            results["alone"] = json.loads((RESULTS / "precision.json").read_text())["alone"]
        (RESULTS / "precision.json").write_text(json.dumps(results, indent=1) + "\n")
    results = json.loads((RESULTS / "precision.json").read_text())
    (RESULTS / "precision.md").write_text(table(results) + alone_table(results))
    plot(results, ROOT / "docs" / "precision.png")
    update_readme("precision", table(results))
    sys.stdout.write(table(results))


if __name__ == "__main__":
    main()
