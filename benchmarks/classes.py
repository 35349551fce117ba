"""How good the mattes are for each class of subject, and how well one of several subjects is picked: `make quality`.

The classes are those of the model card: the examples' subjects on plain and busy backgrounds (benchmarks/scenes.py),
the renders, and with --pairs FOLDER photos whose alpha is known.

- IoU: of the mattes cut at 0.5. MAE: in levels of 255. Boundary: the same within REACH pixels of the true outline.
- half: the share of photos with more than LEAST of the true body, which is what lies DEEP pixels inside, at an alpha of
  0.1 to 0.9.
- box, point: IoU with one of several subjects, picked by the box around it or by a point on it, beside that with
  what the network finds of it alone on the same background.

Writes results/classes.json, results/classes.md, docs/worst.jpg (the ten worst scenes: photo, truth, plain, refined and
solid) and the table between the marks in README.md. Pictures of --pairs are not kept.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import quality  # sets the path and the weights
from PIL import Image
from renders import Pixels, renders
from scenes import Scene, several, single, small
from speed import RESULTS, update_readme

from background_remover import BackgroundRemover, Cutout

ROOT = Path(__file__).parent.parent
REACH = 5  # pixels
DEEP, LEAST = 9, 0.02
WORST = 10
RENDERED = {"text": "text", "drawing": "drawings", "product": "objects"}  # the other renders are edges alone
METHODS = ("plain", "refine", "solid", "both")


def iou(one: Pixels, other: Pixels) -> float:
    both, either = ((one > 127) & (other > 127)).sum(), ((one > 127) | (other > 127)).sum()
    return float(both / max(1, either))


def measures(alpha: Pixels, truth: Pixels) -> dict[str, float]:
    """Of a matte against the true one, H x W each."""
    error = np.abs(alpha.astype(np.float32) - truth)
    inside = (truth > 127).astype(np.uint8)
    around = np.ones((2 * REACH + 1,) * 2, np.uint8)
    outline = cv2.dilate(inside, around) != cv2.erode(inside, around)
    body = cv2.erode((truth > 229).astype(np.uint8), np.ones((2 * DEEP + 1,) * 2, np.uint8)) > 0
    partial = (alpha > 25) & (alpha < 230)
    return {
        "IoU": iou(alpha, truth),
        "MAE": float(error.mean()),
        "boundary": float(error[outline].mean()) if outline.any() else 0.0,
        "half": float(partial[body].mean() > LEAST) if body.any() else 0.0,
    }


def by_method(remover: BackgroundRemover, photo: Pixels) -> dict[str, Cutout]:
    plain, solid = remover(photo, foreground=False), remover(photo, foreground=False, solid=True)

    def refined(cutout: Cutout) -> Cutout:
        return Cutout.from_matte(cutout.photo, cutout.alpha, refine=True, foreground=False)

    return dict(zip(METHODS, (plain, refined(plain), solid, refined(solid)), strict=True))


def picked(remover: BackgroundRemover, scene: Scene) -> list[dict[str, Any]]:
    """How well each subject of a scene is had, by its box and by a point; of a scene with a small one that alone."""
    rows = []
    for truth, alone in list(zip(scene.alphas, scene.alone, strict=True))[: 1 if "small" in scene.kind else None]:
        left, top, width, height = cv2.boundingRect((truth > 127).astype(np.uint8))
        depth = cv2.distanceTransform((truth > 127).astype(np.uint8), cv2.DIST_L2, 5)
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        looks: dict[str, dict[str, Any]] = {
            "all": {},
            "box": {"box": (left, top, left + width, top + height)},
            "point": {"points": [(int(x), int(y))]},
        }
        row = {name: iou(remover(scene.photo, foreground=False, **how).alpha, truth) for name, how in looks.items()}
        found = iou(remover(alone, foreground=False).alpha, truth)
        rows.append({"name": scene.name, "kind": scene.kind, "alone": found} | row)
    return rows


def rendered() -> list[Scene]:
    """The renders of 1 megapixel as scenes."""
    return [
        Scene(one.name, RENDERED.get(one.kind, "renders of edges"), one.name.split(", ")[1], one.photo, (one.alpha,))
        for one in renders(((1000, 1000),))
    ]


def photos(folder: Path | None) -> list[Scene]:
    known = quality.pairs(folder) if folder else ()
    return [Scene(name, "photos with known alpha", "busy", photo, (alpha,)) for name, photo, alpha in known]


def measure(folder: Path | None) -> dict[str, Any]:
    remover = BackgroundRemover.from_pretrained()
    rows, picks, sheet = list[dict[str, Any]](), list[dict[str, Any]](), list[tuple[float, Pixels]]()
    for scene in chain(single(), several(), rendered(), photos(folder)):
        print(scene.name, flush=True)
        cutouts = by_method(remover, scene.photo)
        values = {method: measures(cutout.alpha, scene.alpha) for method, cutout in cutouts.items()}
        rows += [
            {"name": scene.name, "kind": scene.kind, "background": scene.background, "method": method} | found
            for method, found in values.items()
        ]
        if scene.kind != "photos with known alpha":
            shown = [scene.photo, np.dstack([scene.photo, scene.alpha])]
            shown += [np.dstack([scene.photo, cutouts[method].alpha]) for method in ("plain", "both")]
            row = np.hstack([cv2.resize(quality.on_green(picture), (240, 180)) for picture in shown])
            sheet.append((values["both"]["IoU"], row))
    for scene in chain(several(), small()):
        print("pick", scene.name, flush=True)
        picks += picked(remover, scene)
    sheet.sort(key=lambda one: one[0])
    columns = [np.vstack([row for _, row in sheet[start:WORST:2]]) for start in range(2)]
    Image.fromarray(np.hstack(columns)).save(ROOT / "docs" / "worst.jpg", quality=80)
    return {"date": date.today().isoformat(), "rows": rows, "picks": picks}


def mean_of(rows: list[dict[str, Any]], method: str, column: str) -> float:
    return float(np.mean([row[column] for row in rows if row["method"] == method]))


def class_table(rows: list[dict[str, Any]], groups: dict[str, list[dict[str, Any]]]) -> list[str]:
    lines = [
        "| scenes | | IoU | refined | and solid | MAE | refined | boundary | refined | half | refined and solid |",
        "|---" * 11 + "|",
    ]
    for name, of_kind in ({"all": rows} | groups).items():
        shown = [
            f"{mean_of(of_kind, method, column):.{digits}f}"
            for column, digits, methods in (
                ("IoU", 3, ("plain", "refine", "both")),
                ("MAE", 1, ("plain", "refine")),
                ("boundary", 1, ("plain", "refine")),
                ("half", 2, ("plain", "both")),
            )
            for method in methods
        ]
        lines.append(f"| {name} | {len(of_kind) // len(METHODS)} | " + " | ".join(shown) + " |")
    return [*lines, ""]


def pick_table(picks: list[dict[str, Any]]) -> list[str]:
    lines = ["| one of several | | all | box | point | alone |", "|---" * 6 + "|"]
    for kind in dict.fromkeys(row["kind"] for row in picks):
        of_kind = [row for row in picks if row["kind"] == kind]
        sure = [row for row in of_kind if row["alone"] >= 0.95]
        means = [f"{np.mean([row[column] for row in of_kind]):.3f}" for column in ("all", "box", "point", "alone")]
        lines.append(f"| {kind} | {len(of_kind)} | " + " | ".join(means) + " |")
        reached = [sum(row[column] >= 0.95 for row in sure) for column in ("box", "point")]
        lines.append(f"| ... at 0.95 or more, of {len(sure)} that are so alone | | | {reached[0]} | {reached[1]} | |")
    return [*lines, ""]


def table(results: dict[str, Any]) -> str:
    rows = results["rows"]
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["kind"]].append(row)
    for background in ("plain", "busy"):
        groups[f"on {background} backgrounds"] = [row for row in rows if row["background"] == background]
    lines = class_table(rows, groups) + pick_table(results["picks"])
    return "\n".join(lines) + f"\nMeans, {results['date']}. [The ten worst scenes](docs/worst.jpg).\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, help="a folder with input/ and alpha/")
    parser.add_argument("--report", action="store_true", help="only write the tables from results/classes.json again")
    arguments = parser.parse_args()
    if not arguments.report:
        (RESULTS / "classes.json").write_text(json.dumps(measure(arguments.pairs), indent=1) + "\n")
    text = table(json.loads((RESULTS / "classes.json").read_text()))
    (RESULTS / "classes.md").write_text(text)
    update_readme("classes", text)
    print(text)


if __name__ == "__main__":
    main()
