"""Photo in, cutout out. The one way through the code: page, API, batch and benchmarks all come here."""

from __future__ import annotations

import itertools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from background_remover import weights as weights_module
from background_remover.cutout import Cutout
from background_remover.decoding import Photo
from background_remover.encoding import safe_stem
from background_remover.outputs import Task, identity_of
from background_remover.photos import PhotoSource, open_photo
from background_remover.solid import solidify
from background_remover.stages import stage
from background_remover.subjects import Subject, find_subjects, pick, read_box, read_points
from background_remover.weights import Weights
from utilities import PhotoError, enlarge

if TYPE_CHECKING:  # torch is imported while the weights are looked for
    from background_remover.engines import Wrapper

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]

NOTHING_FOUND = "Nothing in this photo stands out as the subject, so the matte is empty: try another photo."
# Of 255: the network's peak from which a photo has a subject, some pixel being rather it than not. Textures reach 115,
# subjects 247. `utilities.EMPTY` is lower, since the model card's formulas stretch whatever a caller's network finds.
FOUND = 128
PACKAGE = Path(__file__).parent
# The example photos: in the package where it was installed, else beside it.
EXAMPLES = next(filter(Path.is_dir, (PACKAGE / "examples", PACKAGE.parent / "examples")), PACKAGE)
MANY = 1000  # photos, where nobody knows how many there are


@dataclass(frozen=True)
class Outcome:
    """What became of one photo of several."""

    name: str  # the photo's file name
    path: Path | None = None  # of its result, None if there is none
    reason: str = ""  # why there is none, or why it is empty, in one sentence
    photo: Path | str = field(default="", compare=False)  # as it was given
    seconds: float = field(default=0.0, compare=False)


def example_inputs() -> Iterator[Pixels]:
    """The example photos as the network sees them, 1024 x 1024 x 3."""
    for path in sorted(EXAMPLES.glob("*.[jp][pn]g")):
        yield open_photo(path).for_network()


_opencv = threading.Lock()
_threads_before: list[int] = []  # what OpenCV had, once for each run that goes on


@contextmanager
def _opencv_threads(most: int) -> Iterator[None]:
    """OpenCV has no more threads for a call than so many, until the last of all runs ends.

    Those of many photos wait for each other, the more the more cores there are.
    """
    with _opencv:
        _threads_before.append(_threads_before[0] if _threads_before else cv2.getNumThreads())
        cv2.setNumThreads(min(most, _threads_before[0]))
    try:
        yield
    finally:
        with _opencv:
            before = _threads_before.pop()
            if not _threads_before:
                cv2.setNumThreads(before)


class BackgroundRemover:
    """Cuts the subject out of photos.

        remover = BackgroundRemover.from_pretrained()
        remover("photo.jpg").save("cutout.png")

    `weights` says which weights these are and under which licence, `engine` what they run on.
    """

    def __init__(
        self,
        weights: Weights,
        device: str | None = None,
        precision: str | None = None,
        on_device: Wrapper | None = None,
        between_steps: Callable[[], None] = lambda: None,
    ) -> None:
        """Put verified weights on a device; see `Engine` for the other arguments.

        `between_steps` is called between the steps of the work on a photo, on a CPU those of the network too, and may
        raise to end it there.

        Raises WeightsError if they don't fit the network, EngineError if this machine can't run it so.
        """
        from background_remover.engines import Engine
        from background_remover.state_dicts import build_network

        net = build_network(weights.state_dict, weights.name)
        self.weights = replace(weights, state_dict={})  # the network has the tensors now
        self.engine = Engine(net, device, precision, on_device, between_steps, samples=example_inputs)
        self._between_steps = between_steps

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | None = None,
        device: str | None = None,
        precision: str | None = None,
        on_device: Wrapper | None = None,
        between_steps: Callable[[], None] = lambda: None,
    ) -> BackgroundRemover:
        """Load weights: "briaai/RMBG-1.4", "isnet-general-use", another Hub repo id, a file or a folder.

        With None, the environment variable RMBG_WEIGHTS decides, and without it BRIA's weights are taken, or
        IS-Net's where the Hugging Face Hub can't be reached or refuses. `device` is "cuda", "mps" or "cpu",
        `precision` "fp32", "bf16", "fp16" or "int8"; None takes the quickest here that keeps the matte. Raises
        WeightsError, EngineError.
        """
        return cls(weights_module.load(source), device, precision, on_device, between_steps)

    def __call__(
        self,
        photo: PhotoSource,
        *,
        refine: bool = False,
        foreground: bool = True,
        solid: bool = False,
        box: str | Sequence[float] | None = None,
        points: str | Sequence[Sequence[float]] = (),
    ) -> Cutout:
        """Cut the subject out of a path, bytes, an open file, a PIL image, or an array H x W (x 1 to 4).

        The matte is the network's, as the model card has it; `refine` makes it follow the photo's own edges instead, at
        about half the time of the network's. `foreground` takes the old background out of the colours of partial
        pixels; False is a little faster. See `matting` for both. With `solid`, wide parts of the subject that come out
        half transparent are decided, see `solid`; for some photos the network runs twice then.

        `box` (left, top, right, bottom, in pixels of the photo) and `points` ((x, y), or (x, y, False) for what is to
        go) pick the subject, see `subjects.pick`; both may be texts, "40,20,300,500" and "120,80 300,200,0". They cost
        another forward or two where the first found nothing there, or little.

        Raises PhotoError if that is no photo, see `photos.open_photo`, or no box or points in it.
        """
        opened = open_photo(photo)
        self._between_steps()
        within, at = read_box(box, opened.shape), read_points(points, opened.shape)
        alpha = self._matte(opened, solid)
        if within or at:
            alpha = pick(alpha, lambda region: self._matte(opened.part(region), solid), within, at)
        if not alpha.any():
            return Cutout(opened, alpha, opened.rgb)
        with stage("matte"):
            return Cutout.from_matte(opened, alpha, refine=refine, foreground=foreground)

    def subjects(self, photo: PhotoSource) -> list[Subject]:
        """The separate subjects of a photo, the largest first: box, share of the photo, and confidence.

        A box of them, or a point in it, picks that subject. Raises PhotoError as for a photo.
        """
        return find_subjects(self._matte(open_photo(photo)))

    def _matte(self, photo: Photo, solid: bool = False) -> Pixels:
        """The network's matte at the photo's size; all 0 where there is no subject."""
        with stage("network"):
            image = photo.for_network()
            (matte,) = self.engine(image[np.newaxis])
            if solid and matte.max() >= FOUND:
                matte = solidify(enlarge(matte, matte.shape), image, lambda: self._mirrored(image))
        self._between_steps()
        if matte.max() < FOUND:
            return np.zeros(photo.shape, np.uint8)
        with stage("matte"):
            return enlarge(matte, photo.shape)

    def _mirrored(self, image: Pixels) -> Pixels:
        """The network's map, 0..255, of the mirrored input, mirrored back."""
        self._between_steps()
        (matte,) = self.engine(np.ascontiguousarray(image[np.newaxis, :, ::-1]))
        return np.ascontiguousarray(enlarge(matte, matte.shape)[:, ::-1])

    def each(
        self,
        photos: Iterable[str | os.PathLike[str]],
        folder: str | os.PathLike[str],
        save: Callable[[Cutout, Path], None],
        suffix: str = ".png",
        opening: Callable[[Path], AbstractContextManager[Photo]] = lambda path: nullcontext(open_photo(path)),
        **options: Any,
    ) -> Iterator[Outcome]:
        """Cut photos out one after the other, each saved before the next is opened.

        `save(cutout, path)` writes the result to a path in `folder` with the photo's name and the `suffix`, made
        unique, and so that it is none of the photos; the folder is made if need be. `opening(path)` gives the photo and
        is left when its result is saved. `options` are those for one photo.
        A photo that fails has its reason and stops no other. Whoever no longer asks for the next ends it.
        """
        paths = [Path(photo) for photo in photos]
        Path(folder).mkdir(parents=True, exist_ok=True)
        originals = {identity_of(path) for path in paths} - {None}
        taken: set[str] = set()
        for photo in paths:
            stem = safe_stem(photo.name)
            stems = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
            path = next(
                path
                for path in (Path(folder) / (name + suffix) for name in stems)
                if path.name.lower() not in taken and identity_of(path) not in originals
            )
            outcome = self._attempt(Task(photo, path), save, opening, options)
            if outcome.path:
                taken.add(path.name.lower())
            else:
                path.unlink(missing_ok=True)  # what may be half a file
            yield outcome

    def run(
        self,
        tasks: Iterable[Task],
        save: Callable[[Cutout, Path], None],
        opening: Callable[[Any], AbstractContextManager[Photo]] = lambda path: nullcontext(open_photo(path)),
        count: int = MANY,
        **options: Any,
    ) -> Iterator[Outcome]:
        """Cut many photos out, as quickly as this machine can, each to the path that its task names.

        `count` is how many there are, if that is known. As many are worked on at once as `Engine.split` says, and
        outcomes come as they are done; the rest is as for `each`. Tasks are taken as they are begun: where they end, so
        does the run, once those in hand are done.
        """
        tasks, lock = iter(tasks), threading.Lock()
        outcomes: queue.SimpleQueue[Outcome | BaseException | None] = queue.SimpleQueue()
        wanted = True

        def work() -> None:
            try:
                with self.engine.one_of(lanes):
                    while wanted:
                        with lock:
                            task = next(tasks, None)
                        if task is None:
                            break
                        outcomes.put(self._attempt(task, save, opening, options))
            except BaseException as error:  # of the tasks themselves
                outcomes.put(error)
            outcomes.put(None)

        lanes = self.engine.split(count)
        workers = [threading.Thread(target=work, name="cutout") for _ in range(lanes)]
        with _opencv_threads(max(1, self.engine.threads // lanes)):
            for worker in workers:
                worker.start()
            running = len(workers)
            try:
                while running:
                    outcome = outcomes.get()
                    if isinstance(outcome, BaseException):
                        raise outcome
                    if outcome is None:
                        running -= 1
                    else:
                        yield outcome
            finally:
                wanted = False
                for worker in workers:
                    worker.join()

    def _attempt(
        self,
        task: Task,
        save: Callable[[Cutout, Path], None],
        opening: Callable[[Any], AbstractContextManager[Photo]],
        options: dict[str, Any],
    ) -> Outcome:
        """One photo of several, whatever becomes of it."""
        start, name = time.perf_counter(), Path(task.photo).name
        try:
            with opening(task.photo) as photo:
                cutout = self(photo, **options)
                save(cutout, task.result)
        except PhotoError as error:
            path, reason = None, str(error)
        except Exception:  # whatever it is, the other photos are not to be lost
            logger.exception("A photo of several failed")
            path, reason = None, "Something went wrong with this photo: try it again on its own."
        else:
            path, reason = task.result, "" if cutout.found else NOTHING_FOUND
        return Outcome(name, path, reason, task.photo, time.perf_counter() - start)
