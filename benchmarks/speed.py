"""How fast, how much memory, against rembg, the model card and the machine's own limit: `make benchmark`.

Everything runs the same weights on the same machine, in turns, so that drift of the machine hits all alike, each
in a process of its own; medians count. rembg gets the network as ONNX from `background_remover.export`.

Writes results/speed.json, results/speed.md and docs/speed.png, and the table between the marks in README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("RMBG_WEIGHTS", "isnet-general-use")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from background_remover import BackgroundRemover, Cutout, calibration, keep_freed_memory, weights  # noqa: E402
from background_remover.decoding import SIDE  # noqa: E402
from background_remover.hardware import FLOATS  # noqa: E402
from background_remover.outputs import Task  # noqa: E402
from background_remover.photos import open_photo  # noqa: E402
from briarmbg import BriaRMBG  # noqa: E402
from utilities import enlarge, postprocess_image, preprocess_image  # noqa: E402

GFLOP = 319  # multiplications and additions of one forward at 1024 x 1024
MEGAPIXELS = {1: (1000, 1000), 12: (4000, 3000), 48: (8000, 6000)}  # width and height
FOLDER = 20, (1732, 1155)  # how many photos of which size for throughput: 2 megapixels
SETTLING = 3  # seconds: freed memory goes back to a virtual machine's host after two
GRAIN = 2.0  # standard deviation of the noise in test photos, in levels of 255
RESULTS = Path(__file__).parent / "results"


# --- the contenders, each in a process of its own, so that no one's allocator or threads are another's ---


class Ours:
    """This project's pipeline."""

    options: ClassVar = {"refine": False, "foreground": False}

    def __init__(self, _: Path) -> None:
        keep_freed_memory()
        self.remover = BackgroundRemover.from_pretrained()
        self.small = open_photo(ROOT / "examples" / "person.jpg").for_network()[np.newaxis]

    def file(self, photo: Path, out: Path) -> None:
        self.remover(photo, **self.options).save(out)

    def model(self) -> None:
        self.remover.engine(self.small)

    def many(self, folder: Path) -> None:
        """All photos of a folder, as many at once as is quickest here."""
        tasks = [Task(photo, photo.with_suffix(".png")) for photo in sorted(folder.glob("many*.jpg"))]
        list(self.remover.run(tasks, lambda cutout, path: cutout.save(path), **self.options))

    def stages(self, photo: Path, out: Path) -> dict[str, float]:
        """Milliseconds of each step from file to file."""
        laps = Laps()
        opened = laps("decode", open_photo(photo))
        small = laps("resize", opened.for_network()[np.newaxis])
        matte = laps("network", self.remover.engine(small)[0])
        cutout = laps("matte up", Cutout(opened, enlarge(matte, opened.shape), opened.rgb))
        laps("alpha and PNG", cutout.save(out))
        return laps.ms

    def floor(self, precision: str) -> float:
        """GFLOP/s of the best convolution of the network's kind: what this machine can do."""
        dtype = FLOATS[precision]
        rates = []
        for channels, size in ((64, 512), (128, 256), (256, 128), (512, 64)):
            conv = torch.nn.Conv2d(channels, channels, 3, padding=1).to(dtype=dtype, memory_format=torch.channels_last)
            image = torch.randn(1, channels, size, size, dtype=dtype).to(memory_format=torch.channels_last)
            with torch.inference_mode():
                ms = [milliseconds(lambda conv=conv, image=image: conv(image)) for _ in range(9)]
            rates.append(2 * 9 * channels**2 * size**2 / 1e6 / statistics.median(ms[1:]))
        return max(rates)


class OursDefault(Ours):
    """The same with the default's clean colours."""

    options: ClassVar = {}


class OursRefined(Ours):
    """The same with refined edges as well."""

    options: ClassVar = {"refine": True}


class OursWhole(Ours):
    """The same as for weights of which nothing is known: with all channels, and never in int8."""

    def __init__(self, onnx: Path) -> None:
        with patch.object(calibration, "shipped", lambda _: None):
            super().__init__(onnx)


class Rembg:
    """rembg with the same network and weights, on ONNX Runtime."""

    def __init__(self, onnx: Path) -> None:
        import rembg

        self.remove = rembg.remove
        self.session = rembg.new_session("dis_custom", model_path=str(onnx))
        self.image = np.zeros((1, 3, SIDE, SIDE), np.float32)

    def file(self, photo: Path, out: Path) -> None:
        out.write_bytes(self.remove(photo.read_bytes(), session=self.session))

    def many(self, folder: Path) -> None:
        for photo in sorted(folder.glob("many*.jpg")):
            self.file(photo, photo.with_suffix(".png"))

    def model(self) -> None:
        self.session.inner_session.run(None, {"image": self.image})


class Card:
    """What the model card's snippet does, step by step, gradients included."""

    def __init__(self, _: Path) -> None:
        from skimage import io

        self.read = io.imread
        self.net = BriaRMBG().eval()
        self.net.load_state_dict(weights.load().state_dict)
        self.image = torch.zeros(1, 3, SIDE, SIDE)

    def file(self, photo: Path, out: Path) -> None:
        pixels = self.read(photo)
        result = self.net(preprocess_image(pixels, [SIDE, SIDE]))
        matte = Image.fromarray(postprocess_image(result[0][0], pixels.shape[:2]))
        cutout = Image.new("RGBA", matte.size, (0, 0, 0, 0))
        cutout.paste(Image.open(photo), mask=matte)
        cutout.save(out)

    def model(self) -> None:
        self.net(self.image)


# The network alone, in other ways; the last is as on processors that have VNNI but no bf16.
WAYS = {
    "ours, whole": {},
    "ours, fp32": {"RMBG_PRECISION": "fp32"},
    "ours, int8": {"RMBG_PRECISION": "int8"},
    "ours, int8 and fp32": {"RMBG_PRECISION": "int8", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
}
CONTENDERS = {
    "ours": Ours,
    "default": OursDefault,
    "refined": OursRefined,
    "ours, whole": OursWhole,
    "ours, fp32": Ours,
    "ours, int8": Ours,
    "ours, int8 and fp32": Ours,
    "rembg": Rembg,
    "card": Card,
}


COLUMNS = {
    "ours": "ours, pasted",
    "default": "ours, clean colours",
    "refined": "ours, refined edges",
    "ours, int8": "ours, pasted, in int8",
    "rembg": "rembg",
    "card": "model card",
}
MANY = ("ours", "ours, int8", "rembg")  # who cuts out a folder


class Laps:
    """A stopwatch that passes values through."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}
        self.at = time.perf_counter()

    def __call__(self, name: str, value: Any) -> Any:
        self.ms[name] = 1000 * (time.perf_counter() - self.at)
        self.at = time.perf_counter()
        return value


def milliseconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - start)


class Worker:
    """A contender's process. A line of JSON goes in (method, arguments), one comes out (result, ms, peak MB)."""

    def __init__(self, name: str, onnx: Path) -> None:
        environment = os.environ | {"U2NET_HOME": str(onnx.parent)}  # rembg reads models from there alone
        environment |= WAYS.get(name, {})
        command = [sys.executable, "-W", "ignore", __file__, "--worker", name, str(onnx)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
        )
        self("ready")

    def __call__(self, method: str, *arguments: object) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([method, *map(str, arguments)]) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def work(name: str, onnx: Path) -> None:
    """The other end of a Worker."""
    answers, sys.stdout = sys.stdout, sys.stderr  # nothing that a library prints may come between
    contender = CONTENDERS[name](onnx)
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        start = time.perf_counter()
        if method == "ready":
            result = str(contender.remover.engine) if isinstance(contender, Ours) else ""
        else:
            result = getattr(contender, method)(*(Path(text) if "/" in text else text for text in arguments))
        ms = 1000 * (time.perf_counter() - start)
        peak = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
        print(
            json.dumps({"result": result, "ms": ms, "MB": int(peak[1]) / 1000 if peak else 0}), file=answers, flush=True
        )


def summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def in_turns(workers: dict[str, Worker], rounds: int, *calls: tuple[object, ...]) -> dict[str, dict[str, float]]:
    """Milliseconds of a call by each worker, the mean of several: some rounds in turns, after one that does not count.

    Each waits until what the one before left behind has settled: threads that spin, gigabytes that are given back.
    """
    times: dict[str, list[float]] = {name: [] for name in workers}
    for turn in range(rounds + 1):
        for name, worker in workers.items():
            time.sleep(SETTLING)
            ms = statistics.mean(worker(*call)["ms"] for call in calls)
            if turn:
                times[name].append(ms)
    return {name: summary(values) for name, values in times.items()}


def startup(photo: Path, started: float) -> None:
    """In a new process: seconds of its first steps."""
    imported = time.time()
    keep_freed_memory()
    remover = BackgroundRemover.from_pretrained()
    loaded = time.time()
    first, later = (milliseconds(lambda: remover(photo)) / 1000 for _ in range(2))
    seconds = {"import": imported - started, "load": loaded - imported, "first": first, "later": later}
    print(json.dumps(seconds))


def page_ready() -> float:
    """Seconds from `python app.py` to a page that answers, with warm caches."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as file:
            environment = os.environ | {"PYTHONUNBUFFERED": "1"}
            app = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, stdout=file, stderr=file, env=environment)
        try:
            while not (found := re.search(r"http://[\d.]+:\d+", log.read_text())):
                if app.poll() is not None:
                    raise RuntimeError(log.read_text())
                time.sleep(0.05)
            with urllib.request.urlopen(found[0]):
                return time.perf_counter() - start
        finally:
            app.terminate()
            app.wait()


def write_photo(path: Path, size: tuple[int, int], example: str) -> Path:
    """An example scaled up, with the grain of a camera's photo, without which it would be too easy on PNG."""
    with Image.open(ROOT / "examples" / example) as image:
        pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    pixels += np.random.default_rng(0).normal(0, GRAIN, pixels.shape).astype(np.float32)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=92)
    return path


def measure(rounds: int, count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx, out = folder / "net.onnx", folder / "out.png"
        subprocess.run([sys.executable, "-W", "ignore", "-m", "background_remover.export", onnx], check=True, cwd=ROOT)
        examples = sorted(path.name for path in (ROOT / "examples").glob("*.[jp][pn]g"))[:count]
        photos = {
            mp: [write_photo(folder / f"{mp}-{name}.jpg", size, name) for name in examples]
            for mp, size in MEGAPIXELS.items()
        }
        for number in range(FOLDER[0]):
            write_photo(folder / f"many{number:02}.jpg", FOLDER[1], examples[number % len(examples)])

        workers = {name: Worker(name, onnx) for name in CONTENDERS}
        machine = workers["ours"]("ready")["result"]
        of_files = {name: workers[name] for name in COLUMNS}
        files = {
            mp: in_turns(of_files, rounds if mp < 48 else 1, *(("file", photo, out) for photo in set_of))
            for mp, set_of in photos.items()
        }
        # After the files, since a new process's memory is slow at first on a virtual machine.
        alone = {name: workers[name] for name in ("ours", *WAYS, "rembg", "card")}
        model = in_turns(alone, rounds, *[("model",)] * len(examples))  # as often in a row as files are
        floor = {
            precision: max(workers["ours"]("floor", precision)["result"] for _ in range(3))
            for precision in ("bf16", "fp32")
        }
        laps = [workers["ours"]("stages", photo, out)["result"] for _ in range(rounds) for photo in photos[12]]
        for name in workers.keys() - set(MANY):
            workers.pop(name).close()
        folders = in_turns(workers, 1, ("many", folder))
        for worker in workers.values():
            worker.close()

        memory: dict[int, dict[str, float]] = {12: {}, 48: {}}
        for mp, peaks in memory.items():
            for name in COLUMNS:
                worker = Worker(name, onnx)
                peaks[name] = worker("file", photos[mp][0], out)["MB"]
                worker.close()
        command = [sys.executable, "-W", "ignore", __file__, "--startup", photos[12][0], str(time.time())]
        started = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
        return {
            "machine": f"{machine}, torch {torch.__version__}",
            "date": date.today().isoformat(),
            "rounds": rounds,
            "photos": len(examples),
            "model_ms": model,
            "floor_ms": {precision: 1000 * GFLOP / rate for precision, rate in floor.items()},
            "files_ms": files,
            "stages_ms": {stage: summary([lap[stage] for lap in laps]) for stage in laps[0]},
            "images_per_second": {name: 1000 * FOLDER[0] / folders[name]["median"] for name in MANY},
            "memory_MB": memory,
            "startup_s": json.loads(started.splitlines()[-1]) | {"page": page_ready()},
        }


# --- reporting ---


def table(results: dict[str, Any]) -> str:
    """Markdown from what results/speed.json holds."""
    files, memory, start = results["files_ms"], results["memory_MB"], results["startup_s"]
    step = {name: value["median"] for name, value in results["model_ms"].items()}
    share = {name: f"{ms / step['rembg']:.2f}" for name, ms in step.items()}
    laps = {name: value["median"] for name, value in results["stages_ms"].items()}
    floor = results["floor_ms"]["bf16" if "bf16" in results["machine"] else "fp32"]
    of_floor = ""
    if "int8" not in results["machine"]:  # the floor is of floats
        of_floor = (
            " At the throughput of the best convolution measured on the machine, the whole network would take "
            f"{100 * floor / step['ours']:.0f} % of that, dead channels included."
        )

    def row(name: str, values: dict[str, float], digits: int = 0) -> str:
        cells = [f"{values[who]:.{digits}f}" if who in values else "–" for who in COLUMNS]
        return f"| {name} | **{cells[0]}** | {' | '.join(cells[1:])} |"

    def medians(mp: str) -> dict[str, float]:
        return {who: value["median"] for who, value in files[mp].items()}

    lines = [
        f"| | {' | '.join(COLUMNS.values())} |",
        "|---" * (len(COLUMNS) + 1) + "|",
        row("the network alone, ms", {who: step[who] for who in (*MANY, "card")}),
        *(row(f"JPEG file to PNG file, {mp} megapixel{'s' * (mp != '1')}, ms", medians(mp)) for mp in files),
        row("20 photos of 2 megapixels, images a second", results["images_per_second"], 2),
        *(row(f"peak memory, {mp} megapixels, MB", peaks) for mp, peaks in memory.items()),
        "",
        f"Medians of {results['rounds']} rounds in turns over the {results['photos']} examples scaled up, "
        f"{results['date']}, {results['machine']}; the same weights for all, rembg on ONNX Runtime in fp32.",
        f"The network takes {share['ours']} of ONNX Runtime's time ({share['ours, whole']} with weights of which "
        f"nothing is known, {share['ours, fp32']} in fp32, {share['ours, int8']} in int8, "
        f"{share['ours, int8 and fp32']} in int8 where there is no bf16).{of_floor}",
        f"Of 12 megapixels, in ms: {', '.join(f'{name} {ms:.0f}' for name, ms in laps.items())}; "
        f"{sum(laps.values()) - laps['network']:.0f} outside the network.",
        f"Start: import {start['import']:.1f} s, load {start['load']:.1f} s, first photo {start['first']:.2f} s, "
        f"the next {start['later']:.2f} s; page ready {start['page']:.1f} s after `python app.py`.",
    ]
    return "\n".join(lines) + "\n"


def picture(results: dict[str, Any], path: Path) -> None:
    """Bars: seconds from a 12-megapixel JPEG to its PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = COLUMNS
    figure, axes = plt.subplots(figsize=(7.2, 2.2), layout="constrained")
    for y, (who, name) in enumerate(names.items()):
        value = results["files_ms"]["12"][who]
        seconds = value["median"] / 1000
        error = [[(value["median"] - value["min"]) / 1000], [(value["max"] - value["median"]) / 1000]]
        axes.barh(y, seconds, xerr=error, color="#2f7d5b" if name.startswith("ours") else "#b8b8b8", ecolor="#555555")
        axes.text(value["max"] / 1000 + 0.05, y, f"{seconds:.2f} s", va="center")
        axes.text(-0.04, y, name, ha="right", va="center")
    axes.invert_yaxis()
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlim(0, 1.12 * max(value["max"] for value in results["files_ms"]["12"].values()) / 1000)
    axes.set_title("12-megapixel JPEG to transparent PNG, two CPU cores, less is better", fontsize=10, loc="left")
    figure.savefig(path, dpi=150)


def update_readme(mark: str, text: str) -> None:
    """Put a table between its marks in the README."""
    path = ROOT / "README.md"
    start, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
    before, _, rest = path.read_text().partition(start)
    path.write_text(before + start + text + end + rest.partition(end)[2])


def report(results: dict[str, Any]) -> None:
    text = table(results)
    (RESULTS / "speed.md").write_text(text)
    picture(results, ROOT / "docs" / "speed.png")
    update_readme("speed", text)
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--photos", type=int, default=5, help="how many of the examples")
    parser.add_argument(
        "--report", action="store_true", help="only draw table and picture from results/speed.json again"
    )
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--startup", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker[0], Path(arguments.worker[1]))
    elif arguments.startup:
        startup(Path(arguments.startup[0]), float(arguments.startup[1]))
    else:
        if not arguments.report:
            (RESULTS / "speed.json").write_text(
                json.dumps(measure(arguments.rounds, arguments.photos), indent=1) + "\n"
            )
        report(json.loads((RESULTS / "speed.json").read_text()))


if __name__ == "__main__":
    main()
