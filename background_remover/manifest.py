"""What became of each photo of a catalogue: rows that survive a kill, and the files that are made of them at the end.

Rows are written as small Parquet files while a catalogue is worked off, and become one, `manifest.parquet`, when there
are many of them and at the end. Of several rows for one photo the last counts.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from background_remover import storage
from background_remover.storage import join

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
EVERY = {False: 2.0, True: 15.0}  # seconds for which rows are held, on a disk and elsewhere
HIDDEN = ".cutout"  # the folder, in that for results, for what is not finished


class Manifest:
    """The manifest in a folder for results, which one run at a time writes to.

    `prefix` comes before the names of its files. Raises PhotoError where it can't be read or written.
    """

    def __init__(self, results: str, prefix: str = "") -> None:
        self.path = join(results, f"{prefix}manifest.parquet")
        self.csv = join(results, f"{prefix}manifest.csv")
        self._results = results
        self._hidden = join(results, HIDDEN)
        self._every = EVERY[storage.is_remote(results)]
        self._rows: list[dict[str, Any]] = []
        self._since = time.monotonic()
        self._parts = [name for name in storage.names_in(self._hidden) if name.endswith(".parquet")]

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
            self._write(join(self._hidden, name), [pa.Table.from_pylist(self._rows, SCHEMA)])
            self._parts.append(name)
            self._rows = []
        if len(self._parts) > MANY:
            self.merge()

    def merge(self) -> None:
        """Make one file of all."""
        parts, self._parts = self._parts, []
        if not parts:
            return
        newer = self._newest([self._read(join(self._hidden, name)) for name in parts])
        self._write(self.path, self._without(newer["id"]), newer)
        for name in parts:
            storage.remove(join(self._hidden, name))

    def read(self, *columns: str) -> pa.Table:
        """Some columns of the newest row for each photo."""
        wanted = list(dict.fromkeys(["id", *columns]))
        newer = self._newest([self._read(join(self._hidden, name), wanted) for name in self._parts], wanted)
        return pa.concat_tables([*self._without(newer["id"], wanted), newer]).select(list(columns))

    def write_csv(self) -> None:
        """The same as the merged file, for spreadsheets."""
        buffer = pa.BufferOutputStream()
        with csv.CSVWriter(buffer, SCHEMA) as writer:
            for table in self._without(None):
                writer.write_table(table)
        storage.write(self.csv, buffer.getvalue(), self._local_root)

    def count(self, ids: pa.ChunkedArray) -> dict[str, int]:
        """How many of these photos have each status, "missing" where there is no row for one."""
        rows = pa.table({"id": ids}).join(self.read("id", "status"), "id", join_type="left outer")
        found = pc.value_counts(rows["status"].fill_null("missing")).to_pylist()
        counts = dict.fromkeys((*STATUSES, "missing"), 0)
        return counts | {entry["values"]: entry["counts"] for entry in found}

    @property
    def _local_root(self) -> str | None:
        return None if storage.is_remote(self._results) else self._results

    def _without(self, ids: pa.ChunkedArray | None, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The merged file, a group of rows at a time, but for those with certain ids."""
        if storage.kind_of(self.path) != "file":
            return
        with storage.open_file(self.path) as opened:
            file = parquet.ParquetFile(opened)
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=columns)
                yield table if ids is None else table.filter(pc.invert(pc.is_in(table["id"], ids)))

    def _read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        with storage.open_file(name) as file:
            return parquet.read_table(file, columns=columns)

    def _newest(self, tables: list[pa.Table], columns: list[str] | None = None) -> pa.Table:
        """Of several rows for one photo, in the order of time, the last."""
        schema = pa.schema([SCHEMA.field(name) for name in columns]) if columns else SCHEMA
        table = pa.concat_tables([schema.empty_table(), *tables])
        order = pa.array(range(len(table)), pa.int64())
        last = table.append_column("order", order).group_by("id").aggregate([("order", "max")])["order_max"]
        return table.take(last.sort() if isinstance(last, pa.Array) else last.combine_chunks().sort())

    def _write(self, name: str, tables: Any, last: pa.Table | None = None) -> None:
        buffer = pa.BufferOutputStream()
        with parquet.ParquetWriter(buffer, SCHEMA, compression="zstd") as writer:
            for table in itertools.chain(tables, [] if last is None else [last]):
                writer.write_table(table.select(SCHEMA.names))
        storage.write(name, buffer.getvalue(), self._local_root)
