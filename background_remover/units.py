"""The photos of a catalogue as Ray carries them: a few at a time, with their bytes if they lie in Parquet."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from background_remover import storage
from background_remover.catalogue import Columns, choose_picture
from background_remover.cutters import Job
from background_remover.photos import MAX_BYTES
from utilities import PhotoError

UNIT = 16  # photos that an actor is given at once: what a lost one costs at most, twice over
UNIT_BYTES = 32 << 20  # of photos that lie in Parquet, from which a unit has no more
READ_BYTES = 1 << 20  # of Parquet at once
SLICE = 4096  # photos of which one task makes units
JOB = pa.struct(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("version", pa.string()),
        ("output", pa.string()),
        ("data", pa.large_binary()),
        ("reason", pa.string()),
    ]
)


class Units(Datasource):
    """The photos that are to be done as rows that are units: a list of UNIT jobs at most."""

    def __init__(self, pending: pa.Table, suffix: str, columns: Columns) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._pending, self._suffix, self._columns = pending, suffix, columns

    def get_name(self) -> str:
        """For Ray's own displays."""
        return "Catalogue"

    def estimate_inmemory_data_size(self) -> int | None:
        """Nobody knows, and nobody needs to."""
        return None

    def get_read_tasks(self, *_: Any, **__: Any) -> list[ReadTask]:
        """Tasks that make units, each out of SLICE photos; where these lie in Parquet, of one group of its rows."""
        tasks = []
        for start, count in slices(self._pending):
            make = partial(_units, _packed(self._pending.slice(start, count)), self._suffix, self._columns)
            about = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            tasks.append(ReadTask(make, about))
        return tasks


def slices(pending: pa.Table) -> Iterator[tuple[int, int]]:
    """Where slices begin, and how many photos they have: SLICE at most, and of one group of rows in Parquet."""
    place = pending.select(["source", "group"]).combine_chunks()
    in_rows = pc.greater_equal(place["group"], 0)
    new = pc.or_(
        pc.not_equal(place["source"].slice(1), place["source"].slice(0, max(0, len(place) - 1))),
        pc.not_equal(place["group"].slice(1), place["group"].slice(0, max(0, len(place) - 1))),
    )
    new = pc.and_(new, in_rows.slice(1)) if len(place) > 1 else pa.chunked_array([pa.array([], pa.bool_())])
    starts = [0, *(index + 1 for index in pc.indices_nonzero(new).to_pylist()), len(pending)]
    for first, end in itertools.pairwise(starts):
        for start in range(first, end, SLICE):
            yield start, min(SLICE, end - start)


def _units(packed: bytes, suffix: str, columns: Columns) -> Iterator[pa.Table]:
    """The photos of a slice as units, with their bytes where they lie in Parquet."""
    rows = pa.ipc.open_stream(packed).read_all().to_pylist()
    jobs = [
        Job(row["id"], row["source"], row["offset"], row["size"], row["version"], row["name"] + suffix) for row in rows
    ]
    if rows and rows[0]["group"] >= 0:
        yield from map(_unit, _with_bytes(jobs, rows[0]["group"], columns))
        return
    for start in range(0, len(jobs), UNIT):
        yield _unit(jobs[start : start + UNIT])


def sample(pending: pa.Table, count: int, columns: Columns | None = None) -> list[Job]:
    """So many jobs, or all, spread over a catalogue, with their bytes. Raises PhotoError."""
    step = max(1.0, len(pending) / count)
    rows = [int(number * step) for number in range(min(count, len(pending)))]
    jobs: list[Job] = []
    for row in rows:
        packed = _packed(pending.slice(row, 1))
        jobs += [Job(**job) for unit in _units(packed, "", columns or Columns()) for job in unit["jobs"].to_pylist()[0]]
    return jobs


def _packed(table: pa.Table) -> bytes:
    """A table, or a slice of one, alone, as bytes."""
    part = pa.BufferOutputStream()
    with pa.ipc.new_stream(part, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
        stream.write_table(table)
    return bytes(part.getvalue())


def _unit(jobs: list[Job]) -> pa.Table:
    return pa.table({"jobs": pa.array([[job._asdict() for job in jobs]], pa.list_(JOB))})


def _with_bytes(jobs: list[Job], group: int, columns: Columns) -> Iterator[list[Job]]:
    """The jobs of one group of rows with their bytes, UNIT or some UNIT_BYTES of them at a time.

    Those whose bytes can't be had come last, with the reason.
    """
    wanted = {job.offset: job for job in jobs}
    unit: list[Job] = []
    try:
        for row, picture in _pictures(jobs[0].source, group, columns):
            if job := wanted.pop(row, None):
                # none is told as an empty file, and one that is too large need not be carried to its end
                unit.append(job._replace(data=(picture or b"")[: MAX_BYTES + 1]))
            if len(unit) == UNIT or sum(len(job.data or b"") for job in unit) > UNIT_BYTES:
                yield unit
                unit = []
            if not wanted:
                break
    except Exception as error:  # Arrow's, of a file that is damaged or can't be had any longer
        name = Path(jobs[0].source).name
        sentence = str(error) if isinstance(error, PhotoError) else f"'{name}' can't be read here: check the file."
        unit += [job._replace(reason=sentence) for job in wanted.values()]
    for start in range(0, len(unit), UNIT):
        yield unit[start : start + UNIT]


def _pictures(source: str, group: int, columns: Columns) -> Iterator[tuple[int, bytes | None]]:
    """The rows of a group with their pictures. Raises PhotoError, and whatever Arrow raises."""
    with storage.open_file(source) as opened:
        file = parquet.ParquetFile(opened, pre_buffer=False, buffer_size=READ_BYTES)
        name, _ = choose_picture(file.schema_arrow, columns.picture)
        row = 0
        for batch in file.iter_batches(UNIT, row_groups=[group], columns=[name]):
            column = batch.column(0)
            for picture in column.field("bytes") if pa.types.is_struct(column.type) else column:
                yield row, picture.as_py()
                row += 1
