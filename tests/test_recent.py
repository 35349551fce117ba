"""The cutouts in memory: few, of bounded size, and never another's."""

import threading
from collections.abc import Hashable, Iterable

import numpy as np
import pytest

from background_remover.cutout import Cutout
from background_remover.page.recent import MAX_PAIRS, Pair, RecentCutouts
from background_remover.photos import Photo


def pair(pixels: int) -> Pair:
    """Of 7 bytes for each pixel, at full size; the preview has none."""
    return one(pixels), one(0)


def one(pixels: int) -> Cutout:
    rgb, alpha = np.zeros((pixels, 1, 3), np.uint8), np.zeros((pixels, 1), np.uint8)
    return Cutout(Photo(rgb), alpha, rgb.copy())


def fail() -> Pair:
    raise AssertionError("it is at hand")


def held(recent: RecentCutouts, keys: Iterable[Hashable]) -> list[Hashable]:
    """Which keys are at hand, without changing that."""
    return [key for key in keys if key in recent._pairs]


def test_a_pair_is_made_once():
    recent, made = RecentCutouts(), pair(3)
    assert recent.get("a", lambda: made) is made
    assert recent.get("a", fail) is made
    with pytest.raises(AssertionError):
        recent.get("b", fail)


def test_what_was_not_used_for_longest_goes_first_and_the_newest_stays_whatever_its_size():
    recent = RecentCutouts(max_bytes=70)
    for key in range(3):
        recent.get(key, lambda: pair(3))  # 21 bytes
    recent.get(0, fail)
    recent.get(3, lambda: pair(3))
    assert held(recent, range(4)) == [0, 2, 3]
    huge = pair(1000)
    assert recent.get(4, lambda: huge) is huge
    assert held(recent, range(5)) == [4]
    recent.get(5, lambda: pair(1))
    assert held(recent, range(6)) == [5]


def test_tiny_photos_are_few_as_well():
    """What each is found by, the strokes of a brush, may be much larger than it is."""
    recent = RecentCutouts()
    for key in range(1000):
        recent.get(key, lambda: pair(1))
    assert held(recent, range(1000)) == [*range(1000 - MAX_PAIRS, 1000)]


def test_one_that_can_not_be_made_takes_no_place():
    recent = RecentCutouts()
    with pytest.raises(ZeroDivisionError):
        recent.get("a", lambda: 1 / 0)
    assert recent.get("a", lambda: pair(1))


def test_nobody_waits_while_another_is_made():
    recent, go = RecentCutouts(), threading.Event()
    slow = threading.Thread(target=recent.get, args=("a", lambda: go.wait(5) and pair(1)))
    slow.start()
    assert recent.get("b", lambda: pair(1))
    go.set()
    slow.join(5)
    assert recent.get("a", fail)


def test_what_is_deleted_from_the_folder_is_forgotten(tmp_path):
    recent = RecentCutouts()
    photos = [tmp_path / name for name in ("a", "b")]
    for photo in photos:
        photo.touch()
        recent.get((str(photo), "matte"), lambda: pair(1))
    photos[0].unlink()
    recent.forget_deleted()
    assert held(recent, [(str(photo), "matte") for photo in photos]) == [(str(photos[1]), "matte")]


def test_arrays_that_several_share_count_once():
    """A touched-up cutout has the photo of the one before it."""
    recent = RecentCutouts(max_bytes=70)
    first = one(6)  # 42 bytes, 18 of them the photo's
    recent.get("a", lambda: (first, one(0)))
    recent.get("b", lambda: (Cutout(first.photo, first.alpha.copy(), first.foreground.copy()), one(0)))
    assert held(recent, ["a", "b"]) == ["a", "b"]
