"""The manifest: the newest row for each photo, whatever ends a run, and one file of all that says the same."""

import csv
import hashlib
import io
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from helpers import ROOT
from pyarrow import parquet

from background_remover import manifest as module
from background_remover import storage
from background_remover.manifest import HIDDEN, MANY, SCHEMA, STATE, STATUSES, Manifest
from utilities import PhotoError

COLUMNS = SCHEMA.names


@pytest.fixture(params=["disk", "bucket"])
def results(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder for results on a disk and in a bucket."""
    if request.param == "disk":
        return str(tmp_path / "out")
    bucket = request.getfixturevalue("bucket")
    return f"{bucket.name}/out"


def row(key: str, status: str = "done", **more: Any) -> dict[str, Any]:
    """A row in which each column has something of its own."""
    digest = hashlib.sha256(repr((key, status, more)).encode()).hexdigest()
    numbers = {"width": len(key), "height": 3, "output_bytes": 1 << 40, "seconds": 0.5, "open_seconds": 0.25}
    texts = {"source": f"/photos/{key}.jpg", "output": f"{key}.png", "sha256": digest, "version": "5-7", "way": "w"}
    return dict.fromkeys(COLUMNS) | texts | numbers | {"id": key, "status": status} | more


def add(results: str, *rows: dict[str, Any]) -> Manifest:
    """A run that writes some rows as a part, and is killed."""
    manifest = Manifest(results)
    manifest.add(list(rows))
    manifest.flush()
    return manifest


def rows_of(manifest: Manifest, *columns: str) -> list[dict[str, Any]]:
    return sorted(manifest.read(*(columns or COLUMNS)).to_pylist(), key=repr)


def parts(results: str) -> list[str]:
    return storage.names_in(f"{results}/{HIDDEN}")


def merged(results: str) -> list[dict[str, Any]]:
    with storage.open_file(f"{results}/manifest.parquet") as file:
        return sorted(parquet.read_table(file).to_pylist(), key=lambda row: row["id"])


def expected(*rows: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted({row["id"]: row for row in rows}.values(), key=repr)


def sentence(work: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(PhotoError) as caught:
        work(*arguments)
    told = str(caught.value)
    assert "\n" not in told
    assert told.endswith(".")
    return told


def test_a_manifest_of_nothing_is_empty(results):
    manifest = Manifest(results)
    assert manifest.read(*STATE).num_rows == 0
    assert manifest.read(*STATE).schema == pa.schema([SCHEMA.field(name) for name in STATE])
    manifest.flush()
    manifest.merge()
    assert manifest.count(pa.chunked_array([["a", "b"]], pa.string()), "w") == dict.fromkeys(STATUSES, 0) | {
        "missing": 2
    }
    assert manifest.count(pa.chunked_array([], pa.string()), "w") == dict.fromkeys((*STATUSES, "missing"), 0)
    assert parts(results) == []
    manifest.write_csv()
    assert storage.read(manifest.csv).decode().splitlines() == [",".join(f'"{name}"' for name in COLUMNS)]


def test_rows_come_back_as_they_were(results):
    rows = [row("a"), row("b", "failed", output=None, reason='Why, "so":\nü.'), row("", "refused", source=None)]
    manifest = add(results, *rows)
    assert rows_of(manifest) == expected(*rows)
    assert rows_of(Manifest(results)) == expected(*rows)
    manifest.merge()
    assert rows_of(manifest) == rows_of(Manifest(results)) == expected(*rows)
    assert merged(results) == sorted(rows, key=lambda row: row["id"])
    assert rows_of(manifest, "status") == [{"status": "done"}, {"status": "failed"}, {"status": "refused"}]


def test_the_newest_row_counts_wherever_it_lies(results):
    old, new, newest = (row("a", reason=word) for word in ("old", "new", "newest"))
    others = [row("b", reason="one"), row("c")]
    add(results, old, *others).merge()
    assert rows_of(add(results, new, new | {"reason": "twice"}, new)) == expected(*others, new)
    add(results, newest)
    assert rows_of(Manifest(results)) == expected(*others, newest)
    manifest = Manifest(results)
    manifest.merge()
    assert parts(results) == []
    assert merged(results) == sorted([newest, *others], key=lambda row: row["id"])
    assert rows_of(manifest, "id", "reason") == [
        {"id": r["id"], "reason": r["reason"]} for r in expected(newest, *others)
    ]


def test_rows_are_written_when_there_are_many_or_some_time_has_gone(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    manifest = Manifest(str(tmp_path))
    manifest.add([row("a")])
    assert parts(str(tmp_path)) == []
    clock[0] = 2.1
    manifest.add([])
    assert len(parts(str(tmp_path))) == 1
    manifest.add([row(str(number)) for number in range(module.MOST)])
    assert len(parts(str(tmp_path))) == 2
    manifest.flush()
    assert len(parts(str(tmp_path))) == 2


def test_many_parts_become_few_and_no_row_is_lost(results, monkeypatch):
    monkeypatch.setattr(module, "MANY", 7)
    draw = random.Random(5)
    manifest, rows = Manifest(results), []
    for number in range(40):
        new = [row(f"p{draw.randrange(40)}", reason=str(number)) for _ in range(3)]
        manifest.add(new)
        manifest.flush()
        rows += new
        assert len(parts(results)) <= number // 8 + 8
        if number % 13 == 0:  # a run that goes on
            manifest = Manifest(results)
            assert rows_of(manifest) == expected(*rows)
    assert rows_of(manifest) == expected(*rows)
    manifest.merge()
    assert parts(results) == []
    assert [r["reason"] for r in merged(results)] == [
        r["reason"] for r in sorted(expected(*rows), key=lambda r: r["id"])
    ]


def test_each_row_is_written_a_few_times_however_many_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MANY", 5)
    manifest, written = Manifest(str(tmp_path)), []
    write = Manifest._write

    def counting(self: Manifest, name: str, tables: Iterator[pa.Table]) -> None:
        tables = list(tables)
        written.append(sum(map(len, tables)))
        write(self, name, iter(tables))

    monkeypatch.setattr(Manifest, "_write", counting)
    for number in range(120):
        manifest.add([row(str(number))])
        manifest.flush()
    manifest.merge()
    assert sum(written) <= 3 * 120
    assert len(merged(str(tmp_path))) == 120


def test_a_clock_that_is_put_back_changes_no_order(results, monkeypatch):
    add(results, row("a", reason="first"))
    monkeypatch.setattr(time, "time_ns", lambda: 5)
    for reason in ("second", "third"):
        manifest = add(results, row("a", reason=reason))
    manifest.add([row("a", reason="last")])
    manifest.flush()
    assert rows_of(Manifest(results), "reason") == [{"reason": "last"}]
    assert len(parts(results)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("many", [3, MANY])
def test_an_end_between_any_two_steps_loses_and_changes_nothing(results, monkeypatch, many):
    """Each write and each deletion is once the last thing that a run does."""
    first = [row(f"p{number}", reason="first") for number in range(4)]
    second = [row("p1", reason="second"), row("p9", reason="second")]
    third = [row("p1", reason="third")]
    steps, left = 0, 0

    def ending(deed: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return deed(*arguments, **options)

        return run

    writing, remove = storage.writing, storage.remove
    while True:
        for name in parts(results):
            remove(f"{results}/{HIDDEN}/{name}")
        add(results, *first).merge()
        monkeypatch.setattr(module, "MANY", many)
        monkeypatch.setattr(storage, "writing", ending(writing))
        monkeypatch.setattr(storage, "remove", ending(remove))
        left, told = steps, list(first)
        manifest = Manifest(results)
        try:
            for rows in (second, [row("p8")], third, [row("p7")]):
                manifest.add(rows)
                manifest.flush()
                told += rows
            manifest.merge()
        except KeyboardInterrupt:
            assert left < 0
        monkeypatch.setattr(storage, "writing", writing)
        monkeypatch.setattr(storage, "remove", remove)
        after = Manifest(results)
        found = rows_of(after)
        assert all(row in found for row in expected(*told))
        after.merge()
        assert rows_of(after) == found
        assert parts(results) == []
        if left >= 0:
            break
        steps += 1
    assert steps >= 9


@pytest.mark.slow
def test_a_kill_at_any_time_leaves_what_was_told(tmp_path):
    code = f"""import itertools
from background_remover import manifest as module
module.MANY = 3
manifest = module.Manifest({str(tmp_path)!r})
for number in itertools.count():
    manifest.add([dict.fromkeys(module.SCHEMA.names) | {{"id": str(number), "status": "done"}}])
    manifest.flush()
    print(number, flush=True)
    if number % 10 == 9:
        manifest.merge()"""
    for seconds in (0.05, 0.1, 0.2):
        command = [sys.executable, "-c", code]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        told = process.stdout.read().split()
        process.wait()
        process.stdout.close()
        ids = Manifest(str(tmp_path)).read("id")["id"].to_pylist()
        assert {"0", *told} <= set(ids)
        assert len(ids) == len(set(ids))


def test_a_write_that_fails_keeps_the_rows_for_the_next(tmp_path, monkeypatch):
    manifest = Manifest(str(tmp_path))
    manifest.add([row("a")])
    with monkeypatch.context() as patch:
        patch.setattr(storage, "writing", lambda *_: (_ for _ in ()).throw(PhotoError("Full.")))
        with pytest.raises(PhotoError, match="Full"):
            manifest.flush()
    manifest.flush()
    with monkeypatch.context() as patch:
        patch.setattr(storage, "writing", lambda *_: (_ for _ in ()).throw(PhotoError("Full.")))
        with pytest.raises(PhotoError, match="Full"):
            manifest.merge()
    assert rows_of(manifest) == [row("a")]
    manifest.merge()
    assert merged(str(tmp_path)) == [row("a")]


def test_photos_are_counted_each_once_and_others_not(results):
    rows = [row(f"{status} {number}", status) for status in STATUSES for number in range(3)]
    manifest = add(results, *rows, row("done 0", "failed"), row("elsewhere"))
    ids = pa.chunked_array([[row["id"] for row in rows], ["new", "newer"]], pa.string())
    counts = {"done": 2, "no subject": 3, "refused": 3, "failed": 4, "missing": 2}
    assert manifest.count(ids, "w") == counts
    manifest.merge()
    assert manifest.count(ids, "w") == counts
    assert manifest.count(ids, "another way")["missing"] == len(ids)
    assert manifest.count(ids.slice(0, 1), "w") == dict.fromkeys(counts, 0) | {"failed": 1}


def test_the_csv_says_what_the_parquet_says(results):
    odd = ['a "quoted", one', "two\nlines\r\n", "ü — 漢字 🦊", "=1+1", "'", ",", " x ", "NULL", "\t"]
    rows = [row(key, reason=None if number % 2 else key) for number, key in enumerate(odd)]
    manifest = add(results, *rows)
    manifest.merge()
    manifest.write_csv()
    text = storage.read(manifest.csv).decode()
    found = list(csv.DictReader(io.StringIO(text, newline="")))
    truth = Manifest(results).read(*COLUMNS).to_pylist()
    assert len(found) == len(truth) == len(odd)
    for told, true in zip(found, truth, strict=False):
        assert list(told) == COLUMNS
        assert {name: "" if value is None else str(value) for name, value in true.items()} == {
            name: str(float(value)) if "seconds" in name and value else value for name, value in told.items()
        }


@pytest.mark.parametrize("data", [b"", b"PAR1", b"nothing" * 100, None])
def test_a_part_that_is_damaged_is_named(tmp_path, data):
    manifest = add(str(tmp_path), row("a"), row("b"))
    (name,) = parts(str(tmp_path))
    part = tmp_path / HIDDEN / name
    part.write_bytes(part.read_bytes()[:-20] if data is None else data)
    manifest = Manifest(str(tmp_path))
    for work in (lambda: manifest.read("id"), manifest.merge, lambda: manifest.count(pa.chunked_array([["a"]]), "w")):
        told = sentence(work)
        assert told.startswith(f"'{HIDDEN}/{name}' can't be read: try again")
    assert part.exists()
    part.unlink()
    assert rows_of(Manifest(str(tmp_path))) == []


def test_a_merged_file_that_is_damaged_or_another_one_is_named(tmp_path):
    add(str(tmp_path), row("a")).merge()
    for data in (b"PAR1", None):
        path = tmp_path / "manifest.parquet"
        path.unlink()
        parquet.write_table(pa.table({"id": ["a"], "other": [1]}), path) if data is None else path.write_bytes(data)
        told = sentence(Manifest(str(tmp_path)).read, *STATE)
        assert f"'{tmp_path.name}/manifest.parquet' can't be read" in told
        assert str(tmp_path) not in told


def test_results_that_are_a_file_are_told(tmp_path):
    (tmp_path / "out").write_bytes(b"x")
    assert sentence(Manifest, f"{tmp_path}/out/") == "'out' is a file: give a folder for results."


def test_nothing_is_written_through_links(tmp_path):
    (tmp_path / "away").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / HIDDEN).symlink_to(tmp_path / "away")
    manifest = Manifest(f"{tmp_path}/out")
    manifest.add([row("a")])
    assert "link" in sentence(manifest.flush)
    assert list((tmp_path / "away").iterdir()) == []


def test_the_merged_file_is_replaced_whole(tmp_path, monkeypatch):
    add(str(tmp_path), row("a")).merge()
    before = (tmp_path / "manifest.parquet").stat()
    add(str(tmp_path), row("b")).merge()
    assert (tmp_path / "manifest.parquet").stat().st_ino != before.st_ino  # never the same file written over
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.parquet", HIDDEN}


def test_a_prefix_is_that_of_both_files(results):
    manifest = Manifest(results, "_")
    manifest.add([row("a")])
    manifest.flush()
    manifest.merge()
    manifest.write_csv()
    assert storage.names_in(results) == ["_manifest.csv", "_manifest.parquet"]


def test_the_time_to_read_and_merge_grows_with_the_rows_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GROUP", 1000)
    seconds = []
    for count in (20_000, 80_000):
        folder = str(tmp_path / str(count))
        ids = pa.array([f"photos/{number:08}.jpg" for number in range(count)])
        columns = {name: pa.nulls(count, SCHEMA.field(name).type) for name in COLUMNS} | {"id": ids}
        table = pa.table(columns, SCHEMA)
        manifest = Manifest(folder)
        manifest._write(manifest.path, iter(table.slice(start, 1000) for start in range(0, count, 1000)))
        for number in range(count // 1000):
            name = f"{number:020}.parquet"
            manifest._write(f"{folder}/{HIDDEN}/{name}", iter([table.slice(number * 1000, 500)]))
        start = time.perf_counter()
        manifest = Manifest(folder)
        assert manifest.read(*STATE).num_rows == count
        manifest.merge()
        seconds.append(time.perf_counter() - start)
        assert pc.count_distinct(manifest.read("id")["id"]).as_py() == count
    assert seconds[1] < 10 * seconds[0] + 0.5


def test_the_schema_is_one_that_json_can_carry():
    assert json.loads(json.dumps(row("a"))) == row("a")
    assert HIDDEN.startswith(".")  # so that no listing takes what is in there for photos
