"""Where uploads and results lie, and for how long."""

import os
import shutil
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import pytest

from background_remover.page import files
from background_remover.page.files import NOT_HERE, FileStore, write_zip
from utilities import PhotoError


@pytest.fixture
def store(tmp_path) -> FileStore:
    return FileStore(tmp_path / "store", lifetime=1000, max_bytes=1e9)


def put(store: FileStore, name: str, size: int = 10) -> Path:
    path = store.new_folder() / name
    path.write_bytes(bytes(size))
    time.sleep(0.02)  # so that each has a time of its own
    return path


def left(store: FileStore) -> set[str]:
    return {path.name for path in store.folder.rglob("*") if path.is_file()}


# --- which paths are opened ---


def test_a_file_in_the_folder_is_admitted_under_any_spelling(store):
    path = put(store, "photo.jpg")
    link = path.with_name("link.jpg")
    link.symlink_to(path)
    for spelling in (path, link, path.parent / ".." / path.parent.name / path.name, f"{path.parent}/./{path.name}"):
        assert store.admit(str(spelling)) == str(path)


def test_no_other_path_is_and_nothing_tells_whether_it_exists(store, tmp_path):
    inside = put(store, "photo.jpg")
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    beside = Path(f"{store.folder}-2") / "photo.jpg"  # begins like the folder
    beside.parent.mkdir()
    beside.write_bytes(b"other")
    out, circle = inside.with_name("out.jpg"), inside.with_name("circle.jpg")
    out.symlink_to(secret)
    circle.symlink_to(circle)
    ways = [secret, f"{store.folder}/../secret.jpg", out, circle, beside, store.folder, inside.parent, "gone.jpg", "/"]
    for path in [*map(str, ways), "", ".", "\0", "x" * 5000, f"{inside}\0", f"file://{inside}"]:
        with pytest.raises(PhotoError) as caught:
            store.admit(path)
        assert str(caught.value) == NOT_HERE


def test_the_way_back_in_tells_nothing_of_what_is_outside(store, tmp_path):
    """The kernel would look `there/../store/...` up name by name, and fail where `there` is missing."""
    inside = put(store, "photo.jpg")
    (tmp_path / "there").mkdir()
    for outside in ("there", "missing"):
        assert store.admit(f"{tmp_path}/{outside}/../{store.folder.name}/{inside.relative_to(store.folder)}") == str(
            inside
        )


def test_new_files_are_named_after_the_upload_in_folders_that_nobody_can_guess(store):
    paths = [Path(store.new_file("/x/y/cat 1.JPG", "cutout", ".webp")) for _ in range(50)]
    assert {path.name for path in paths} == {"cat-1-cutout.webp"}
    assert len({path.parent for path in paths}) == 50
    assert min(len(path.parent.name) for path in paths) >= 20
    assert Path(store.new_file("cat-cutout.png", "cutout")).name == "cat-cutout.png"
    assert all(path.parent.stat().st_mode & 0o077 == 0 for path in paths)


# --- how long ---


def test_what_is_old_goes_with_its_folder_and_what_is_young_stays(store, tmp_path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    put(store, "old.png")
    (store.folder / "torn-upload").write_bytes(b"half")
    (store.folder / "link").symlink_to(tmp_path)
    time.sleep(0.5)
    store.lifetime = 0.4
    put(store, "young.png")
    store.sweep()
    assert left(store) == {"young.png"}
    assert len(list(store.folder.iterdir())) == 1
    assert secret.read_bytes() == b"secret"  # links are removed, not followed


def test_what_is_used_stays_while_it_is_used_and_its_time_starts_anew(store):
    used, unused = put(store, "used.png"), put(store, "unused.png")
    store.lifetime = 0.3
    with store.request({"image": str(used)}, 3, None, ["text", str(used)]):
        time.sleep(0.5)
        made = put(store, "made.png")
        store.sweep()
        assert left(store) == {"used.png", "made.png"}
    assert not unused.exists()
    store.lifetime = 1000
    store.sweep()
    assert left(store) == {"used.png", "made.png"}
    store.lifetime = 0.3
    with store.request(str(used)):
        pass
    time.sleep(0.1)
    store.sweep()
    assert used.exists()
    time.sleep(0.4)
    store.sweep()
    assert left(store) == set()
    assert not made.parent.exists()


def test_a_request_touches_nothing_outside_the_folder(store, tmp_path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    os.utime(secret, (1, 1))
    with store.request(f"{store.folder}/../secret.jpg", str(secret)):
        pass
    assert secret.stat().st_mtime == 1


def test_what_is_too_much_goes_oldest_first_before_a_request_starts(store):
    store.max_bytes = 500_000
    first = put(store, "0.png", 100_000)
    for number in range(1, 8):
        put(store, f"{number}.png", 100_000)
    time.sleep(files.CLOCK_TICK)
    with store.request(str(first)):  # in use, and so the last to go
        assert left(store) == {"0.png", "5.png", "6.png", "7.png"}
        for number in range(8, 20):
            put(store, f"{number}.png", 100_000)
        store.sweep()
        assert len(left(store)) == 13, "what a request makes stays until the next one"
    store.sweep()
    with store.request():
        assert left(store) == {"16.png", "17.png", "18.png", "19.png"}


def test_the_folder_never_passes_its_cap_by_more_than_one_requests_files(store, monkeypatch):
    store.max_bytes = 1_000_000
    monkeypatch.setattr(files, "SWEEPS", (0.0, 1.0))  # requests come faster here than anybody's
    for _ in range(20):
        with store.request():
            for number in range(3):
                put(store, f"{number}.png", 90_000)
        size = sum(path.stat().st_size for path in store.folder.rglob("*"))
        assert size <= 1_000_000 + 3 * 90_000 + 3 * 4096


def test_a_request_that_was_left_holds_nobody_up(store, monkeypatch):
    """As a generator that nobody asks for the next value."""
    monkeypatch.setattr(files, "LONGEST", 0.3)
    left_behind = store.request()
    left_behind.__enter__()
    put(store, "0.png", 100_000)
    time.sleep(0.5)
    store.max_bytes = 50_000
    store.sweep()
    assert left(store) == set()
    put(store, "1.png")
    store.lifetime = 0.01
    time.sleep(0.1)
    store.sweep()
    assert left(store) == set()
    left_behind.__exit__(None, None, None)


def test_sweeping_starts_with_what_a_killed_run_left(store):
    put(store, "left.png")
    store.lifetime = 0.3
    time.sleep(0.5)
    store.keep_sweeping()
    deadline = time.monotonic() + 5
    while left(store):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    put(store, "later.png")
    while left(store):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_examples_stay(store, tmp_path):
    (tmp_path / "cat.jpg").write_bytes(b"cat")
    (path,) = store.add_examples(path for path in [tmp_path / "cat.jpg"])
    assert store.admit(path) == path
    store.lifetime, store.max_bytes = 0, 0
    store.sweep()
    assert Path(path).read_bytes() == b"cat"
    assert store.add_examples([]) == []


def test_the_folder_is_one_of_our_own_so_that_nothing_of_others_is_swept(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    for given in (tmp_path, tmp_path / files.NAME, tmp_path / f"{files.NAME}-main"):
        monkeypatch.setenv("GRADIO_TEMP_DIR", str(given))
        files.choose_folder.cache_clear()
        folder = files.choose_folder()
        assert folder == given / files.NAME
        assert os.environ["GRADIO_TEMP_DIR"] == str(folder)
        assert files.choose_folder() == folder
    monkeypatch.delenv("GRADIO_TEMP_DIR")
    files.choose_folder.cache_clear()
    assert files.choose_folder().parent == Path(tempfile.gettempdir()).resolve()
    files.choose_folder.cache_clear()


@pytest.mark.parametrize("value", ["soon", "-1", "0", "nan", "inf"])
@pytest.mark.parametrize("variable", ["RMBG_KEEP_SECONDS", "RMBG_MAX_DISK"])
def test_settings_that_can_not_be_are_told(tmp_path, monkeypatch, variable, value):
    monkeypatch.setattr(files, "choose_folder", lambda: tmp_path / files.NAME)
    monkeypatch.setenv(variable, value)
    files.file_store.cache_clear()
    with pytest.raises(files.SettingError, match=f"{variable} is not a number above 0"):
        files.file_store()
    files.file_store.cache_clear()


def test_a_folder_that_can_not_be_is_told(tmp_path, monkeypatch):
    (tmp_path / files.NAME).write_text("no folder")
    monkeypatch.setattr(files, "choose_folder", lambda: tmp_path / files.NAME)
    files.file_store.cache_clear()
    with pytest.raises(files.SettingError, match="set GRADIO_TEMP_DIR"):
        files.file_store()
    files.file_store.cache_clear()


def test_folders_that_vanish_while_they_are_swept_stop_nothing(store):
    """As those of a batch that ends."""
    ends = time.monotonic() + 0.7
    failed: list[BaseException] = []

    def sweep() -> None:
        try:
            while time.monotonic() < ends:
                store.sweep()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=sweep)
    thread.start()
    while time.monotonic() < ends:
        folder = store.new_folder()
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_bytes(b"")
        shutil.rmtree(folder)
    thread.join()
    assert failed == []


def test_what_a_request_has_just_made_stays_however_full_the_folder_is(store):
    store.max_bytes = 1
    with store.request():
        for _ in range(50):
            folder = store.new_folder()
            store.sweep()
            assert folder.exists()


def test_a_zip_holds_files_by_their_names(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    path = write_zip([tmp_path / "a.png", str(tmp_path / "b.png")], tmp_path / "all.zip")
    with zipfile.ZipFile(path) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {"a.png": b"a.png", "b.png": b"b.png"}


def test_the_number_of_entries_is_bounded_as_well(tmp_path):
    """Empty ones take no byte of what is counted, and yet a place in the file system each."""
    store = FileStore(tmp_path, max_bytes=10.5 * files.LEAST)
    for _ in range(30):
        store.new_folder()
    store.sweep()
    assert len([*tmp_path.iterdir()]) == 10
