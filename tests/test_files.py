"""Where uploads and results lie, and for how long."""

import os
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


def test_new_files_are_named_after_the_upload_in_folders_that_nobody_can_guess(store):
    paths = [Path(store.new_file("/x/y/cat 1.JPG", "cutout", ".webp")) for _ in range(50)]
    assert {path.name for path in paths} == {"cat-1-cutout.webp"}
    assert len({path.parent for path in paths}) == 50
    assert min(len(path.parent.name) for path in paths) >= 20
    assert Path(store.new_file(b"data", "matte")).name == "photo-matte.png"
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
        made = put(store, "made.png")
        time.sleep(0.5)
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
    with store.request(str(first)):  # in use, and so the last to go
        assert left(store) == {"0.png", "5.png", "6.png", "7.png"}
        for number in range(8, 20):
            put(store, f"{number}.png", 100_000)
        store.sweep()
        assert len(left(store)) == 13, "what a request makes stays until the next one"
    with store.request():
        assert left(store) == {"16.png", "17.png", "18.png", "19.png"}


def test_the_folder_never_passes_its_cap_by_more_than_one_requests_files(store):
    store.max_bytes = 1_000_000
    for _ in range(60):
        with store.request():
            for number in range(3):
                put(store, f"{number}.png", 90_000)
        size = sum(path.stat().st_size for path in store.folder.rglob("*"))
        assert size <= 1_000_000 + 3 * 90_000 + 3 * 4096


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
    folder = files.choose_folder()
    assert folder == tmp_path / files.NAME
    assert os.environ["GRADIO_TEMP_DIR"] == str(folder)
    assert files.choose_folder() == folder


def test_a_zip_holds_files_by_their_names(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    path = write_zip([tmp_path / "a.png", str(tmp_path / "b.png")], tmp_path / "all.zip")
    with zipfile.ZipFile(path) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {"a.png": b"a.png", "b.png": b"b.png"}
