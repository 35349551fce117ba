"""What a page sends of where it is, of which nothing is trusted."""

from pathlib import Path

import pytest

from background_remover.page import state
from background_remover.page.files import FileStore
from background_remover.page.state import WHOLE, Pick, State, Work, is_own, is_solid, read_number, read_state
from background_remover.subjects import MAX_POINTS, read_box, read_points
from utilities import PhotoError

HUGE = 10**400


@pytest.fixture
def work(tmp_path, monkeypatch) -> dict[str, str]:
    """The paths of a photo that was uploaded."""
    store = FileStore(tmp_path)
    monkeypatch.setattr(state, "file_store", lambda: store)
    folder = store.new_folder()
    paths = {name: str(folder / f"{name}.png") for name in Work._fields}
    for path in paths.values():
        Path(path).write_bytes(b"")
    return paths


def test_a_state_is_read(work):
    sent = {
        "asked": 7,
        "work": work,
        "mode": "mask",
        "view": [0, 0.5, 1, 0.75],
        "task": "copy",
        "took": 1.5,
        "have": "a",
        "pick": {"box": [0, 0.25, 0.5, 1], "points": [[0.5, 1, True], [0, 0.125, False]]},
        "solid": True,
    }
    pick = Pick((0.0, 0.25, 0.5, 1.0), ((0.5, 1.0, True), (0.0, 0.125, False)))
    assert read_state(sent) == State(7, Work(**work), (), "mask", (0.0, 0.5, 1.0, 0.75), "copy", 1.5, "a", pick, True)


@pytest.mark.parametrize(
    "sent", [None, 5, "a", [], {}, {"asked": "1", "mode": [], "task": {}, "took": "x", "view": "x"}]
)
def test_what_is_no_state_is_that_of_a_page_without_a_photo(sent):
    assert read_state(sent)._replace(have="") == State()


@pytest.mark.parametrize("view", [[0, 0, HUGE, 1], [float("nan")] * 4, [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1], [{}] * 4])
def test_a_view_that_can_not_be_is_the_whole(view):
    assert read_state({"view": view}).view == WHOLE


@pytest.mark.parametrize("took", [-1, HUGE, float("nan"), float("inf"), [], "1"])
def test_seconds_that_can_not_be_are_none(took):
    assert read_state({"took": took}).took == 0


@pytest.mark.parametrize("asked", [HUGE, -HUGE, 1.5, "1", None, []])
def test_a_number_that_can_not_be_is_0(asked):
    assert read_number({"asked": asked}) == 0


def test_what_the_page_has_is_kept_short():
    assert len(read_state({"have": "a" * 10_000}).have) <= 100


@pytest.mark.parametrize("name", Work._fields)
@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", ""])
def test_only_files_that_were_uploaded_are_taken(work, name, path):
    with pytest.raises(PhotoError, match="has since been deleted here"):
        read_state({"work": work | {name: path}})


@pytest.mark.parametrize("sent", [5, [], {}, {"photo": 1, "matte": 2, "preview": 3}, {"photo": ["a"]}])
def test_what_is_no_work_is_refused(work, sent):
    with pytest.raises(PhotoError, match="can't be read"):
        read_state({"work": sent})


def test_the_pages_own_picture_of_a_photo_is_known(work):
    sent = {"work": work}
    assert is_own(work["preview"], sent)
    assert is_own(work["photo"], sent)
    assert not is_own(None, sent)
    assert not is_own("other", sent)
    assert not is_own(None, {"work": {}})
    assert not is_own("a", {"work": 5})


@pytest.mark.parametrize(
    "box", [[0, 0, HUGE, 1], [float("nan")] * 4, [0.5, 0, 0.5, 1], [-1, 0, 1, 1], [0, 0, 1], "a", {}]
)
def test_a_box_that_can_not_be_is_refused(box):
    """Else all subjects would be cut out where one was asked for."""
    with pytest.raises(PhotoError, match="can't be read"):
        read_state({"pick": {"box": box, "points": []}})


@pytest.mark.parametrize(
    "points",
    [None, 5, "abc", {}, [[0.5]], [[0.5, 2, True]], [[float("nan"), 0, True]], [[HUGE, 0, True]], [[{}, [], 0]]],
)
def test_points_that_can_not_be_are_refused(points):
    with pytest.raises(PhotoError, match="can't be read"):
        read_state({"pick": {"box": None, "points": points}})


@pytest.mark.parametrize("pick", [5, "a", [], {}, {"box": None}, {"points": []}])
def test_what_is_no_pick_is_refused(pick):
    with pytest.raises(PhotoError, match="can't be read"):
        read_state({"pick": pick})


def test_points_are_few():
    points = [[0.5, 0.5, True]] * MAX_POINTS
    assert len(read_state({"pick": {"box": None, "points": points}}).pick.points) == MAX_POINTS
    with pytest.raises(PhotoError, match="can't be read"):
        read_state({"pick": {"box": None, "points": points * 100_000}})


def test_a_pick_lies_in_its_photo_whatever_its_size():
    pick = Pick((0.99999, 0.0, 1.0, 1e-9), ((0.0, 0.0, True), (1.0, 1.0, False), (0.5, 0.999, True)))
    for shape in ((1, 1), (3, 4000), (6000, 2)):
        box, points = pick.in_pixels(shape)
        assert read_box(box, shape) is not None
        assert read_points(points, shape) == tuple(points)
    assert Pick().in_pixels((3, 4)) == (None, [])


@pytest.mark.parametrize("sent", [None, 5, [], {}, {"solid": 1}, {"solid": "true"}])
def test_a_matte_is_whole_only_if_that_is_said(sent):
    assert not is_solid(sent)
