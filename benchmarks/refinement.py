"""Whether what refinement gains on some photos it gains on others: part of `make quality`.

Truth: `renders.snapshots` and, with --pairs FOLDER, photos whose alpha is known (FOLDER/input/NAME, FOLDER/alpha/NAME;
names that are alike up to a hyphen are variations of one scene). The scenes are split into FOLDS, all variations of a
scene into one. For each fold, the constants of `matting` that do best on all others refine its scenes. What comes out
differs from fold to fold as it would from photos that are known to others.

Errors are mean absolute differences of alpha in levels of 255, ratios are those of the refined to the network's matte.
Scenes in which the network has not found the subject at all, LOST, are left out.

Writes results/refinement.json and results/refinement.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
os.environ.setdefault("RMBG_WEIGHTS", "isnet-general-use")

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from renders import Pixels, Snapshot, snapshots  # noqa: E402
from speed import RESULTS  # noqa: E402

from background_remover import BackgroundRemover, matting  # noqa: E402
from background_remover.photos import open_photo  # noqa: E402

FOLDS = 5
LOST = 60  # levels of 255
WORSE = 1.05, 0.1  # ratio, and levels of 255, from which a refined matte is worse
CHOICES: dict[str, dict[str, Any]] = {"as they are": {"TRUST": matting.TRUST}} | {
    f"{name} {value}": {name: value}
    for name, values in {
        "TRUST": (0.1, 1.0),
        "WIDE_SIDES": ((), (64, 128), (128, 256)),
        "EDGE_SIDE": (640,),
        "LEVEL": (0.04, 0.12),
        "DETAIL": (0.05,),
        "SAME": (0.0, 0.8),
    }.items()
    for value in values
}  # fmt: skip


def scenes(folder: Path | None) -> Iterator[Snapshot]:
    yield from snapshots()
    for path in sorted((folder / "input").iterdir()) if folder else ():
        alpha = open_photo(folder / "alpha" / path.name).rgb[..., 0].copy() if folder else None
        yield Snapshot(path.stem, path.stem.rsplit("-", 1)[0], "given", open_photo(path).rgb, alpha)


def off(alpha: Pixels, truth: Pixels) -> float:
    return float(cv2.absdiff(alpha, truth).mean())


def errors(photo: Pixels, matte: Pixels, truth: Pixels) -> list[float]:
    """Of the matte, and of it refined with each of the CHOICES."""
    cv2.setNumThreads(1)
    found = [off(matte, truth)]
    for constants in CHOICES.values():
        with patch.multiple(matting, **constants):
            found.append(off(matting.refine(photo, matte), truth))
    return found


def measure(folder: Path | None) -> dict[str, Any]:
    remover = BackgroundRemover.from_pretrained()
    rows = []
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for scene in scenes(folder):
            matte = remover(scene.photo, refine=False, foreground=False).alpha
            print(scene.name, round(off(matte, scene.alpha), 2), flush=True)
            if off(matte, scene.alpha) < LOST:
                row = {"name": scene.name, "base": scene.base, "kind": scene.kind}
                rows.append((row, pool.submit(errors, scene.photo, matte, scene.alpha)))
    return {"choices": list(CHOICES), "rows": [row | {"errors": found.result()} for row, found in rows]}


def figures(table: NDArray[Any], choice: int) -> dict[str, float]:
    """Of some scenes, table[scene, 0] being the matte's error and table[scene, 1 + choice] the refined one's."""
    plain, refined = table[:, 0], table[:, 1 + choice]
    ratios = refined / np.maximum(plain, 0.02)
    return {
        "scenes": len(table),
        "matte": float(np.median(plain)),
        "refined": float(np.median(refined)),
        "of medians": float(np.median(refined) / np.median(plain)),
        "of means": float(refined.mean() / plain.mean()),
        "median ratio": float(np.median(ratios)),
        "worst": float(ratios[(refined > plain + WORSE[1]) | (ratios <= 1)].max()),
        "worse": int(((ratios > WORSE[0]) & (refined > plain + WORSE[1])).sum()),
    }


def score(table: NDArray[Any], choice: int) -> float:
    """What constants are chosen by, the less the better: what is gained, typically and in all, and what is lost."""
    of = figures(table, choice)
    return of["median ratio"] + of["of means"] + of["worse"] / of["scenes"]


def folds(rows: list[dict[str, Any]]) -> NDArray[Any]:
    """The fold of each scene: scenes of a kind are dealt out in turns."""
    bases = list(dict.fromkeys((row["kind"], row["base"]) for row in rows))
    return np.array([bases.index((row["kind"], row["base"])) % FOLDS for row in rows])


def report(results: dict[str, Any]) -> str:
    rows, choices = results["rows"], results["choices"]
    table, fold = np.array([row["errors"] for row in rows]), folds(rows)
    lines = ["| | scenes | matte | refined | of medians | of means | median ratio | worst | worse |", "|---" * 9 + "|"]

    def add(title: str, of: dict[str, float]) -> None:
        cells = (f"{value}" if isinstance(value, int) else f"{value:.2f}" for value in of.values())
        lines.append(f"| {title} | " + " | ".join(cells) + " |")

    held_out = np.zeros((len(rows), 2))
    for number in range(FOLDS):
        ours = fold == number
        best = min(range(len(choices)), key=lambda choice: score(table[~ours], choice))
        held_out[ours] = table[ours][:, [0, 1 + best]]
        add(f"fold {number + 1}, with {choices[best]}", figures(held_out[ours], 0))
    add("all folds", figures(held_out, 0))
    for kind in dict.fromkeys(row["kind"] for row in rows):
        add(f"{kind}, as they are", figures(table[[row["kind"] == kind for row in rows]], 0))
    for number, choice in enumerate(choices):
        add(f"all, {choice}", figures(table, number))
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, help="a folder with input/ and alpha/")
    parser.add_argument("--report", action="store_true", help="only write the table from results/refinement.json again")
    arguments = parser.parse_args()
    if not arguments.report:
        (RESULTS / "refinement.json").write_text(json.dumps(measure(arguments.pairs)) + "\n")
    text = report(json.loads((RESULTS / "refinement.json").read_text()))
    (RESULTS / "refinement.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
