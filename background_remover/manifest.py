"""What became of each photo of a catalogue: rows that survive a kill, and the files that are made of them at the end.

Rows are written as small Parquet files while a catalogue is worked off. Many of these become a larger one, and all of
them `manifest.parquet` at the end, so that a row is written three times however many there are. Of several rows for one
photo the last counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from background_remover import storage
from background_remover.storage import join
from utilities import PhotoError

STATUSES = ("done", "no subject", "refused", "failed")
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("status", pa.string()),  # one of STATUSES
        ("reason", pa.string()),  # why there is no result, or an empty one, in one sentence
        ("source", pa.string()),
        ("output", pa.string()),  # the result, below the folder for results; of Parquet the file that has it
        ("width", pa.int32()),  # of the photo, in pixels
        ("height", pa.int32()),
        ("output_bytes", pa.int64()),
        ("sha256", pa.string()),  # of the result
        ("open_seconds", pa.float32()),
        ("network_seconds", pa.float32()),
        ("matte_seconds", pa.float32()),
        ("save_seconds", pa.float32()),
        ("seconds", pa.float32()),  # in all
        ("weights", pa.string()),
        ("licence", pa.string()),  # theirs
        ("version", pa.string()),  # of the photo: what changes whenever it does
        ("way", pa.string()),  # hash of all that decides on how a result looks
    ]
)
STATE = ("id", "status", "output", "output_bytes", "version", "way")  # what a run that goes on must know
MANY = 100  # small files that become one
MOST = 10_000  # rows that are held at once
GROUP = 100_000  # rows of the merged file that are read and written at once
EVERY = {False: 2.0, True: 15.0}  # seconds for which rows are held, on a disk and elsewhere
HIDDEN = ".cutout"  # the folder, in that for results, for what is not finished


class Manifest:
    """The manifest in a folder for results, which one run at a time writes to.

    `prefix` comes before the names of its files. Raises PhotoError where it can't be read or written.
    """

    def __init__(self, results: str, prefix: str = "") -> None:
        self.path = join(results, f"{prefix}manifest.parquet")
        self.csv = join(results, f"{prefix}manifest.csv")
        if storage.kind_of(results.rstrip("/") or results) == "file":
            raise PhotoError(f"'{results.rstrip('/').rpartition('/')[2]}' is a file: give a folder for results.")
        self._results = results
        self._hidden = join(results, HIDDEN)
        self._every = EVERY[storage.is_remote(results)]
        self._rows: list[dict[str, Any]] = []
        self._since = time.monotonic()
        self._parts = [name for name in storage.names_in(self._hidden) if name.endswith(".parquet")]
        self._small = [*self._parts]  # the newest of these, which have not become a larger one here

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Rows more, which are written at once if the last ones were some seconds ago."""
        self._rows += rows
        if len(self._rows) >= MOST or time.monotonic() - self._since > self._every:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        self._since = time.monotonic()
        if self._rows:
            name = f"{time.time_ns():020}.parquet"
            if self._parts and name <= self._parts[-1]:  # a clock that was put back: the order is that of names
                name = f"{int(self._parts[-1].partition('.')[0]) + 1:020}.parquet"
            self._write(join(self._hidden, name), iter([pa.Table.from_pylist(self._rows, SCHEMA)]))
            self._parts.append(name)
            self._small.append(name)
            self._rows = []
        if len(self._small) > MANY:
            older = self._parts[: -len(self._small)]
            self._replace(self._small, join(self._hidden, self._small[-1]), False)
            self._parts, self._small = [*older, self._small[-1]], []

    def merge(self) -> None:
        """Make one file of all."""
        if self._parts:
            self._replace(self._parts, self.path, True)
            self._parts, self._small = [], []

    def read(self, *columns: str) -> pa.Table:
        """Some columns of the newest row for each photo."""
        wanted = list(dict.fromkeys(["id", *columns]))
        table = _concat(self._tables(self._parts, True, wanted), wanted)
        if self._parts:
            table = table.filter(pa.array(_is_newest(table["id"])))
        return table.select(list(columns))

    def write_csv(self) -> None:
        """The same as the merged file, for spreadsheets."""
        with storage.writing(self.csv, self._local_root) as file, csv.CSVWriter(file, SCHEMA) as writer:
            for table in self._tables([], True):
                writer.write_table(table)

    def count(self, ids: pa.ChunkedArray, way: str) -> dict[str, int]:
        """How many of these photos have each status, "missing" where there is no row for one, made in this way."""
        state = self.read("id", "status", "way")
        state = state.filter(pc.equal(state["way"], way))
        found = pc.value_counts(
            state["status"].take(pc.index_in(ids, value_set=state["id"])).fill_null("missing")
        ).to_pylist()
        counts = dict.fromkeys((*STATUSES, "missing"), 0)
        return counts | {entry["values"]: entry["counts"] for entry in found}

    @property
    def _local_root(self) -> str | None:
        return None if storage.is_remote(self._results) else self._results

    def _tables(self, parts: list[str], merged: bool, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The merged file, if it is wanted and there, and parts, in the order of time, some rows at once."""
        names = [join(self._hidden, name) for name in parts]
        if merged and storage.kind_of(self.path) == "file":
            names.insert(0, self.path)
        for name in names:
            with _told(name), storage.open_file(name) as opened:
                file = parquet.ParquetFile(opened)
                for batch in file.iter_batches(GROUP, columns=columns):
                    yield pa.Table.from_batches([batch]).select(columns or SCHEMA.names)

    def _replace(self, parts: list[str], name: str, merged: bool) -> None:
        """Write a file of the newest rows in some, which go then."""
        newest = _is_newest(_concat(self._tables(parts, merged, ["id"]), ["id"])["id"])

        def kept() -> Iterator[pa.Table]:
            start = 0
            for table in self._tables(parts, merged):
                yield table.filter(pa.array(newest[start : start + len(table)]))
                start += len(table)

        self._write(name, kept())
        for part in parts:  # the oldest first: if this ends halfway, those that are left are still the newest
            if join(self._hidden, part) != name:
                storage.remove(join(self._hidden, part))

    def _write(self, name: str, tables: Iterator[pa.Table]) -> None:
        with (
            storage.writing(name, self._local_root) as file,
            parquet.ParquetWriter(file, SCHEMA, compression="zstd") as writer,
        ):
            held: list[pa.Table] = []
            for table in tables:
                held.append(table)
                if sum(map(len, held)) >= GROUP:
                    writer.write_table(pa.concat_tables(held))
                    held = []
            writer.write_table(pa.concat_tables([SCHEMA.empty_table(), *held]))


def _concat(tables: Iterator[pa.Table], columns: list[str]) -> pa.Table:
    """All of them, none too."""
    return pa.concat_tables([pa.schema([SCHEMA.field(name) for name in columns]).empty_table(), *tables])


def _is_newest(ids: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """For each row, in the order of time, whether none comes later with its id."""
    table = pa.table({"id": ids, "row": pa.array(np.arange(len(ids)))})
    newest = np.zeros(len(ids), bool)
    newest[table.group_by("id").aggregate([("row", "max")])["row_max"].to_numpy()] = True
    return newest


@contextmanager
def _told(name: str) -> Iterator[None]:
    """What Arrow raises on a file that is damaged, as PhotoError."""
    try:
        yield
    except (pa.ArrowException, OSError, KeyError) as error:
        short = "/".join(name.split("/")[-2:])
        raise PhotoError(
            f"'{short}' can't be read: try again; if that stays so, move it away, and its photos are done again."
        ) from error
