"""How fast for other programs: the command line against rembg's, and HTTP against the pipeline: `make benchmark`.

    python benchmarks/programs.py [--rounds 3]

Both command lines have the same weights and the same 20 photos of 2 megapixels, and take turns. The results lie in
results/programs.json and between their marks in the README.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import httpx
from speed import RESULTS, ROOT, update_readme, write_photo

PHOTOS = 20
SIZE = 1600, 1250  # pixels: 2 megapixels
CLIENTS, EACH = 16, 10
PORT = 7995
PATH = "/v1/remove-background"


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def write_photos(folder: Path, count: int) -> Path:
    """So many photos, the examples in turns."""
    folder.mkdir()
    examples = sorted((ROOT / "examples").glob("*.jpg"))
    for number in range(count):
        write_photo(folder / f"{number:02}.jpg", SIZE, examples[number % len(examples)].name)
    return folder


def command_lines(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds for one photo, of which most are the start of a new process, and for all, by each command line."""
    onnx = folder / "net.onnx"
    subprocess.run([sys.executable, "-W", "ignore", "-m", "background_remover.export", onnx], check=True, cwd=ROOT)
    photos = {count: write_photos(folder / f"photos-{count}", count) for count in (1, PHOTOS)}
    rembg = [
        Path(sys.executable).with_name("rembg"),
        "p",
        "-m",
        "dis_custom",
        "-x",
        json.dumps({"model_path": str(onnx)}),
    ]
    compileall.compile_dir(ROOT / "background_remover", quiet=1)  # as pip has done with rembg
    laps: dict[str, dict[int, list[float]]] = {name: {count: [] for count in photos} for name in ("ours", "rembg")}
    for lap in range(rounds):
        for count, photo_folder in photos.items():
            out = folder / f"out-{count}-{lap}"
            ours = [sys.executable, "-m", "background_remover", photo_folder, "-o", f"{out}-ours"]
            theirs = [*rembg, photo_folder, f"{out}-rembg"]
            for name, command in (("ours", ours), ("rembg", theirs)):
                env = os.environ | {"U2NET_HOME": str(folder)}
                run = lambda command=command, env=env: subprocess.run(  # noqa: E731
                    command, cwd=ROOT, env=env, check=True, capture_output=True
                )
                laps[name][count].append(seconds(run))
                assert len([*Path(f"{out}-{name}").glob("*.png")]) == count
    return {name: {str(count): statistics.median(times) for count, times in of.items()} for name, of in laps.items()}


def many_at_once(folder: Path, rounds: int) -> dict[str, float]:
    """Photos a second, one after the other with all cores on each, and one on each core."""
    from background_remover import BackgroundRemover, keep_freed_memory
    from background_remover.outputs import Task

    keep_freed_memory()
    remover = BackgroundRemover.from_pretrained()
    photos = sorted(write_photos(folder / "at-once", PHOTOS).glob("*.jpg"))
    tasks = [Task(photo, photo.with_suffix(".png")) for photo in photos]
    laps: dict[str, list[float]] = {"in_turns": [], "at_once": []}
    for _ in range(rounds):
        laps["in_turns"].append(seconds(lambda: [remover(photo).save(result) for photo, result in tasks]))
        laps["at_once"].append(seconds(lambda: [*remover.run(tasks, lambda cutout, path: cutout.save(path))]))
    return {name: PHOTOS / statistics.median(times) for name, times in laps.items()}


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of our own."""
    env = os.environ | {"GRADIO_SERVER_PORT": str(PORT), "GRADIO_TEMP_DIR": str(folder / "served")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=env, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{PORT}"
    try:
        while True:
            try:
                if httpx.get(f"{url}/ready").status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def over_http(folder: Path, rounds: int) -> dict[str, Any]:
    """What HTTP adds to the pipeline, and what many clients come to, in photos a second."""
    from background_remover import BackgroundRemover, keep_freed_memory

    keep_freed_memory()
    remover = BackgroundRemover.from_pretrained()
    photo = write_photo(folder / "photo.jpg", SIZE, "person.jpg")
    out = folder / "photo.png"
    with served(folder) as url, httpx.Client(base_url=url, timeout=300) as client:

        def post(_: int = 0) -> bytes:
            answer = client.post(PATH, files={"image": photo.read_bytes()})
            answer.raise_for_status()
            return answer.content

        pipeline, http = [], []
        for _ in range(5 * rounds):
            pipeline.append(seconds(lambda: remover(photo).save(out)))
            http.append(seconds(post))
        assert post() == out.read_bytes()
        serial, many = [], []
        for _ in range(rounds):
            serial.append(seconds(lambda: [post() for _ in range(CLIENTS)]) / CLIENTS)
            with ThreadPoolExecutor(CLIENTS) as pool:
                start = time.perf_counter()
                pictures = [*pool.map(post, range(CLIENTS * EACH))]
                many.append((time.perf_counter() - start) / len(pictures))
            assert {*pictures} == {out.read_bytes()}
    return {
        "pipeline_ms": 1000 * statistics.median(pipeline),
        "http_ms": 1000 * statistics.median(http),
        "serial_rate": 1 / statistics.median(serial),
        "many_rate": 1 / statistics.median(many),
        "engine": str(remover.engine),
    }


def text(results: dict[str, Any]) -> str:
    """For the README."""
    ours, theirs = results["command_lines"]["ours"], results["command_lines"]["rembg"]
    http = results["http"]
    many, rounds = str(PHOTOS), results["rounds"]
    rates = [(PHOTOS - 1) / (of[many] - of["1"]) for of in (ours, theirs)]
    more, throughput = http["http_ms"] / http["pipeline_ms"] - 1, http["many_rate"] / http["serial_rate"]
    start, of_many = theirs[many] / ours[many], results["many"]
    lines = (
        f"On the command line, {PHOTOS} photos of 2 megapixels take {ours[many]:.1f} s, start included, and `rembg p`,",
        f"with the same weights, {theirs[many]:.1f} s: {start:.1f} times as long. Start apart, these are",
        f"{rates[0]:.2f} and {rates[1]:.2f} photos a second, {rates[0] / rates[1]:.1f} times as many. One photo alone,",
        f"start to end, takes {ours['1']:.2f} and {theirs['1']:.2f} s: {ours['1'] / theirs['1']:.2f} of it.",
        f"In Python, `run` cuts out {of_many['at_once']:.2f} photos a second, one on each core; one after the other",
        f"they are {of_many['in_turns']:.2f}: {of_many['at_once'] / of_many['in_turns']:.2f} times as many.",
        f"Over HTTP a photo of 2 megapixels takes {more:.1%} longer than the pipeline alone, {http['http_ms']:.0f} and",
        f"{http['pipeline_ms']:.0f} ms; {CLIENTS} clients have {throughput:.2f} times the throughput of one,",
        f"{http['many_rate']:.2f} photos a second.",
        f"{results['date']}, {http['engine']}; medians of {rounds} rounds in turns.",
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    os.environ.setdefault("RMBG_WEIGHTS", "isnet-general-use")
    with tempfile.TemporaryDirectory() as work:
        results = {
            "date": date.today().isoformat(),
            "rounds": rounds,
            "many": many_at_once(Path(work), rounds),
            "command_lines": command_lines(Path(work), rounds),
            "http": over_http(Path(work), rounds),
        }
    (RESULTS / "programs.json").write_text(json.dumps(results, indent=1) + "\n")
    update_readme("programs", text(results))
    print(text(results))


if __name__ == "__main__":
    main()
