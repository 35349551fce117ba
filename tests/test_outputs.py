"""Where results go: no two in one place, none in a photo's, none elsewhere, and each whole or absent."""

import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers import ROOT
from PIL import Image

from background_remover.encoding import ENCODERS, save_pixels
from background_remover.outputs import (
    PART,
    Source,
    Task,
    identity_of,
    is_done,
    is_whole,
    origin_of,
    plan,
    read_origin,
    remove_leftovers,
    whole_file,
)
from utilities import PhotoError


def sources(top: Path, *names: str) -> list[Source]:
    """The photos of these names below a folder, which are made, with their folders."""
    found = []
    for photo in (top / name for name in names):
        photo.parent.mkdir(parents=True, exist_ok=True)
        photo.write_bytes(b"a photo")
        found.append(Source(photo, photo.name, photo.parent, photo.parent.relative_to(top)))
    return found


def names(tasks: list[Task], folder: Path) -> list[str]:
    """Where the results are, within a folder."""
    return [task.result.relative_to(folder).as_posix() for task in tasks]


def picture(path: Path, mode: str = "RGB") -> Path:
    Image.effect_noise((64, 48), 90).convert(mode).save(path)
    return path


def set_times(path: Path, seconds: float) -> None:
    os.utime(path, (seconds, seconds))


# --- names ---


def test_a_result_is_beside_its_photo_or_in_a_tree_like_the_photos(tmp_path):
    photos = sources(tmp_path, "x.jpg", "a/y.jpg", "a/b/z.jpg")
    assert names(plan(photos, None, "cutout", ".png"), tmp_path) == [
        "x-cutout.png",
        "a/y-cutout.png",
        "a/b/z-cutout.png",
    ]
    out = tmp_path / "out"
    assert names(plan(photos, out, "matte", ".webp"), out) == ["x.webp", "a/y.webp", "a/b/z.webp"]


def test_results_in_the_folder_of_the_photos_are_named_as_those_beside_them(tmp_path):
    photos = sources(tmp_path / "photos", "x.png", "a/y.png")
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    for folder in (tmp_path / "photos", tmp_path / "a" / ".." / "photos", tmp_path / "link"):
        tasks = plan(photos, folder, "cutout", ".png")
        assert [task.result.name for task in tasks] == ["x-cutout.png", "y-cutout.png"]


def test_photos_that_differ_in_their_extensions_keep_them(tmp_path):
    photos = sources(tmp_path, "a/x.jpg", "a/x.png", "b/x.jpg")
    assert names(plan(photos, None, "cutout", ".png"), tmp_path) == [
        "a/x.jpg-cutout.png",
        "a/x.png-cutout.png",
        "b/x-cutout.png",
    ]


@pytest.mark.parametrize(
    "pair", [("x.jpg", "X.JPG"), ("straße.jpg", "STRASSE.jpg"), ("é.jpg", unicodedata.normalize("NFD", "é.jpg"))]
)
def test_results_differ_where_a_file_system_takes_two_names_for_one(tmp_path, pair):
    photos = [Source(tmp_path / name, name, tmp_path) for name in pair]
    results = {
        unicodedata.normalize("NFC", task.result.name).casefold()
        for task in plan(photos, tmp_path / "out", "cutout", ".png")
    }
    assert len(results) == 2


def test_photos_of_several_folders_do_not_meet_in_one(tmp_path):
    photos = [Source(tmp_path / folder / "x.jpg", "x.jpg", tmp_path / folder) for folder in "abc"]
    assert len({task.result for task in plan(photos, tmp_path / "out", "cutout", ".png")}) == 3


def test_what_meets_by_chance_meets_no_more(tmp_path):
    photos = sources(tmp_path, "x.jpg", "x.png", "x.jpg.gif", "x-cutout.gif", "x.jpg-cutout-2.gif")
    for folder in (None, tmp_path / "out"):
        results = [task.result for task in plan(photos, folder, "cutout", ".png")]
        assert len(set(results)) == len(photos)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_no_photo_is_a_result_whatever_leads_to_it(tmp_path, link):
    photos = sources(tmp_path, "x.jpg", "y.png", "y-cutout.png")
    (tmp_path / "out").mkdir()
    link(tmp_path / "x.jpg", tmp_path / "out" / "x.png")
    link(tmp_path / "x.jpg", tmp_path / "x-cutout.png")
    for folder in (None, tmp_path / "out"):
        tasks = plan(photos, folder, "cutout", ".png")
        originals = {identity_of(photo.photo) for photo in photos}
        assert not originals & {identity_of(task.result) for task in tasks}
        assert len({task.result for task in tasks}) == 3


@pytest.mark.parametrize("letter", ["x", "ü", "é", "\udcff"])
def test_the_longest_names_have_results_that_can_be_written(tmp_path, letter):
    longest = letter * ((255 - len(".jpg")) // len(os.fsencode(letter)))
    photos = sources(tmp_path, f"{longest}.jpg", f"{longest[:-1]}.jpg", f"{longest[:-2]}y.jpg")
    tasks = plan(photos, None, "cutout", ".png") + plan(photos, tmp_path / "out", "matte", ".webp")
    assert len({task.result for task in tasks}) == 6
    for task in tasks:
        with whole_file(task.result) as file:
            file.write(b"result")
        assert task.result.read_bytes() == b"result"


def test_a_photo_by_url_has_its_name_and_no_file_that_it_could_be(tmp_path):
    photo = Source("https://example.com/a/x.jpg", "x.url", Path())
    (task,) = plan([photo], tmp_path, "cutout", ".png")
    assert task.result == tmp_path / "x.png"
    picture(task.result)
    assert not is_done(task)


# --- done ---


def test_the_result_of_another_photo_or_made_otherwise_is_not_done(tmp_path):
    """One photo after another of the same name, and other options; where the file system keeps what tells them."""
    photo, result = tmp_path / "x.jpg", tmp_path / "x.png"
    photo.write_bytes(b"a photo")
    origin = origin_of(photo, "as it is")
    with whole_file(result, None, origin) as file:
        Image.new("RGBA", (2, 2)).save(file, "PNG")
    if read_origin(result) != origin:
        pytest.skip("there are no extended attributes here")
    assert is_done(Task(photo, result), origin)
    assert not is_done(Task(photo, result), origin_of(photo, "on white"))
    photo.write_bytes(b"another photo")
    os.utime(photo, (0, 0))  # which is older
    assert not is_done(Task(photo, result), origin_of(photo, "as it is"))
    assert origin_of("https://example.com/x.jpg", "") == origin_of(tmp_path / "gone.jpg", "") == ""


def test_what_is_whole_and_not_older_than_its_photo_is_done(tmp_path):
    photo, result = picture(tmp_path / "x.jpg"), picture(tmp_path / "x.png")
    for age, done in ((-1, True), (0, True), (1, False)):
        set_times(photo, 1_000_000)
        set_times(result, 1_000_000 - age)
        assert is_done(Task(photo, result)) == done
    assert not is_done(Task(tmp_path / "gone.jpg", result))
    assert not is_done(Task(photo, tmp_path / "gone.png"))


@pytest.mark.parametrize("suffix", sorted(ENCODERS))
def test_a_result_without_its_end_or_with_a_damaged_middle_is_not_whole(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    noise = np.random.default_rng(1).integers(0, 256, (200, 300, 4), np.uint8)
    save_pixels(noise[..., :3] if suffix.startswith(".j") else noise, path)
    data = path.read_bytes()
    assert is_whole(path)
    for share in (0.0, 0.01, 0.5, 0.95):
        path.write_bytes(data[: int(len(data) * share)])
        assert not is_whole(path), share
    if suffix == ".png":
        for at in (100, len(data) // 2, len(data) - 20):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            assert not is_whole(path), at


def test_a_result_of_16_bits_is_whole(tmp_path):
    noise = np.random.default_rng(1).integers(0, 65536, (200, 300, 4), np.uint16)
    for path in (tmp_path / "x.tif", tmp_path / "x.png"):
        save_pixels(noise, path)
        assert is_whole(path)
        path.write_bytes(path.read_bytes()[:-2000])
        assert not is_whole(path)


def test_what_is_no_file_is_not_done_and_nobody_waits_for_it(tmp_path):
    photo = picture(tmp_path / "x.jpg")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    for name in ("pipe.png", "folder.png", "loop.png"):
        assert not is_done(Task(photo, tmp_path / name))


# --- writing ---


def test_a_file_is_there_when_it_is_whole_and_not_before(tmp_path):
    path = tmp_path / "a" / "b" / "x.png"
    with whole_file(path, tmp_path) as file:
        file.write(b"new")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_what_was_there_stays_if_writing_fails(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"old")
    for error in (PhotoError("A photo."), KeyboardInterrupt(), SystemExit()):
        with pytest.raises(type(error)), whole_file(path) as file:  # noqa: PT012  # it is left so
            file.write(b"new")
            raise error
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_not_what_it_leads_to(tmp_path):
    photo = picture(tmp_path / "photo.png")
    before = photo.read_bytes()
    for link in (os.symlink, os.link):
        link(photo, tmp_path / "x.png")
        with whole_file(tmp_path / "x.png") as file:
            file.write(b"new")
        assert photo.read_bytes() == before
        (tmp_path / "x.png").unlink()


def test_no_link_leads_out_of_the_folder_for_results(tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "a").symlink_to(elsewhere)
    for path in (out / "a" / "x.png", out / "a" / "b" / "x.png", out / ".." / "elsewhere" / "x.png"):
        with pytest.raises(PhotoError, match=r"^A link leads .x\.png. out of the folder"), whole_file(path, out):
            pass
    assert not list(elsewhere.iterdir())
    (tmp_path / "link").symlink_to(out)  # as the folder itself may be
    with whole_file(tmp_path / "link" / "x.png", tmp_path / "link") as file:
        file.write(b"new")
    assert (out / "x.png").read_bytes() == b"new"


def test_what_can_not_be_written_says_why_in_one_sentence(tmp_path, small_disk):
    (tmp_path / "x.png").mkdir()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    for path, why in (
        (tmp_path / "x.png", "Is a directory"),
        (tmp_path / "file" / "x.png", "File exists|Not a directory"),
        (tmp_path / "loop" / "x.png", "File exists|symbolic links"),
        (small_disk / "x.png", "No space left"),
    ):
        with pytest.raises(PhotoError, match=rf"^'x.png' can't be written \(.*({why}).*\): check the folder"):
            with whole_file(path, path.parent) as file:
                file.write(bytes(100_000))
    assert not list(small_disk.iterdir())
    assert not list(tmp_path.glob(".*"))


def test_a_tiff_of_16_bits_can_be_written_to_it(tmp_path):
    noise = np.random.default_rng(1).integers(0, 65536, (20, 30, 4), np.uint16)
    with whole_file(tmp_path / "x.tif") as file:
        save_pixels(noise, file, suffix=".tif")
    assert np.array_equal(tifffile.imread(tmp_path / "x.tif"), noise)


# --- leftovers ---


def test_what_a_killed_run_left_goes_and_all_else_stays(tmp_path):
    left = tmp_path / PART.format("0123456789abcdef")
    others = [".cutout-notes.part", "x.part", ".cutout-0123456789abcdef.part.jpg", ".cutout-0123456789abcdef0.part"]
    for name in (left.name, *others):
        (tmp_path / name).write_bytes(b"half")
    remove_leftovers([tmp_path, tmp_path / "gone"])
    assert {path.name for path in tmp_path.iterdir()} == {*others}


def test_what_another_run_is_writing_stays(tmp_path):
    code = (
        "import sys; from pathlib import Path; from background_remover.outputs import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as file: file.write(b'new'); print(flush=True); input()"
    )
    path = tmp_path / "x.png"
    with subprocess.Popen(
        [sys.executable, "-c", code, path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"\n"
        (part,) = tmp_path.iterdir()
        remove_leftovers([tmp_path])
        assert part.exists()
        process.communicate(b"\n", timeout=20)
    assert path.read_bytes() == b"new"
    with subprocess.Popen(
        [sys.executable, "-c", code, path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"\n"
        process.kill()
    assert len(list(tmp_path.iterdir())) == 2
    remove_leftovers([tmp_path])
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"new"


def test_nobody_waits_for_a_leftover_that_is_a_pipe(tmp_path):
    os.mkfifo(tmp_path / PART.format("0123456789abcdef"))
    remove_leftovers([tmp_path])


def test_names_that_lead_elsewhere_are_names_of_files(tmp_path):
    photos = [
        Source(tmp_path / name, name, tmp_path) for name in ("..jpg", "...jpg", "C:\\x.jpg", "a\nb.jpg", "-x.jpg")
    ]
    for task in plan(photos, tmp_path / "out", "cutout", ".png"):
        with whole_file(task.result, tmp_path / "out") as file:
            file.write(b"new")
    assert len(list((tmp_path / "out").iterdir())) == len(photos)
