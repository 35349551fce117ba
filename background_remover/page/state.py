"""What the stage, `stage.js`, sends with everything that is asked for: which photo, which strokes, which change."""

from __future__ import annotations

from typing import Any, NamedTuple

from background_remover.page.files import Upload, file_store
from background_remover.page.strokes import Stroke, read_strokes
from background_remover.subjects import MAX_POINTS
from utilities import PhotoError

View = tuple[float, float, float, float]
WHOLE: View = (0.0, 0.0, 1.0, 1.0)
UNREADABLE = "What the page sent can't be read: reload it, and choose the photo again."


class Work(NamedTuple):
    """A visitor's photo, as three paths in the upload folder. The page has it, so that it outlives this process."""

    photo: Upload
    matte: Upload  # as the network gave it
    preview: Upload  # of the photo, for a browser


class Pick(NamedTuple):
    """Which subjects of a photo are cut out, in shares of its width and height: all, where there is neither."""

    box: View | None = None  # left, top, right and bottom
    points: tuple[tuple[float, float, bool], ...] = ()  # x, y, and whether what is there is kept

    def in_pixels(self, shape: tuple[int, int]) -> tuple[tuple[float, ...] | None, list[tuple[int, int, bool]]]:
        """The box and the points in a photo of that shape, as a `BackgroundRemover` takes them."""
        height, width = shape
        box = self.box and tuple(share * side for share, side in zip(self.box, (width, height) * 2, strict=True))
        points = [
            (min(int(x * width), width - 1), min(int(y * height), height - 1), keep) for x, y, keep in self.points
        ]
        return box, points


class State(NamedTuple):
    """What the page is at."""

    asked: int = 0  # the number of the change for which this is: of two, the higher is newer
    work: Work | None = None
    strokes: tuple[Stroke, ...] = ()
    mode: str = "cutout"  # what is shown: "cutout", "compare" or "mask"
    view: View = WHOLE  # the part of the result in view: left, top, right and bottom, in shares of it
    task: str = ""  # what a file is for: "copy", "mask", or else the download
    took: float = 0.0  # seconds that the photo took
    have: str = ""  # what the page's pictures of the matte were made with, see `pictures.look_of`
    pick: Pick = Pick()  # which subjects are to be cut out
    solid: bool = False  # whether the matte was made with wide parts whole


def read_number(value: Any) -> int:
    """Which change a state is for; 0 for what is none."""
    asked = value.get("asked") if isinstance(value, dict) else None
    return asked if isinstance(asked, int) and abs(asked) < 2**53 else 0


def is_own(photo: Any, value: Any) -> bool:
    """Whether a photo that a page tells of is its own picture of the one it has, by the state that came with it."""
    work = value.get("work") if isinstance(value, dict) else None
    return isinstance(work, dict) and photo is not None and photo in (work.get("photo"), work.get("preview"))


def is_solid(value: Any) -> bool:
    """Whether the matte of a state was made with wide parts whole; False for what is no state."""
    return isinstance(value, dict) and value.get("solid") is True


def read_state(value: Any) -> State:
    """The state in what a page sent, whatever it is. Raises PhotoError."""
    if not isinstance(value, dict):
        return State()
    mode, view = value.get("mode"), value.get("view")
    took, task = value.get("took"), value.get("task")
    return State(
        read_number(value),
        read_work(value.get("work")),
        read_strokes(value.get("strokes") or []),
        mode if mode in ("cutout", "compare", "mask") else "cutout",
        read_view(view),
        task if task in ("copy", "mask") else "",
        float(took) if isinstance(took, int | float) and 0 <= took < 1e4 else 0.0,
        str(value.get("have"))[:100],
        read_pick(value.get("pick")),
        is_solid(value),
    )


def read_work(value: Any) -> Work | None:
    """The work in what a page sent, its files being here; None for none. Raises PhotoError."""
    if value is None:
        return None
    paths = [value.get(name) for name in Work._fields] if isinstance(value, dict) else [None]
    if not all(isinstance(path, str) for path in paths):
        raise PhotoError(UNREADABLE)
    try:
        return Work(*(file_store().admit(str(path)) for path in paths))
    except PhotoError:
        raise PhotoError("This photo has since been deleted here: choose it again.") from None


def read_view(value: Any) -> View:
    """A part of a picture, not empty; the whole for what is none."""
    numbers = value if isinstance(value, list) and len(value) == 4 else []
    if not all(isinstance(number, int | float) for number in numbers) or not numbers:
        return WHOLE
    left, top, right, bottom = (float(min(1, max(0, number))) for number in numbers)
    return (left, top, right, bottom) if left < right and top < bottom else WHOLE


def read_pick(value: Any) -> Pick:
    """The subjects in what a page sent: {"box": [left, top, right, bottom] or null, "points": [[x, y, keep], ...]}.

    Raises PhotoError for what can't be, since without it others would be cut out than were asked for.
    """
    if value is None:
        return Pick()
    try:
        given, rows = value["box"], value["points"]
        box = None if given is None else read_view(given)
        points = tuple((float(x), float(y), keep is not False) for x, y, keep in rows[: MAX_POINTS + 1])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise PhotoError(UNREADABLE) from None
    sound = all(0 <= x <= 1 and 0 <= y <= 1 for x, y, _ in points) and len(points) <= MAX_POINTS
    if not sound or (given is not None and list(box or ()) != given):
        raise PhotoError(UNREADABLE)
    return Pick(box, points)
