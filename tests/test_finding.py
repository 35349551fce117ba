"""Which photos are meant: those of folders and patterns, once each, no results, and only those that have come whole."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from background_remover.finding import EXTENSIONS, SETTLED, Settled, find
from background_remover.outputs import whole_file
from background_remover.photos import FORMATS
from utilities import PhotoError


def fill(folder: Path, *names: str) -> list[Path]:
    """Files of these names, in folders that are made."""
    for path in (paths := [folder / name for name in names]):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a photo")
    return paths


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder of a user for whom rights count, as this process is meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        if root := os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            if root:
                os.seteuid(0)


def test_a_folder_has_photos_in_all_formats_that_open():
    extensions = {extension for extension, name in Image.registered_extensions().items() if name in FORMATS}
    assert extensions - {".mpo", ".heics", ".heifs", ".avifs"} <= EXTENSIONS


def test_photos_of_folders_are_found_but_no_hidden_ones_and_no_results(tmp_path):
    fill(tmp_path, "x.jpg", "a/B.PNG", "a/b/c.heic", "ä.webp", "dog-cutout.jpg")
    fill(tmp_path, ".x.jpg", ".git/x.jpg", "x.txt", "x-cutout.png", "x-matte-2.webp", "x.jpg-cutout.png", "out/y.png")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    found = {source.photo.relative_to(tmp_path).as_posix() for source in find([str(tmp_path)], tmp_path / "out")}
    assert found == {"x.jpg", "a/B.PNG", "a/b/c.heic", "ä.webp", "dog-cutout.jpg"}


def test_results_with_the_longest_names_are_no_photos(tmp_path):
    for letter in ("x", "ü"):
        longest = letter * (251 // len(letter.encode()))
        end = "-cutout.png"
        result = longest[: (255 - len(end)) // len(letter.encode())] + end
        fill(tmp_path, f"{longest}.jpg", result)
        assert [source.name for source in find([str(tmp_path)], None)] == [f"{longest}.jpg"]
        shutil.rmtree(tmp_path)


def test_a_photo_that_is_named_twice_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, "a/x.jpg", "a/y.jpg")
    Path("link").symlink_to("a")
    found = find(["a", "a/x.jpg", "./a/x.jpg", "link/x.jpg", "link/../a/x.jpg", "a/*.jpg", str(tmp_path / "a")], None)
    assert [source.photo.as_posix() for source in found] == ["a/x.jpg", "a/y.jpg"]


def test_names_that_are_patterns_and_files_mean_the_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, "x[1].jpg", "x1.jpg", "sub/x2.jpg")
    for name, found in {
        "x[1].jpg": ["x[1].jpg"],
        "x[12].jpg": ["x1.jpg"],
        "**/x*.jpg": ["sub/x2.jpg", "x1.jpg", "x[1].jpg"],
        "*.gif": ["*.gif"],
        "x" * 5000: ["x" * 5000],
        "": ["."],  # and not what is in the folder
    }.items():
        assert [source.photo.as_posix() for source in find([name], None)] == found


def test_a_folder_that_may_not_be_read_has_its_reason(nobody):
    fill(nobody, "x.jpg", "secret/y.jpg")
    (nobody / "secret").chmod(0)
    assert [source.name for source in find([str(nobody)], None)] == ["x.jpg", "secret"]
    assert [source.name for source in find([str(nobody / "secret" / "y.jpg")], None)] == ["y.jpg"]
    (nobody / "secret").chmod(0o700)
    nobody.chmod(0o500)
    with pytest.raises(PhotoError, match="Permission denied"), whole_file(nobody / "x.png"):
        pass
    nobody.chmod(0o700)


def test_a_file_has_come_whole_when_it_rests_and_nobody_writes_to_it(tmp_path, monkeypatch):
    (photo,) = fill(tmp_path, "x.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    settled = Settled()
    assert settled.state_of(photo) is settled.state_of(tmp_path / "pipe.jpg") is None
    clock[0] += SETTLED - 0.01
    assert settled.state_of(photo) is None
    with photo.open("ab") as file:
        clock[0] += 1
        assert settled.state_of(photo) is None or sys.platform != "linux"
        file.write(b"more")
    assert settled.state_of(photo) is None
    clock[0] += SETTLED
    assert settled.state_of(photo)
    assert settled.state_of(tmp_path / "pipe.jpg") is settled.state_of(tmp_path / "gone.jpg") is None
