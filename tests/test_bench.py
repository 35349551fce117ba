"""What the process in which photos of a catalogue are cut out says of each, and what it finds made already."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import standins
from helpers import encoded
from PIL import Image
from standins import job, photo, result

from background_remover import bench, weights
from background_remover.cutout import Finish
from background_remover.cutters import Cutter, Order, WorkerError
from background_remover.downloads import WeightsError
from background_remover.outputs import ORIGIN
from background_remover.pipeline import NOTHING_FOUND

pytestmark = pytest.mark.slow


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Cutter]]:
    """Starts cutters, with a network that copies, and a folder for results."""
    started = []

    def start(load: Callable = standins.copying, **order: object) -> Cutter:
        given = {"finish": Finish(), "load": load, "results": str(tmp_path / "results"), "way": "w"}
        started.append(Cutter(Order(**given | order)))
        return started[-1]

    yield start
    for cutter in started:
        cutter.close()


@pytest.fixture
def keeps_attributes(tmp_path) -> None:
    (tmp_path / "probe").touch()
    try:
        os.setxattr(tmp_path / "probe", ORIGIN, b"")
    except (AttributeError, OSError):
        pytest.skip("needs a file system with extended attributes")


def test_each_kind_of_photo_has_its_status_its_reason_and_its_size(start, bad_files, tmp_path):
    blank = encoded(Image.new("L", (30, 20), 9), "PNG")
    (tmp_path / "bytes").write_bytes(b"before" + photo(3) + b"behind")
    made = start().cut(
        [
            job(0),
            job(1, data=blank),
            job(2, data=b""),
            *(job(7, id=name, data=None, source=str(path)) for name, path in bad_files.items()),
            job(3, data=None, source=str(tmp_path / "bytes"), offset=6, size=len(photo(3))),
            job(4, data=None, source=str(tmp_path / "gone.png")),
            job(5, data=None, source=str(tmp_path)),
            job(6, data=None, source=f"nonsense://{tmp_path}"),
        ]
    )
    rows = {row["id"]: row for row, _ in made}
    assert [data for _, data in made] == [b""] * len(made)
    statuses = {name: row["status"] for name, row in rows.items()}
    assert statuses == {"0": "done", "1": "no subject", "2": "refused", "3": "done"} | dict.fromkeys(
        bad_files, "refused"
    ) | dict.fromkeys("456", "failed")
    assert rows["0"]["reason"] is None
    assert rows["1"]["reason"] == NOTHING_FOUND
    assert "empty" in rows["2"]["reason"]
    assert "There is no file 'gone.png'" in rows["4"]["reason"]
    for name, row in rows.items():
        if name in "013":
            file = (tmp_path / "results" / row["output"]).read_bytes()
            assert (row["output_bytes"], row["sha256"]) == (len(file), hashlib.sha256(file).hexdigest())
        else:
            assert row["reason"].endswith((".", "."))
            assert (row["output"], row["output_bytes"], row["sha256"]) == (None, None, None)
    assert (rows["0"]["width"], rows["0"]["height"]) == (24, 16)
    assert (rows["1"]["width"], rows["1"]["height"]) == (30, 20)
    assert {row["weights"] for row in rows.values()} == {"stand-in"}
    assert (tmp_path / "results" / rows["3"]["output"]).read_bytes() == result(photo(3))


def test_a_reason_is_text_and_no_longer_than_a_manifest_should_hold():
    assert bench._short("'\udcff.png' is ünusual.") == "'?.png' is ünusual."
    assert len(bench._short("é" * 5000)) == bench.LONGEST_SENTENCE


# --- what was made before ---


def identities(made: list[tuple[dict, bytes]], folder: Path) -> list[int]:
    return [(folder / row["output"]).stat().st_mtime_ns for row, _ in made]


TOLD = ("id", "status", "reason", "source", "output", "width", "height", "output_bytes", "sha256", "version", "way")


def test_results_of_a_run_that_was_killed_before_it_told_of_them_are_not_made_again(start, tmp_path, keeps_attributes):
    jobs = [job(0), job(1), job(2, data=encoded(Image.new("L", (30, 20), 9), "PNG"))]
    first = start().cut(jobs)
    before = identities(first, tmp_path / "results")
    second = start().cut(jobs)
    assert identities(second, tmp_path / "results") == before
    for (then, _), (now, _) in zip(first, second, strict=True):
        assert {name: now[name] for name in TOLD} == {name: then[name] for name in TOLD}
        assert now["network_seconds"] is None
    assert [row["status"] for row, _ in second] == ["done", "done", "no subject"]


@pytest.mark.parametrize(
    ("change", "way"),
    [({"version": "2-2"}, "w"), ({"id": "other"}, "w"), ({}, "other"), ({"version": ""}, "w")],
    ids=["another version", "another photo", "another way", "no version"],
)
def test_those_of_another_photo_or_another_way_are_made_again(start, tmp_path, keeps_attributes, change, way):
    first = start().cut([job(0)])
    before = identities(first, tmp_path / "results")
    second = start(way=way).cut([job(0, **change)])
    assert identities(second, tmp_path / "results") != before
    assert second[0][0]["network_seconds"] is not None


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_one_that_is_cut_off_is_made_again(start, tmp_path, keeps_attributes, suffix):
    finish = Finish(format=suffix)
    cutter = start(finish=finish)
    one = job(0, output=f"0.{suffix}")
    cutter.cut([one])
    path = tmp_path / "results" / one.output
    whole = path.read_bytes()
    os.truncate(path, len(whole) - 40)
    ((row, _),) = cutter.cut([one])
    assert row["status"] == "done"
    assert path.read_bytes() == whole == result(one.data, finish=finish)


def test_where_a_file_system_keeps_no_attributes_all_are_made(start, tmp_path):
    for _ in range(2):
        ((row, _),) = start(standins.without_attributes).cut([job(0)])
        assert row["status"] == "done"
        assert row["network_seconds"] is not None
        assert (tmp_path / "results" / "0.png").read_bytes() == result(photo(0))


# --- what is in the way ---


def test_a_full_disk_is_no_photos_fault_and_ends_the_work(start, small_disk):
    cutter = start(results=str(small_disk))
    noise = [job(number, data=photo(number, size=(90, 90))) for number in range(20)]
    with pytest.raises(WorkerError, match=r"can't be written \(No space left on device\)"):
        cutter.cut(noise)
    written = sorted(path.name for path in small_disk.rglob("[!.]*"))  # parts of files are hidden, and no results
    assert 0 < len(written) < 20
    for name in written:
        assert (small_disk / name).read_bytes() == result(noise[int(name.partition(".")[0])].data)


def test_a_link_out_of_the_folder_for_results_fails_that_photo_alone(start, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "in").symlink_to(tmp_path / "elsewhere")
    made = start().cut([job(0, output="in/0.png"), job(1), job(2, output=f"{'x' * 300}.png")])
    assert [row["status"] for row, _ in made] == ["failed", "done", "failed"]
    assert "link" in made[0][0]["reason"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_other_weights_than_those_that_were_meant_are_refused():
    with pytest.raises(WeightsError, match="differ from machine to machine"):
        bench.load(Order(Finish(), weights=weights.ISNET, sha256="0" * 64))
    sha256 = weights.load(weights.ISNET).sha256
    assert bench.load(Order(Finish(), weights=weights.ISNET, sha256=sha256)).weights.sha256 == sha256
