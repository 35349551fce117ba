"""How `cutout batch` does on many photos: `make benchmark`.

    python benchmarks/catalogues.py [--rounds 2] [--photos 200] [--many 100000]

Against rembg's folder mode, with the same weights and the same photos of 2 megapixels, in turns; memory of all
processes; and with a stand-in for the network, which shows what is around it, for small pictures. The results lie
in results/catalogues.json and between their marks in the README.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from programs import write_photos
from speed import RESULTS, ROOT, update_readme

MARK = "CATALOGUE_BENCHMARK"  # an environment variable by which all processes of a run are known
STEP = 2.0  # seconds between two looks at memory, which take some time themselves
SMALL = 96, 64  # pixels
MILLION = 1_000_000
CORE_PRICE, GPU_PRICE = 0.04, 3.0  # dollars an hour, as clouds ask; look yours up
KEYS, KEYS_SECONDS = 1000, 0.1  # that a bucket lists in a request, and how long that takes


def memory_of(mark: str) -> int:
    """Bytes of all processes of a run together, what they share counted once."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                rollup = (process / "smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in rollup if line.startswith("Pss:")) * 1024
        except (OSError, StopIteration):  # it has ended
            continue
    return total


def watch(command: list[Any], look: Callable[[float], None] = lambda _: None, **env: str) -> dict[str, float]:
    """Seconds and peak memory of a command and all that it starts; `look` hears of the seconds meanwhile."""
    mark, peak, ended = secrets.token_hex(8), 0, threading.Event()

    def follow() -> None:
        nonlocal peak
        while not ended.wait(STEP):
            peak = max(peak, memory_of(mark))
            look(time.perf_counter() - start)

    start = time.perf_counter()
    follower = threading.Thread(target=follow)
    follower.start()
    try:
        subprocess.run([*map(str, command)], cwd=ROOT, env=os.environ | env | {MARK: mark}, check=True)
        seconds = time.perf_counter() - start
    finally:
        ended.set()
        follower.join()
    return {"seconds": seconds, "peak": peak}


def against_rembg(folder: Path, rounds: int, photos: int) -> dict[str, Any]:
    """Seconds and memory for a quarter of the photos and for all, by each."""
    onnx = folder / "net.onnx"
    subprocess.run([sys.executable, "-W", "ignore", "-m", "background_remover.export", onnx], check=True, cwd=ROOT)
    counts = (photos // 4, photos)
    folders = {count: write_photos(folder / f"photos-{count}", count) for count in counts}
    model = json.dumps({"model_path": str(onnx)})
    laps: dict[str, Any] = {name: {count: [] for count in counts} for name in ("ours", "rembg")}
    for lap in range(rounds):
        for count in counts:
            out = folder / f"out-{count}-{lap}"
            ours = [sys.executable, "-m", "background_remover", "batch", folders[count], f"{out}-ours"]
            rembg = [Path(sys.executable).with_name("rembg"), "p", "-m", "dis_custom", "-x", model, folders[count]]
            laps["ours"][count].append(watch(ours))
            laps["rembg"][count].append(watch([*rembg, f"{out}-rembg"], U2NET_HOME=str(folder)))
            for name in laps:
                assert len([*Path(f"{out}-{name}").glob("*.png")]) == count
    return {
        name: {
            str(count): {what: statistics.median(lap[what] for lap in times) for what in ("seconds", "peak")}
            for count, times in of.items()
        }
        for name, of in laps.items()
    }


def write_small(folder: Path, count: int) -> Path:
    """So many small pictures, a thousand in a folder, each a file of its own."""
    from PIL import Image

    with Image.open(ROOT / "examples" / "cat.jpg") as image:
        image.resize(SMALL).save(folder / "small.jpg")
    data = (folder / "small.jpg").read_bytes()
    top = folder / f"small-{count}"
    for start in range(0, count, 1000):
        below = top / f"{start // 1000:04}"
        below.mkdir(parents=True)
        for number in range(start, min(start + 1000, count)):
            (below / f"{number:07}.jpg").write_bytes(data)
    return top


def with_a_stand_in(folder: Path, count: int) -> dict[str, Any]:
    """Seconds, memory and the first result for a tenth of so many small pictures, and for all."""
    found: dict[str, Any] = {}
    for few in (count // 10, count):
        top, out = write_small(folder, few), folder / f"small-out-{few}"
        first: list[float] = []

        def look(seconds: float, out: Path = out, first: list[float] = first) -> None:
            if not first and any(out.glob("*/*.png")):
                first.append(seconds)

        run = watch([sys.executable, __file__, "--run", top, out], look)
        assert sum(1 for _ in out.glob("*/*.png")) == few
        found[str(few)] = run | {"first": first[0]}
    return found


def run_stand_in(source: str, results: str) -> None:
    from standin import load

    from background_remover import Finish, batch
    from background_remover.cutters import Order

    counts = batch.run(source, results, Order(Finish(), way="stand-in", load=load))
    assert counts["done"] + counts["no subject"] == sum(counts.values()), counts


def write_listed(folder: Path, count: int) -> Path:
    """A list of so many photos in a bucket, a thousand in a folder."""
    path = folder / "listed.txt"
    with path.open("w") as file:
        for number in range(count):
            file.write(f"s3://shop/photos/{number // 1000:05}/product-{number:08}.jpg\n")
    return path


def list_and_resume(source: str, results: str) -> None:
    """Seconds and memory to know what there is to do, and again when the manifest says that half of it is done."""
    import resource

    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    from background_remover import Finish, batch
    from background_remover.catalogue import read_catalogue
    from background_remover.cutters import Order
    from background_remover.manifest import SCHEMA, Manifest

    def held() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    order, random = Order(Finish(), way="listed"), np.random.default_rng(0)
    start = time.perf_counter()
    photos = read_catalogue(source, results)
    found: dict[str, Any] = {"photos": len(photos), "list_seconds": time.perf_counter() - start, "list_peak": held()}
    half = photos.slice(0, len(photos) // 2)
    manifest = Manifest(results)
    Path(results).mkdir()
    with parquet.ParquetWriter(manifest.path, SCHEMA, compression="zstd") as writer:
        for place in range(0, len(half), 1 << 16):
            rows = half.slice(place, 1 << 16)
            same = {"status": "refused", "way": "listed", "reason": "This photo is damaged or incomplete."}
            same |= {"weights": "isnet-general-use", "licence": "Apache-2.0 (IS-Net general use, Qin et al. 2022)"}
            columns = {name: rows[name] for name in ("id", "source", "version")}
            columns |= {name: pa.repeat(value, len(rows)) for name, value in same.items()}
            columns["sha256"] = pa.array([secrets.token_hex(32) for _ in range(len(rows))])
            for field in SCHEMA:  # as various as those of real photos
                if field.name.endswith("seconds"):
                    columns[field.name] = pa.array(random.random(len(rows)))
                elif pa.types.is_integer(field.type):
                    columns[field.name] = pa.array(random.integers(1, 5000, len(rows)))
            empty = {field.name: pa.nulls(len(rows), field.type) for field in SCHEMA}
            writer.write_table(pa.table(empty | columns).select(SCHEMA.names).cast(SCHEMA))
    start = time.perf_counter()
    catalogue = batch.prepare(photos, results, order)
    assert len(catalogue.pending) == len(photos) - len(half)
    found |= {"resume_seconds": time.perf_counter() - start, "resume_peak": held()}
    found["row_bytes"] = Path(manifest.path).stat().st_size / len(half)
    start = time.perf_counter()
    counts = manifest.count(photos["id"], order.way)
    assert counts["missing"] == len(photos) - len(half)
    print(json.dumps(found | {"count_seconds": time.perf_counter() - start, "count_peak": held()}))


def listed(folder: Path, count: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--list", write_listed(folder, count), folder / "listed-out"]
    done = subprocess.run([*map(str, command)], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout))


def text(results: dict[str, Any]) -> str:
    """For the README."""
    from background_remover import estimates

    ours, theirs, small = results["against"]["ours"], results["against"]["rembg"], results["small"]
    few, many = sorted(map(int, ours))
    tenth, whole = sorted(map(int, small))
    rates = [(many - few) / (of[str(many)]["seconds"] - of[str(few)]["seconds"]) for of in (ours, theirs)]
    start = ours[str(few)]["seconds"] - few / rates[0]
    seconds = [of[str(many)]["seconds"] for of in (ours, theirs)]
    peaks = [ours[str(count)]["peak"] / 1e9 for count in (few, many)]
    speeds = [count / (small[str(count)]["seconds"] - small[str(count)]["first"]) for count in (tenth, whole)]
    small_peaks = [small[str(count)]["peak"] / 1e9 for count in (tenth, whole)]
    first = small[str(whole)]["first"]
    photos, listing = results["listed"]["photos"], results["listed"]
    held = {name: listing[f"{name}_peak"] / 1e9 for name in ("list", "resume", "count")}
    spent = {name: listing[f"{name}_seconds"] for name in held}
    manifest = listing["row_bytes"] * photos / 1e9
    bucket = photos / KEYS * KEYS_SECONDS / 60
    rounds = "one round" if results["rounds"] == 1 else f"medians of {results['rounds']} rounds in turns"
    hours, cores = MILLION / rates[0] / 3600, os.cpu_count() or 1
    on_gpu, gpu_rate = MILLION / estimates.GPU_RATE / 3600, estimates.GPU_RATE
    paragraphs = (
        f"`cutout batch` cuts out {rates[0]:.2f} photos of 2 megapixels a second, `rembg p` {rates[1]:.2f} "
        f"with the same weights: {rates[0] / rates[1]:.1f} times as many, start apart, which takes {start:.0f} s. "
        f"With it, {many} photos take {seconds[0]:.0f} and {seconds[1]:.0f} s. All processes together hold "
        f"{peaks[0]:.2f} GB at most for {few} photos, and {peaks[1]:.2f} GB for {many}. With a stand-in for the "
        f"network, {tenth:,} small pictures are done at {speeds[0]:.0f} a second in {small_peaks[0]:.2f} GB, "
        f"and {whole:,} at {speeds[1]:.0f} a second in {small_peaks[1]:.2f} GB; the first after {first:.0f} s.",
        f"A million photos of 2 megapixels take {hours:.0f} hours of this machine (from the measured rate), which for "
        f"{cores} cores at ${CORE_PRICE:.2f} an hour each are ${hours * cores * CORE_PRICE:.0f} (estimated price). "
        f"A GPU does them in {on_gpu:.1f} hours at {gpu_rate:.0f} a second (estimated, not measured), "
        f"for ${on_gpu * GPU_PRICE:.0f} at ${GPU_PRICE:.2f} an hour (estimated price).",
        f"Of {photos / MILLION:.0f} million photos, the process that gives them out reads a list in "
        f"{spent['list']:.0f} s with {held['list']:.1f} GB, and knows in {spent['resume']:.0f} s with "
        f"{held['resume']:.1f} GB what is left when the manifest has half of them. The last count takes "
        f"{spent['count']:.0f} s with {held['count']:.1f} GB. The manifest has {listing['row_bytes']:.0f} bytes a "
        f"photo, {manifest:.1f} GB in all (measured). To list a bucket takes {bucket:.0f} minutes more, {KEYS} keys "
        f"at a time (estimated).",
        f"{results['date']}, {results['machine']}; {rounds}.",
    )
    return "\n\n".join(textwrap.fill(paragraph, 120) for paragraph in paragraphs) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--listed", type=int, default=10_000_000)
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)  # what is measured with a stand-in
    parser.add_argument("--list", nargs=2, help=argparse.SUPPRESS)  # what is measured without cutting out
    options = parser.parse_args()
    if options.list:
        list_and_resume(*options.list)
        return
    if options.run:
        run_stand_in(*options.run)
        return
    os.environ.setdefault("RMBG_WEIGHTS", "isnet-general-use")
    from background_remover import BackgroundRemover

    machine = str(BackgroundRemover.from_pretrained().engine)
    with tempfile.TemporaryDirectory() as work:
        results = {
            "date": date.today().isoformat(),
            "machine": machine,
            "rounds": options.rounds,
            "against": against_rembg(Path(work), options.rounds, options.photos),
            "small": with_a_stand_in(Path(work), options.many),
            "listed": listed(Path(work), options.listed),
        }
    (RESULTS / "catalogues.json").write_text(json.dumps(results, indent=1) + "\n")
    update_readme("catalogues", text(results))
    print(text(results))


if __name__ == "__main__":
    main()
