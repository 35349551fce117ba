"""What comes from outside, at random: damaged files of every format, odd but sound ones, and all that is parsed.

    python tests/fuzz.py --seconds 60 --seed 1        as many cases as the time allows
    python tests/fuzz.py --seed 1 --case PNG:17       one again, with its traceback

Each case succeeds or is refused with a PhotoError of one sentence. All else fails, as does whatever takes more than
SECONDS of a processor or more than MEMORY. The cases run in a process of their own, so that a crash is a failure too.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import multiprocessing
import os
import re
import resource
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pillow_heif
from PIL import Image, ImageCms

sys.path.insert(0, str(Path(__file__).parent.parent))

from background_remover.colours import css_colour, parse_colour
from background_remover.encoding import safe_stem
from background_remover.fetch import is_public
from background_remover.page.strokes import paint, read_strokes
from background_remover.photos import Photo, measure_photo, open_photo, read_data_url
from utilities import PhotoError

SECONDS = 2  # of a processor, for a case
HANG = 60  # seconds on the clock until a case that does not answer is given up
MEMORY = 2**30  # bytes more than the process had before the first case
MAX_PIXELS = 4_000_000  # so that time and memory are a matter of the file and not of its size
SENTENCE = re.compile(r"(?!.*(/\w+/|Traceback|\.py))[^\n]+\.")

Rng = np.random.Generator


class Kind(NamedTuple):
    """How a case is made, and what is done with it."""

    make: Callable[[Rng], Any]
    use: Callable[[Any], object]


# --- files ---

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F")
SIZES = ((1, 1), (1, 70), (70, 1), (33, 17))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
EXIF = Image.Exif()
EXIF.update({274: 6, 271: "maker", 282: 72.0})
METADATA: dict[str, dict[str, Any]] = {
    "nothing": {},
    "exif": {"exif": EXIF.tobytes()},
    "no exif": {"exif": b"Exif\0\0garbage, and more"},
    "profile": {"icc_profile": SRGB},
    "no profile": {"icc_profile": b"garbage"},
    "XMP": {"xmp": b"<garbage"},
    "comment": {"comment": b"a comment", "description": "a comment"},
    "resolution": {"dpi": (1, 65535)},
    "interlaced": {"progressive": True, "interlace": 1, "lossless": True, "compression": "tiff_lzw"},
    "frames": {"save_all": True},
}


@cache
def sound_files() -> dict[str, bytes]:
    """By what they are: files in every format, mode, size and with all metadata that Pillow writes, and reads again."""
    pillow_heif.register_heif_opener()
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 4), dtype=np.uint8)
    files = {}
    for name, mode, size, metadata in itertools.product(FORMATS, MODES, SIZES, METADATA):
        if (name, metadata) == ("AVIF", "frames"):  # its encoder crashes on small ones
            continue
        pixels = Image.fromarray(noise[: size[1], : size[0]])
        image = pixels.convert(mode) if mode not in ("I;16", "F") else pixels.convert("I").convert(mode)
        buffer = io.BytesIO()
        try:
            frames = [image.transpose(Image.Transpose.ROTATE_180)] if metadata == "frames" else []
            image.save(buffer, name, append_images=frames, **METADATA[metadata])
            Image.open(buffer).load()
        except Exception:  # there is no such file
            continue
        files[f"{name} {mode} {size[0]}x{size[1]} {metadata}"] = buffer.getvalue()
    return files


def cut(rng: Rng, data: bytes) -> bytes:
    return data[: rng.integers(len(data))]


def flip(rng: Rng, data: bytes) -> bytes:
    changed = bytearray(data)
    for at in rng.integers(min(len(data), int(rng.choice((40, 400, 10**9)))), size=rng.integers(1, 9)):
        changed[at] = rng.integers(256)
    return bytes(changed)


def inflate(rng: Rng, data: bytes) -> bytes:
    """A number of two or four bytes as large, or as small, as it can be."""
    at, length = rng.integers(len(data)), int(rng.choice((2, 4)))
    return data[:at] + bytes([rng.choice((0, 1, 127, 255))]) * length + data[at + length :]


def drop(rng: Rng, data: bytes) -> bytes:
    start, end = sorted(rng.integers(len(data), size=2))
    return data[:start] + data[end:]


def swap(rng: Rng, data: bytes) -> bytes:
    a, b, c = sorted(rng.integers(len(data), size=3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def repeat(rng: Rng, data: bytes) -> bytes:
    start, end = sorted(rng.integers(len(data), size=2))
    return data[:start] + data[start:end] * int(rng.integers(2, 1 + max(2, 10**6 // (end - start + 1)))) + data[end:]


def insert(rng: Rng, data: bytes) -> bytes:
    at = rng.integers(len(data))
    return data[:at] + rng.bytes(int(rng.integers(1, 3000))) + data[at:]


def damage(name: str) -> Callable[[Rng], bytes]:
    """Makes a file in a format and changes it in up to three ways."""

    def make(rng: Rng) -> bytes:
        data = pick(rng, [file for what, file in sound_files().items() if what.startswith(f"{name} ")])
        for _ in range(rng.integers(1, 4)):
            data = pick(rng, (cut, flip, flip, inflate, drop, swap, repeat, insert))(rng, data) or b"\0"
        return data

    return make


def pick(rng: Rng, things: Any) -> Any:
    """One of them, as it is, not as numpy would have it."""
    return things[rng.integers(len(things))]


def use_file(data: bytes) -> Photo:
    """Raises AssertionError for a photo that is none, or is not what its header says, which only a HEIC's need not."""
    photo = open_photo(data, max_pixels=MAX_PIXELS)
    height, width = photo.shape
    assert photo.rgb.shape == (height, width, 3)
    assert photo.rgb.dtype == np.uint8
    assert photo.alpha is None or (photo.alpha.shape == (height, width) and photo.alpha.dtype == np.uint8)
    header = measure_photo(data, max_pixels=MAX_PIXELS)
    assert header.format == photo.format
    assert header.size == (width, height) or header.format == "HEIF"
    return photo


def use_sound_file(what: str) -> Photo:
    """Raises AssertionError where the file is refused, too."""
    try:
        return use_file(sound_files()[what])
    except PhotoError as error:
        raise AssertionError(f"{what}: {error}") from error


# --- what is parsed ---

WORDS = ("rgb(", "rgba(", ")", "#", "fff", "255", ",", " ", "red", "hsl(", "%", "e", ".", "9" * 400, "-1", "nan", "\0")
URL_PARTS = ("data:", ",", ";base64", "image/png", "%", "%41", "=", "A", "#", "\n", " ", "é", "\ud800", ";")
NAMES = (".", "/", "\\", "a", "é", "e\u0301", "\u0e35", "\u202e", "\U0001f600\u200d", "con", "\0", "-", " ", "\ud800")
NUMBERS = (0, 1, 0.5, -1, 2, 1e-9, 1e400, float("nan"), 10**400, "0.5", "x", None, True, [], {})


def some(rng: Rng, parts: tuple[str, ...]) -> str:
    return "".join(pick(rng, parts) for _ in range(rng.integers(12)))


def make_strokes(rng: Rng) -> Any:
    """Strokes of which now and then a part is something else."""
    if rng.random() < 0.05:
        return pick(rng, NUMBERS)
    number = lambda: pick(rng, NUMBERS) if rng.random() < 0.05 else float(rng.random())  # noqa: E731
    return [
        {"keep": number(), "width": number(), "points": [[number(), number()] for _ in range(rng.integers(4))]}
        for _ in range(rng.integers(4))
    ]


def use_strokes(data: Any) -> object:
    return paint(read_strokes(data), (30, 40))


def use_colour(text: str) -> object:
    colour = parse_colour(text)
    assert all(0 <= number <= 255 for number in colour), colour
    return colour


def use_profile(icc: bytes) -> object:
    """Raises AssertionError where a profile that is none keeps a photo from opening."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3)).save(buffer, "PNG", icc_profile=icc)
    assert open_photo(buffer.getvalue()).shape == (3, 4)
    return css_colour("#369", icc)


def make_address(rng: Rng) -> str:
    address = ".".join(str(number) for number in rng.integers(256, size=4))
    groups = ":".join(f"{number:x}" for number in rng.integers(65536, size=8) * (rng.random(8) < 0.5))
    return pick(rng, (address, f"::ffff:{address}", groups, f"{groups}%1", f"2002:{groups[:9]}::"))


def use_address(address: str) -> object:
    try:
        assert isinstance(is_public(address), bool)
    except ValueError:
        raise PhotoError("This is no address.") from None


def make_data_url(rng: Rng) -> str:
    if rng.random() < 0.5:
        return some(rng, URL_PARTS)
    return f"data:{some(rng, URL_PARTS)};base64,{base64.b64encode(rng.bytes(int(rng.integers(99)))).decode()}"


def use_name(name: str) -> object:
    stem = safe_stem(name)
    assert 0 < len(stem.encode()) <= 180, stem
    assert not re.search(r"[/\\\0\u202e]|^\.|\.$", stem), stem
    return stem


KINDS = {
    **{name: Kind(damage(name), use_file) for name in FORMATS},
    "noise": Kind(lambda rng: rng.bytes(int(rng.integers(1, 3000))), use_file),
    "sound": Kind(lambda rng: pick(rng, [*sound_files()]), use_sound_file),
    "strokes": Kind(make_strokes, use_strokes),
    "colour": Kind(lambda rng: some(rng, WORDS), use_colour),
    "profile": Kind(lambda rng: flip(rng, SRGB), use_profile),
    "address": Kind(make_address, use_address),
    "data URL": Kind(make_data_url, lambda url: read_data_url(url, max_bytes=50)),
    "name": Kind(lambda rng: some(rng, NAMES), use_name),
}


# --- running them ---


def run_case(kind: str, number: int, seed: int) -> None:
    """Raises PhotoError for what is refused, and anything else for what fails."""
    made = KINDS[kind].make(np.random.default_rng((seed, [*KINDS].index(kind), number)))
    start = time.process_time()
    try:
        KINDS[kind].use(made)
    except PhotoError as error:
        if not SENTENCE.fullmatch(str(error)):
            raise AssertionError(f"no sentence: {error}") from error
        if isinstance(error.__cause__, MemoryError):
            raise error.__cause__ from None
        raise
    finally:
        took = time.process_time() - start
        assert took < SECONDS, f"took {took:.1f} s"


def work(pipe: Any, seed: int) -> None:
    """Answer each case with how it ended."""
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff says there what it thinks of a file
    sound_files()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while True:
        try:
            run_case(*pipe.recv(), seed)
        except EOFError:
            return
        except PhotoError:
            pipe.send("refused")
        except BaseException as error:
            pipe.send(" ".join(f"{type(error).__name__}: {error}".split())[:200])
        else:
            pipe.send("succeeded")


class Worker:
    """A process that runs cases, and a new one after each that it did not survive."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, self.seed), daemon=True)
        self.process.start()
        theirs.close()

    def stop(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()

    def run(self, kind: str, number: int) -> str:
        """How a case ended: "succeeded", "refused", or why it failed."""
        self.pipe.send((kind, number))
        try:
            if self.pipe.poll(HANG):
                return str(self.pipe.recv())
            outcome = f"no answer within {HANG} s"
        except EOFError:
            self.process.join()
            outcome = f"the process died ({self.process.exitcode})"
        self.stop()
        self.start()
        return outcome


def run_all(seed: int, seconds: float, cases: int) -> dict[str, str]:
    """By the id of each case, kind and number: how it ended."""
    outcomes: dict[str, str] = {}
    worker = Worker(seed)
    worker.run("name", 0)  # once it has started, time counts
    end = time.monotonic() + seconds
    for number, kind in ((number, kind) for number in range(cases) for kind in KINDS):
        if time.monotonic() > end:
            break
        outcomes[f"{kind}:{number}"] = worker.run(kind, number)
    worker.stop()
    return outcomes


def report(outcomes: dict[str, str]) -> int:
    """Print a table, and the ids of what failed; how many failed."""
    counts = Counter(
        (case.split(":")[0], outcome if outcome in ("succeeded", "refused") else "failed")
        for case, outcome in outcomes.items()
    )
    columns = ("succeeded", "refused", "failed")
    print(f"{'kind':10}{'submitted':>11} =" + " +".join(f"{column:>10}" for column in columns))
    for kind in (*KINDS, ""):
        numbers = [sum(counts[each, column] for each in KINDS if kind in ("", each)) for column in columns]
        print(f"{kind or 'all':10}{sum(numbers):11} =" + " +".join(f"{number:10}" for number in numbers))
    failed = {case: outcome for case, outcome in outcomes.items() if outcome not in ("succeeded", "refused")}
    for case, outcome in failed.items():
        print(f"{case}: {outcome}")
    return len(failed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--cases", type=int, default=10**9, help="at most so many of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", help="the id of one case")
    given = parser.parse_args()
    if given.case is None:
        return min(1, report(run_all(given.seed, given.seconds, given.cases)))
    kind, number = given.case.split(":")
    try:
        run_case(kind, int(number), given.seed)
    except BaseException:
        traceback.print_exc()
    return 0


if __name__ == "__main__":
    sys.exit(main())
