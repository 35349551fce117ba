"""What a page sends of where it is, of which nothing is trusted."""

from pathlib import Path

import pytest

from background_remover.page import state
from background_remover.page.files import FileStore
from background_remover.page.state import WHOLE, State, Work, is_own, read_number, read_state
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
    }
    assert read_state(sent) == State(7, Work(**work), (), "mask", (0.0, 0.5, 1.0, 0.75), "copy", 1.5, "a")


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
