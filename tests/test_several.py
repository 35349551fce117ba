"""What the tab for several photos sends and gets: whatever comes, and the zip with its report."""

import csv
import io
import zipfile

import pytest

from background_remover.page import several, state
from background_remover.page.bodies import MAX_FILES
from background_remover.page.files import FileStore
from utilities import PhotoError


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A folder of files of its own."""
    store = FileStore(tmp_path / "store")
    for module in (several, state):
        monkeypatch.setattr(module, "file_store", lambda: store)
    return store


@pytest.fixture
def upload(store):
    def make(name="photo.png", content=b"photo"):
        path = store.new_folder() / name
        path.write_bytes(content)
        return str(path)

    return make


def work(upload):
    return {name: upload(f"{name}.png") for name in ("photo", "matte", "preview")}


# --- what comes from the page ---


def test_a_task_is_read_as_it_was_sent(upload):
    photo, done = upload(), work(upload)
    stroke = {"keep": True, "width": 0.1, "points": [[0.5, 0.5]]}
    task = several.read_task(
        {
            "run": 7,
            "tiles": [
                {"id": 1, "photo": photo},
                {"id": 2, "work": done, "strokes": [stroke], "refine": False},
            ],
        }
    )
    assert task.run == 7
    new, old = task.tiles
    assert new == several.Tile(1, photo)
    assert old.work == state.Work(**done)
    assert old.photo == done["photo"]
    assert old.strokes[0].points == ((0.5, 0.5),)
    assert not old.refine


def test_a_file_that_is_gone_or_another_s_is_a_tile_without_one(upload, tmp_path):
    outside = tmp_path / "outside.png"
    outside.write_bytes(b"photo")
    gone = work(upload) | {"matte": "/etc/passwd"}
    sent = {"tiles": [{"id": 1, "photo": str(outside)}, {"id": 2, "photo": "x"}, {"id": 3, "work": gone}]}
    task = several.read_task(sent)
    assert [(tile.number, tile.photo, tile.work) for tile in task.tiles] == [
        (1, "", None),
        (2, "", None),
        (3, "", None),
    ]
    assert several.attempt(lambda *_: None, task.tiles[0], None) == {"reason": several.GONE, "gone": True}


@pytest.mark.parametrize(
    "sent",
    [
        None,
        [],
        "tiles",
        {},
        {"tiles": []},
        {"tiles": {"id": 1}},
        {"tiles": "1234"},
        {"tiles": [1]},
        {"tiles": [{}]},
        {"tiles": [{"id": 1, "photo": 5}]},
        {"tiles": [{"id": 1, "photo": ["/etc/passwd"]}]},
        {"tiles": [{"id": 1, "work": "work"}]},
        {"tiles": [{"id": 1, "work": {"photo": 5}}]},
        {"tiles": [{"id": 1, "work": {}}]},
        {"tiles": [{"id": 1, "photo": "x"}] * (MAX_FILES + 1)},
    ],
)
def test_what_is_no_task_is_told_in_one_sentence(store, sent):
    with pytest.raises(PhotoError) as told:
        several.read_task(sent)
    assert str(told.value) in (several.UNREADABLE, several.NO_PHOTOS, several.TOO_MANY, state.UNREADABLE)


@pytest.mark.parametrize("number", [None, "1", 1.5, [], 2**70])
def test_a_number_that_is_none_is_nought(number):
    assert several.read_run({"run": number}) == 0
    assert several.read_run(number) == 0


def test_strokes_of_a_tile_are_checked(upload):
    sent = {"tiles": [{"id": 1, "work": work(upload), "strokes": [{"keep": True, "width": 9, "points": [[0, 0]]}]}]}
    with pytest.raises(PhotoError, match="brush strokes"):
        several.read_task(sent)


@pytest.mark.parametrize("sent", [None, [], {}, {"work": {}}, {"work": {"photo": "/etc/passwd"}}])
def test_nothing_is_edited_without_a_photo(store, sent):
    with pytest.raises(PhotoError):
        several.edit(sent, True, None)


# --- the zip ---


def rows(path):
    with zipfile.ZipFile(path) as archive:
        text = archive.read("report.csv").decode("utf-8-sig")
    assert text.endswith("\r\n")
    return list(csv.reader(io.StringIO(text, newline="")))


def test_a_zip_has_the_results_and_a_report(upload):
    first, second = upload("photo.png", b"first"), upload("Photo.png", b"second")
    sent = [
        {"id": 1, "name": "photo.jpg", "file": first, "outcome": "cut out"},
        {"id": 2, "name": "Photo.tif", "file": second, "outcome": "cut out", "reason": ""},
        {"id": 3, "name": 'a, "b".jpg', "file": None, "outcome": "failed", "reason": "This is\nno photo."},
        {"id": 4, "name": None, "outcome": "of another kind", "reason": None},
    ]
    packed = several.pack({"run": 5, "tiles": sent})
    assert (packed["run"], packed["name"]) == (5, "cutouts.zip")
    with zipfile.ZipFile(packed["file"]) as archive:
        assert archive.namelist() == ["photo.png", "Photo-2.png", "report.csv"]
        assert archive.read("Photo-2.png") == b"second"
    assert rows(packed["file"]) == [
        ["photo", "file", "outcome", "reason"],
        ["photo.jpg", "photo.png", "cut out", ""],
        ["Photo.tif", "Photo-2.png", "cut out", ""],
        ['a, "b".jpg', "", "failed", "This is\nno photo."],
        ["", "", "not done", ""],
    ]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_is_a_formula(upload, start):
    file = upload(f"{start}1.png")
    sent = {"name": f"{start}cmd|' /C calc'!A0", "file": file, "outcome": f"{start}1", "reason": f"{start}1"}
    ((photo, name, outcome, reason),) = rows(several.pack({"tiles": [sent]})["file"])[1:]
    assert photo.startswith(f"'{start}")
    assert name.startswith(f"'{start}")
    assert outcome == "not done"
    assert reason.startswith(f"'{start}")


def test_names_and_reasons_have_an_end(upload):
    sent = {"name": "n" * 10_000, "outcome": "failed", "reason": "r" * 10_000}
    ((photo, _, _, reason),) = rows(several.pack({"tiles": [sent]})["file"])[1:]
    assert (len(photo), len(reason)) == (several.LONGEST_NAME, several.LONGEST_REASON)


def test_a_file_that_is_named_many_times_takes_no_more_than_the_disk_has(store, upload):
    store.max_bytes = 5_000_000
    large = upload(content=bytes(200_000))
    sent = [{"id": number, "name": "a", "file": large, "outcome": "cut out"} for number in range(100)]
    before = {*store.folder.rglob("*.zip")}
    with pytest.raises(PhotoError, match="disk is full"):
        several.pack({"run": 1, "tiles": sent})
    assert {*store.folder.rglob("*.zip")} == before
    assert several.pack({"run": 1, "tiles": sent[:10]})["name"] == "cutouts.zip"


def test_without_all_results_there_is_no_zip_but_their_numbers(upload, tmp_path):
    there = {"id": 1, "name": "a", "file": upload(), "outcome": "cut out"}
    gone = {"id": 2, "name": "b", "file": str(tmp_path / "b.png"), "outcome": "cut out"}
    assert several.pack({"run": 1, "tiles": [there, gone]}) == {"run": 1, "gone": [2]}


@pytest.mark.parametrize("file", [5, [], {"path": "/etc/passwd"}])
def test_what_is_no_file_is_told(store, file):
    with pytest.raises(PhotoError):
        several.pack({"tiles": [{"id": 1, "name": "a", "file": file}]})


def test_halves_of_characters_break_no_report(upload):
    assert rows(several.pack({"tiles": [{"name": "\ud83d.jpg"}]})["file"])[1][0] == "?.jpg"
