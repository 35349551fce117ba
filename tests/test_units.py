"""Units of photos: all of them, each once, with their bytes or the reason why there are none."""

import os

import pyarrow as pa
from pyarrow import parquet

from background_remover import units
from background_remover.catalogue import Columns, read_catalogue


def test_units_have_all_photos_once_and_bytes_of_parquet_within_bounds(tmp_path, monkeypatch):
    data = [bytes([number]) * (40 if number % 7 else 4000) for number in range(100)]
    table = pa.table({"id": [f"p{number}" for number in range(100)], "image": pa.array(data, pa.binary())})
    for name, part in (("a", table.slice(0, 60)), ("b", table.slice(60))):
        parquet.write_table(part, tmp_path / f"{name}.parquet", row_group_size=25)
    photos = read_catalogue(str(tmp_path), str(tmp_path / "out"))
    pending = photos.filter(pa.array([number % 3 != 1 for number in range(100)]))
    monkeypatch.setattr(units, "UNIT_BYTES", 5000)
    jobs, most = [], 0
    for task in units.Units(pending, ".png", Columns()).get_read_tasks():
        for unit in task():
            (listed,) = unit["jobs"].to_pylist()
            assert 0 < len(listed) <= units.UNIT
            most = max(most, sum(len(job["data"]) for job in listed))
            jobs += listed
    assert {job["id"]: job["data"] for job in jobs} == {
        f"p{number}": data[number] for number in range(100) if number % 3 != 1
    }
    assert len(jobs) == len(pending)
    assert most <= 5000 + 4000


def test_where_parquet_is_damaged_its_photos_have_a_reason_and_others_are_there(tmp_path):
    path = tmp_path / "photos.parquet"
    pictures = [os.urandom(3000) for _ in range(40)]
    table = pa.table({"id": [f"p{number:02}" for number in range(40)], "image": pictures})
    parquet.write_table(table, path, row_group_size=20, compression="none", use_dictionary=False)
    photos = read_catalogue(str(path), str(tmp_path / "out"))
    data = bytearray(path.read_bytes())
    start = parquet.ParquetFile(path).metadata.row_group(1).column(1).data_page_offset
    data[start : start + 60] = b"\xff" * 60
    path.write_bytes(data)
    found = [task() for task in units.Units(photos, ".png", Columns()).get_read_tasks()]
    jobs = [job for task in found for unit in task for job in unit["jobs"].to_pylist()[0]]
    assert sorted(job["id"] for job in jobs) == table["id"].to_pylist()
    for job in jobs:
        number = int(job["id"][1:])
        assert job["data"] == (pictures[number] if number < 20 else None)
        assert ("'photos.parquet' can't be read" in (job["reason"] or "")) == (number >= 20)
