"""How good the mattes and edges are, against the model card's snippet and rembg: `make quality`.

Truth: renders with exact alpha and colours (benchmarks/renders.py) and, with --pairs FOLDER, photos whose alpha is
known (FOLDER/input/NAME, FOLDER/alpha/NAME). Every method is asked for its cutout, RGBA, with the same weights.

- MAE, S-measure, mean E-measure, mean F-measure of the matte: pysodmetrics.
- SAD (thousands of levels / 255), MSE (x 1000) and gradient error (Rhemann et al., CVPR 2009; x 1000 / pixel) of the
  matte in the band: where the true alpha is partial, and 3 pixels around.
- composite: mean error in levels of 255 in that band on four new backgrounds, where the true colours are known.
- bf16: how far it moves the network's matte from that in fp32, over many views of the examples and of --pairs.

Writes results/quality.json, results/quality.md, docs/quality.jpg (all renders), docs/edges.png (edges of 12-megapixel
renders, pixel for pixel) and the table between the marks in README.md. Pictures of --pairs are not kept.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
os.environ.setdefault("RMBG_WEIGHTS", "isnet-general-use")

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import py_sod_metrics  # noqa: E402
from PIL import Image  # noqa: E402
from renders import Pixels, Render, blend, renders  # noqa: E402
from speed import RESULTS, Card, update_readme  # noqa: E402

from background_remover import BackgroundRemover, matting  # noqa: E402
from background_remover.compositing import with_alpha  # noqa: E402
from background_remover.engines import SIDE  # noqa: E402
from background_remover.hardware import SUPPORTED  # noqa: E402
from background_remover.photos import open_photo  # noqa: E402
from utilities import shrink  # noqa: E402

SIZES = ((1000, 1000), (3000, 4000))  # height, width: 1 and 12 megapixels
CROPS = {"hair, photo, 12 MP": (2600, 450), "wires, photo, 12 MP": (1690, 990), "drawing, photo, 12 MP": (1900, 340)}
CROPPED = ("photo", "truth", "model card", "rembg", "ours, plain", "ours, both")  # columns of docs/edges.png
CROP = 200  # pixels: side of a crop, whose left and upper end CROPS has
SLOW_PIXELS = 2_000_000  # beyond this rembg's alpha matting takes minutes and gigabytes, and is left out
NEW_BACKGROUNDS = ((255, 255, 255), (0, 0, 0), (0, 160, 60), (200, 40, 160))
Method = Callable[[Pixels], Pixels]


def methods(onnx: Path) -> dict[str, Method]:
    """Name to a function from a photo H x W x 3 to its cutout H x W x 4."""
    os.environ["U2NET_HOME"] = str(onnx.parent)  # rembg reads models from there alone
    import rembg

    session = rembg.new_session("dis_custom", model_path=str(onnx))
    remover, card = BackgroundRemover.from_pretrained(), Card(onnx)

    def by_card(photo: Pixels) -> Pixels:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "photo.png"
            Image.fromarray(photo).save(path, compress_level=0)
            card.file(path, Path(folder) / "out.png")
            return np.asarray(Image.open(Path(folder) / "out.png"))

    def by_rembg(**options: bool) -> Method:
        return lambda photo: np.asarray(rembg.remove(Image.fromarray(photo), session=session, **options))

    def by_us(**options: bool) -> Method:
        return lambda photo: remover(photo, **options).pixels()

    return {
        "model card": by_card,
        "rembg": by_rembg(),
        "rembg, alpha matting": by_rembg(alpha_matting=True),
        "rembg, decontaminate": by_rembg(decontaminate=True),
        "ours, plain": by_us(refine=False, foreground=False),
        "ours, foreground": by_us(refine=False, foreground=True),
        "ours, refine": by_us(refine=True, foreground=False),
        "ours, both": by_us(refine=True, foreground=True),
    }


def band_of(alpha: Pixels) -> np.ndarray:
    """Where the true alpha is partial, and 3 pixels around."""
    partial = ((alpha > 0) & (alpha < 255)).astype(np.uint8)
    return cv2.dilate(partial, np.ones((7, 7), np.uint8)) > 0


def gradient(alpha: np.ndarray) -> np.ndarray:
    """Gradient magnitude at a scale of 1.4 pixels."""
    smooth = cv2.GaussianBlur(alpha.astype(np.float32) / 255, (0, 0), 1.4)
    return np.hypot(cv2.Sobel(smooth, -1, 1, 0, scale=0.125), cv2.Sobel(smooth, -1, 0, 1, scale=0.125))


def measures(cutout: Pixels, alpha: Pixels, foreground: Pixels | None) -> dict[str, float]:
    band = band_of(alpha)
    off = (cutout[..., 3].astype(np.float32) - alpha)[band] / 255
    scale = min(1.0, 1024 / max(alpha.shape))  # the pixelwise measures below are as sharp at the network's size
    size = (max(1, round(alpha.shape[1] * scale)), max(1, round(alpha.shape[0] * scale)))
    small = [cv2.resize(np.ascontiguousarray(a), size, interpolation=cv2.INTER_AREA) for a in (cutout[..., 3], alpha)]
    result = {"MAE": float(np.abs(cutout[..., 3].astype(np.float32) - alpha).mean())}
    for name, metric, read in (
        ("S", py_sod_metrics.Smeasure(), lambda r: r["sm"]),
        ("E", py_sod_metrics.Emeasure(), lambda r: r["em"]["curve"].mean()),
        ("F", py_sod_metrics.Fmeasure(), lambda r: r["fm"]["curve"].mean()),
    ):
        metric.step(pred=small[0], gt=np.where(small[1] > 127, 255, 0).astype(np.uint8))
        result[name] = float(read(metric.get_results()))
    result["SAD"] = float(np.abs(off).sum() / 1000)
    result["MSE"] = float(1000 * (off**2).mean())
    result["gradient"] = float(1000 * ((gradient(cutout[..., 3]) - gradient(alpha))[band] ** 2).mean())
    if foreground is not None:
        result["composite"] = composite_error(cutout[..., :3], cutout[..., 3], foreground, alpha, band)
    return result


def composite_error(got: Pixels, got_alpha: Pixels, truth: Pixels, alpha: Pixels, where: np.ndarray) -> float:
    """Mean absolute error, in levels of 255, of the composites on NEW_BACKGROUNDS."""
    errors = []
    for colour in NEW_BACKGROUNDS:
        under = np.full((1, 1, 3), colour, np.uint8)
        a, b = (blend(f[where][None], m[where][None], under) for f, m in ((got, got_alpha), (truth, alpha)))
        errors.append(np.abs(a.astype(np.int16) - b).mean())
    return float(np.mean(errors))


def given_alpha(render: Render) -> dict[str, float]:
    """Composite error in partial pixels if the alpha is the true one: straight paste and `estimate_foreground`."""
    partial = (render.alpha > 0) & (render.alpha < 255)
    truth = render.foreground, render.alpha, partial
    estimated = matting.estimate_foreground(render.photo, render.alpha)
    return {
        "paste": composite_error(render.photo, render.alpha, *truth),
        "estimate_foreground": composite_error(estimated, render.alpha, *truth),
    }


def pairs(folder: Path) -> Iterator[tuple[str, Pixels, Pixels]]:
    for path in sorted((folder / "input").iterdir()):
        yield path.stem, open_photo(path).rgb, open_photo(folder / "alpha" / path.name).rgb[..., 0].copy()


def subjects(folder: Path | None) -> Iterator[tuple[str, str, Pixels, Pixels, Render | None]]:
    for render in renders(SIZES):
        yield render.name, render.kind, render.photo, render.alpha, render
    if folder:
        for name, photo, alpha in pairs(folder):
            yield name, "photos with known alpha", photo, alpha, None


def views(photo: Pixels, rng: np.random.Generator) -> Iterator[Pixels]:
    """A photo as it is, mirrored, turned, in the dark, and four parts of it."""
    yield from (photo, photo[:, ::-1], photo.swapaxes(0, 1), photo // 2)
    for _ in range(4):
        sides = [round(side * rng.uniform(0.35, 0.8)) for side in photo.shape[:2]]
        top, left = (rng.integers(0, whole - side) for whole, side in zip(photo.shape, sides, strict=False))
        yield photo[top : top + sides[0], left : left + sides[1]]


def moved_by_bf16(folder: Path | None) -> list[float]:
    """Mean distance, in levels of 255, of the network's matte in bf16 from that in fp32, for each view.

    None at all where the processor does not compute in bf16.
    """
    if not SUPPORTED["bf16"]():
        return []
    half, full = (BackgroundRemover.from_pretrained(device="cpu", precision=name).engine for name in ("bf16", "fp32"))
    photos = [open_photo(path).rgb for path in sorted((ROOT / "examples").glob("*.[jp][pn]g"))]
    photos += [photo for _, photo, _ in pairs(folder)] if folder else []
    rng = np.random.default_rng(0)
    small = (shrink(np.ascontiguousarray(view), SIDE)[np.newaxis] for photo in photos for view in views(photo, rng))
    return [float(np.abs(half(view).astype(np.float32) - full(view)).mean()) for view in small]


def measure(folder: Path | None) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    given: dict[str, dict[str, float]] = {}
    tiles, crops = [], []
    with tempfile.TemporaryDirectory() as work:
        onnx = Path(work) / "net.onnx"
        subprocess.run([sys.executable, "-W", "ignore", "-m", "background_remover.export", onnx], check=True, cwd=ROOT)
        contenders = methods(onnx)
        for name, kind, photo, alpha, render in subjects(folder):
            print(name, flush=True)
            truth = with_alpha(render.foreground if render else photo, alpha)
            pictures = {"photo": photo, "truth": truth}
            for method, run in contenders.items():
                if method == "rembg, alpha matting" and photo.shape[0] * photo.shape[1] > SLOW_PIXELS:
                    continue
                pictures[method] = run(photo)
                foreground = render.foreground if render else None
                values = measures(pictures[method], alpha, foreground)
                rows.append({"name": name, "kind": kind, "method": method} | values)
            if render:
                given[name] = given_alpha(render)
                if name.endswith(" 1 MP"):
                    tiles.append(np.hstack([tile(picture) for picture in pictures.values()]))
                if name in CROPS:
                    crops.append(np.hstack([crop(pictures[column], CROPS[name]) for column in CROPPED]))
    Image.fromarray(np.vstack(tiles)).save(ROOT / "docs" / "quality.jpg", quality=80)
    Image.fromarray(np.vstack(crops)).save(ROOT / "docs" / "edges.png", optimize=True)
    return {"date": date.today().isoformat(), "rows": rows, "given_alpha": given, "bf16": moved_by_bf16(folder)}


def on_green(picture: Pixels) -> Pixels:
    if picture.shape[2] == 3:
        return picture
    return blend(picture[..., :3], picture[..., 3], np.full((1, 1, 3), (0, 160, 60), np.uint8))


def tile(picture: Pixels, side: int = 160) -> np.ndarray:
    """A picture for the contact sheet."""
    return cv2.resize(on_green(picture), (side, side), interpolation=cv2.INTER_AREA)


def crop(picture: Pixels, corner: tuple[int, int]) -> np.ndarray:
    """A part of the picture as it is, pixel for pixel, framed."""
    x, y = corner
    return np.pad(on_green(picture[y : y + CROP, x : x + CROP]), ((2, 2), (2, 2), (0, 0)), constant_values=255)


COLUMNS = {"MAE": 2, "S": 3, "E": 3, "F": 3, "SAD": 2, "MSE": 1, "gradient": 2, "composite": 2}


def mean_table(rows: list[dict[str, Any]], title: str) -> list[str]:
    shown = [column for column in COLUMNS if any(column in row for row in rows)]
    lines = [f"| {title} | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
    by_method = defaultdict(list)
    for row in rows:
        by_method[row["method"]].append(row)
    for method, of_method in by_method.items():
        values = [f"{np.mean([row[column] for row in of_method]):.{COLUMNS[column]}f}" for column in shown]
        lines.append(f"| {method} | " + " | ".join(values) + " |")
    return [*lines, ""]


def table(results: dict[str, Any]) -> str:
    """The whole: all renders, then by kind."""
    known = [row for row in results["rows"] if "composite" in row]
    lines = []
    for megapixels in ("1 MP", "12 MP"):
        lines += mean_table([row for row in known if row["name"].endswith(f" {megapixels}")], f"renders, {megapixels}")
    kinds = dict.fromkeys(row["kind"] for row in results["rows"])
    for kind in kinds:
        lines += mean_table([row for row in results["rows"] if row["kind"] == kind], kind)
    return "\n".join(lines)


def photo_summary(rows: list[dict[str, Any]]) -> str:
    """How far off the mattes of the photos are with refinement, in terms of those without."""
    plain, refined = (
        np.array([row["MAE"] for row in rows if row["method"] == method]) for method in ("ours, plain", "ours, refine")
    )
    return (
        f"Refinement brings their median error from {np.median(plain):.1f} to {np.median(refined):.1f} of 255 and the "
        f"mean from {plain.mean():.1f} to {refined.mean():.1f}; the photo that gains least ends at "
        f"{max(refined / plain):.2f} of its error, the one that gains most at {min(refined / plain):.2f}.\n"
    )


def worse(rows: list[dict[str, Any]]) -> str:
    """The renders whose matte refinement made worse by more than 5 %."""
    errors = {(row["name"], row["method"]): row["MAE"] for row in rows}
    names = [
        f"{name} ({errors[name, 'ours, plain']:.1f} to {errors[name, 'ours, refine']:.1f})"
        for name in dict.fromkeys(row["name"] for row in rows)
        if errors[name, "ours, refine"] > 1.05 * errors[name, "ours, plain"]
    ]
    return f"Refinement makes worse: {'; '.join(names) or 'none of them'}.\n"


def short_table(results: dict[str, Any]) -> str:
    """For the README: all renders of 1 megapixel, photos if there were any, and the foreground alone."""
    rows = results["rows"]
    lines = mean_table([row for row in rows if row["name"].endswith(" 1 MP")], "18 renders, 1 megapixel")
    photos = [row for row in rows if row["kind"] == "photos with known alpha"]
    if photos:
        lines += mean_table(photos, f"{len({row['name'] for row in photos})} photos with known alpha")
        lines.append(photo_summary(photos))
    lines.append(worse([row for row in rows if "composite" in row]))
    for megapixels in ("1 MP", "12 MP"):
        errors = [value for name, value in results["given_alpha"].items() if name.endswith(f" {megapixels}")]
        paste, ours = (np.mean([error[key] for error in errors]) for key in ("paste", "estimate_foreground"))
        lines.append(
            f"With the true alpha given, the colours of partial pixels on new backgrounds are {paste:.1f}/255 off when "
            f"pasted and {ours:.1f}/255 after `estimate_foreground`, at {megapixels}."
        )
    if moved := results["bf16"]:
        lines.append(
            f"\nOver {len(moved)} views of photos (as they are, mirrored, turned, dark, in parts), bf16 moves the "
            f"network's matte by {np.median(moved):.2f}/255 from that in fp32 in the median and {max(moved):.2f} at "
            "worst."
        )
    return (
        "\n".join(lines) + f"\n\nMeans, {results['date']}; all kinds in [quality.md](benchmarks/results/quality.md).\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, help="a folder with input/ and alpha/")
    parser.add_argument("--report", action="store_true", help="only write the tables from results/quality.json again")
    arguments = parser.parse_args()
    if not arguments.report:
        (RESULTS / "quality.json").write_text(json.dumps(measure(arguments.pairs), indent=1) + "\n")
    results = json.loads((RESULTS / "quality.json").read_text())
    (RESULTS / "quality.md").write_text(table(results))
    update_readme("quality", short_table(results))
    print(short_table(results))


if __name__ == "__main__":
    main()
