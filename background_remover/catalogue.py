"""What a catalogue holds: a folder, a pattern, a list, a bucket, Parquet, or WebDataset, as one table of photos."""

from __future__ import annotations

import glob
import io
import itertools
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
from fsspec.utils import glob_translate
from pyarrow import parquet, types

from background_remover import storage
from background_remover.encoding import safe_stem
from background_remover.finding import EXTENSIONS, walk, without_results
from background_remover.storage import Entry, join
from utilities import PhotoError

SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # unique
        ("source", pa.string()),  # the file that has it
        ("offset", pa.int64()),  # of its bytes in a tar, of its row in a group of Parquet, -1 for a file of its own
        ("size", pa.int64()),  # of its bytes, -1 if that is not known
        ("group", pa.int32()),  # of rows in Parquet, -1 elsewhere
        ("version", pa.string()),  # what changes whenever the photo does, or its URL; "" if nothing is known
        ("name", pa.string()),  # of its result, without an extension
    ]
)
CHUNK = 65_536  # photos that are held as Python's own objects at once
LISTERS = 16  # tars, or files of Parquet, that are looked into at once
PATHS = ("uri", "url", "path", "file", "image", "source")  # columns of Parquet that are looked for, in this order
PICTURES = ("image", "bytes", "data", "content", "jpg", "picture", "photo")
IDS = ("id", "key", "__key__", "sku", "name", "filename")
LONGEST_PART = 200  # bytes of one part of a result's name, so that an extension and a number fit behind it
LONGEST_NAME = 800  # bytes of all parts, of 1024 that a bucket's keys have
LONGEST_LINE = 65_536  # characters of a list; what has more is none
LIST_BUFFER = 1 << 22  # bytes of a list that are read at once, each time by a request where it lies in a bucket
BUFFER = 65_536  # bytes of a tar that are read at once: heads of members, and small members between them
# What no name should have: parts that are empty, dots or hidden, controls, and folders that files may be called like.
ODD = r"(^|/)(\.|/|$)|[\x00-\x1f\x7f\\]|\.(?i:png|webp|tiff?|jpe?g|csv|parquet)/"
SHOWN = 20  # columns in a sentence
WILD = r"[*?\[]"
TABLES = {".parquet", ".tar"}

Row = tuple[str, str, int, int, int, str, str]


class Columns(NamedTuple):
    """Which columns of Parquet count: the pictures or their paths, and the ids, None for the first that fits."""

    picture: str | None = None
    id: str | None = None


def read_catalogue(source: str, results: str, columns: Columns | None = None) -> pa.Table:
    """All photos of a folder, a pattern, a list or a file of Parquet or tar, as a table of SCHEMA.

    Of a folder or a pattern, what lies below `results` is left out; if it holds no photos, it is its Parquet files that
    count, else its tars. A text file has a path or URI a line, those that are relative from its own folder on.
    Ids are unique, and so are names, as `name_results` makes them; no result takes the place of a photo. Raises
    PhotoError for what can't be read, and for a folder that lies in that for results.
    """
    source = storage.local_path(source)
    kind = storage.kind_of(source)
    extension = _extension(source.rstrip("/"))
    if kind == "file" and extension not in TABLES | EXTENSIONS:
        return _name_apart(_read_list(source), results)
    tables: list[Entry] = []
    if kind == "file":
        folder, name = _split(source)
        entry = Entry(name, *storage.look_at(source))
        tables += [entry] if extension in TABLES else []
        table = _table([] if tables else [_photo_row(folder, entry)])
    elif kind == "folder" or re.search(WILD, source):
        pattern = "" if kind else source
        folder = _split(source[: re.search(WILD, source).start()])[0] if pattern else source  # type: ignore[union-attr]
        _check_apart(folder, results)
        look = _list_remote if storage.is_remote(source) else _list_local
        table = _table(look(folder, pattern, results, tables))
    else:
        raise PhotoError(f"There is no '{source}': check the name.")
    if len(table):
        return _name_apart(table, results)
    if files := [entry for entry in tables if _extension(entry.path) == ".parquet"]:
        return _name_apart(_unique(_read_parquet(folder, files, columns or Columns()), source), results)
    if tables:
        return name_results(
            _unique(_join(_in_parallel(lambda entry: _table(_list_tar(folder, entry)), tables)), source)
        )
    raise PhotoError(f"There are no photos in '{source}', nor Parquet files or tars of some: check the name.")


def name_results(table: pa.Table, taken: pa.ChunkedArray | None = None) -> pa.Table:
    """The table with a name for each result that no other has, nor is among those `taken`, whatever case they are in.

    It is the photo's own, without its extension. Photos that would share it keep their extensions; those that would
    still share one have a part of the hash of their ids behind it.
    """
    own, column = table["name"], table.schema.get_field_index("name")
    for attempt in itertools.count():  # more than two of them are for who knows how to make names that clash
        keys = _fold(table["name"])
        counts = pc.value_counts(keys)
        clashing = pc.is_in(keys, counts.field("values").filter(pc.greater(counts.field("counts"), 1)))
        if taken is not None:
            clashing = pc.or_(clashing, pc.is_in(keys, _fold(taken)))
        if not pc.any(clashing, min_count=0).as_py():
            break
        chunks, start = [], 0
        for batch in table.set_column(column, "own", own).append_column("name", table["name"]).to_batches():
            mask = clashing.slice(start, len(batch)).combine_chunks()
            start += len(batch)
            rows = batch.filter(mask)
            renamed = [
                _hashed_name(key, name, attempt) if attempt else _full_name(key, name)
                for key, name in zip(rows["id"].to_pylist(), rows["own"].to_pylist(), strict=True)
            ]
            chunks.append(pc.replace_with_mask(batch["name"], mask, pa.array(renamed, pa.string())))
        table = table.set_column(column, "name", pa.chunked_array(chunks, pa.string()))
    return table


def _fold(names: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same for two names that may be one file; some letters have several small ones."""
    return pc.utf8_lower(pc.utf8_upper(pc.utf8_normalize(names, "NFC")))


def _name_apart(table: pa.Table, results: str) -> pa.Table:
    """The table with names for results, none of them that of a photo which lies among them."""
    if not storage.is_remote(results) and not os.path.isdir(results):  # noqa: PTH112
        return name_results(table)
    folders = pc.replace_substring_regex(table["source"], r"[^/]*$", "")
    inside = {
        folder: below for folder in pc.unique(folders).to_pylist() if (below := _below(folder, results)) is not None
    }
    if not inside:
        return name_results(table)
    rows = table.filter(pc.is_in(folders, pa.array(inside, pa.string())))["source"]
    names = []
    for source in rows.to_pylist():
        folder, _, name = source.rpartition("/")
        names.append(inside[f"{folder}/" if "/" in source else ""] + os.path.splitext(storage.local_path(name))[0])  # noqa: PTH122
    return name_results(table, pa.chunked_array([pa.array(names, pa.string())]))


def _full_name(key: str, name: str) -> str:
    extension = _extension(key)
    return name + extension if extension in EXTENSIONS else _hashed_name(key, name)


def _hashed_name(key: str, name: str, attempt: int = 1) -> str:
    salted = key if attempt == 1 else f"{attempt}\n{key}"
    return f"{name}-{sha256(salted.encode()).hexdigest()[:12]}"


def _name(key: str) -> str:
    """What a result is called for an id or a path, which may be that of somebody who means harm.

    Its folders stay. What would lead elsewhere, hide, or can't be written everywhere is replaced, and the name then
    has a part of the id's hash, so that two that differ still do.
    """
    stem = key[: -len(extension)] if (extension := _extension(key)) in EXTENSIONS else key
    parts = stem.split("/")
    fits = len(stem.encode()) <= LONGEST_NAME and all(len(part.encode()) <= LONGEST_PART for part in parts)
    if fits and not re.search(ODD, stem):
        return stem
    parts = [part for part in parts if part.strip(".")] or ["photo"]
    kept = [safe_stem(part.replace(".", "-") + ".") for part in parts[:-1]] + [safe_stem(parts[-1] + ".")]
    name = "/".join(kept)
    return _hashed_name(key, name if len(name.encode()) <= LONGEST_NAME else kept[-1])


def _extension(path: str) -> str:
    return os.path.splitext(path)[1].lower()  # noqa: PTH122


def _table(rows: Iterable[Row]) -> pa.Table:
    """Rows as a table, made of chunks so that few are held as Python's own objects at once."""
    batches, chunk = [], []
    for row in rows:
        chunk.append(row)
        if len(chunk) == CHUNK:
            batches.append(_chunk(chunk))
            chunk = []
    return pa.Table.from_batches([*batches, _chunk(chunk)], SCHEMA)


def _chunk(rows: list[Row]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True) if rows else [()] * len(SCHEMA)
    return pa.record_batch(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


def _join(tables: Iterable[pa.Table]) -> pa.Table:
    return pa.concat_tables([SCHEMA.empty_table(), *tables])


def _split(path: str) -> tuple[str, str]:
    """The folder of a path, and the name in it."""
    folder, slash, name = path.rpartition("/")
    return folder or slash or ".", name


def _check_apart(folder: str, results: str) -> None:
    """Raises PhotoError if a folder of photos lies in that for results, where results would be taken for photos."""
    if _below(folder, results) is not None:
        raise PhotoError("The photos lie in the folder for results: choose another for these.")


def _below(folder: str, results: str) -> str | None:
    """The path of a folder from that for results on, with a "/" behind it; None if it does not lie in there."""
    folder, results = storage.local_path(folder), storage.local_path(results)
    if storage.is_remote(folder) != storage.is_remote(results):
        return None
    if not storage.is_remote(folder):
        folder, results = os.path.realpath(folder), os.path.realpath(results)
    at, top = folder.rstrip("/") + "/", results.rstrip("/") + "/"
    return at[len(top) :] if at.startswith(top) else None


def _photo_row(folder: str, entry: Entry) -> Row:
    return entry.path, join(folder, entry.path), -1, entry.size, -1, entry.version, _name(entry.path)


def _list_remote(folder: str, pattern: str, results: str, tables: list[Entry]) -> Iterator[Row]:
    """The photos below a folder elsewhere, or those that fit a pattern; the other files that count go to `tables`."""
    skipped = _below(results, folder) or "/"  # with which no path begins
    below = pattern[len(folder.rstrip("/")) + 1 :]
    try:
        fits = re.compile(glob_translate(below) if pattern else "").match
    except (ValueError, re.error) as error:
        raise PhotoError(f"'{below}' is no pattern: '**' stands for folders, between two '/'.") from error
    for entry in storage.entries(folder):
        if entry.path.startswith(skipped) or not fits(entry.path):
            continue
        if _extension(entry.path) in EXTENSIONS:
            yield _photo_row(folder, entry)
        elif _is_table(entry.path):
            tables.append(entry)


def _is_table(path: str) -> bool:
    """Whether a file may hold photos; readers of Parquet leave out what begins with "_"."""
    return _extension(path) in TABLES and not path.rpartition("/")[2].startswith("_")


def _list_local(top: str, pattern: str, results: str, tables: list[Entry]) -> Iterator[Row]:
    """The same for a folder of this machine."""
    folders = _glob(pattern, results) if pattern else walk(Path(top), Path(results), EXTENSIONS | TABLES)
    for folder, names in folders:
        below = os.path.relpath(folder, top)
        below = "" if below == "." else f"{below}/"
        tables += [
            Entry(below + name, *storage.look_at(f"{folder}/{name}"))
            for name in names
            if _is_table(name) and os.path.isfile(f"{folder}/{name}")  # noqa: PTH113
        ]
        for name in without_results([name for name in names if _extension(name) not in TABLES]):
            path = f"{folder}/{name}"
            size, version = storage.look_at(path)
            key = storage.printable(below + name)
            yield key, _printable_source(path), -1, size, -1, version, _name(key)


def _glob(pattern: str, results: str) -> Iterator[tuple[str, list[str]]]:
    """Folders of this machine, each with the names in it that fit a pattern."""
    paths = sorted({os.path.split(path) for path in glob.iglob(pattern, recursive=True)})  # noqa: PTH207
    for folder, found in itertools.groupby(paths, lambda path: path[0]):
        if _below(folder or ".", results) is None:
            names = [name for _, name in found if _extension(name) in EXTENSIONS | TABLES]
            yield folder or ".", [name for name in names if not os.path.isdir(f"{folder or '.'}/{name}")]  # noqa: PTH112


def _printable_source(path: str) -> str:
    return path if path.isprintable() else "file://" + quote(os.fsencode(os.path.abspath(path)))  # noqa: PTH100


def _read_list(source: str) -> pa.Table:
    """The photos of a text file, each once; their results lie as they do, below the folder that has them all."""
    chunks, chunk = [], []
    for line in _lines(source):
        chunk.append(line)
        if len(chunk) == CHUNK:
            chunks.append(pa.array(chunk, pa.large_string()))
            chunk = []
    lines = pa.chunked_array([*chunks, pa.array(chunk, pa.large_string())]).unique()
    return _table(_rows_of_paths(pa.table({"id": lines, "path": lines}), _split(source)[0]))


def _lines(source: str) -> Iterator[str]:
    """The lines of a text file that are not empty. Raises PhotoError if it is none."""
    file = io.BytesIO(storage.read(source)) if storage.is_web(source) else storage.open_file(source)
    with io.TextIOWrapper(io.BufferedReader(file, LIST_BUFFER), "utf-8-sig", newline="\n") as text:
        try:
            while line := text.readline(LONGEST_LINE):
                if len(line) == LONGEST_LINE or "\0" in line:
                    raise ValueError
                if line.strip():
                    yield line.removesuffix("\n").removesuffix("\r")
        except ValueError:  # of UTF-8, too
            short = storage.printable(_split(source)[1])
            raise PhotoError(f"'{short}' is no text: give a folder, a list of paths, Parquet or tars.") from None
        except OSError as error:
            raise PhotoError(f"'{source}' can't be read to its end: try again.") from error


def _rows_of_paths(photos: pa.Table, folder: str) -> Iterator[Row]:
    """Rows for ids and paths; where these are the same, results lie below the folder that all paths have in common."""

    def all_photos() -> Iterator[tuple[str, str, str]]:
        for batch in photos.to_batches(CHUNK):
            for key, path in zip(batch["id"].to_pylist(), batch["path"].to_pylist(), strict=True):
                yield key, path, path.partition("://")[2].partition("?")[0] if storage.is_remote(path) else path

    first, last = "\U0010ffff", ""  # of their folders, in order, which differ earliest
    for _, _, short in all_photos():
        at = short.rpartition("/")[0] + "/"
        first, last = min(first, at), max(last, at)
    above = len(os.path.commonprefix([first, last]).rpartition("/")[0])  # noqa: RUF071
    for key, path, short in all_photos():
        name = _name(short[above:].lstrip("/") if key == path else key)
        path = storage.local_path(path)
        if not storage.is_remote(path) and not path.startswith("/"):
            path = join(folder, path)
        if storage.is_remote(path):
            yield key, path, -1, -1, -1, sha256(path.encode()).hexdigest()[:16], name  # what it has is not looked at
        else:
            size, version = storage.look_at(path)
            yield key, _printable_source(path), -1, size, -1, version, name


def _read_parquet(folder: str, files: list[Entry], columns: Columns) -> pa.Table:
    """The photos in Parquet: bytes in it, or paths."""
    with _told(files[0]), storage.open_file(join(folder, files[0].path)) as file:
        schema = parquet.read_schema(file)
    picture, holds_bytes = choose_picture(schema, columns.picture)
    key = _choose_id(schema, columns.id, picture)
    wanted = [*([key] if key else []), *([] if holds_bytes else [picture])]

    def rows(entry: Entry) -> pa.Table:
        source, tables, number = join(folder, entry.path), [], 0
        with _told(entry), storage.open_file(source) as opened:
            file = parquet.ParquetFile(opened)
            if picture.removesuffix(".bytes") not in file.schema_arrow.names:
                raise KeyError(picture)
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                table = file.read_row_group(group, columns=wanted)
                ids = table[key].cast(pa.string()).to_pylist() if key else [None] * count
                paths = [None] * count if holds_bytes else table[picture].cast(pa.string()).to_pylist()
                start = f"{storage.printable(entry.path[: -len('.parquet')])}/"
                names: list[str] = [
                    path or f"{start}{number + row}" if given is None else given
                    for row, (given, path) in enumerate(zip(ids, paths, strict=True))
                ]
                number += count
                if holds_bytes:
                    found = ((own, source, row, -1, group, entry.version, _name(own)) for row, own in enumerate(names))
                    tables.append(_table(found))
                else:
                    tables.append(
                        pa.table({"id": pa.array(names, pa.string()), "path": [path or "" for path in paths]})
                    )
        return pa.concat_tables(tables) if tables else None

    found = [table for table in _in_parallel(rows, files) if table is not None]
    if holds_bytes:
        return _join(found)
    photos = pa.concat_tables([pa.table({"id": pa.array([], pa.string()), "path": pa.array([], pa.string())}), *found])
    if not key:  # a path that is there twice is one photo
        photos = photos.group_by("id", use_threads=False).aggregate([("path", "first")])
        photos = photos.rename_columns(["id", "path"])
    return _table(_rows_of_paths(photos, folder))


@contextmanager
def _told(entry: Entry) -> Iterator[None]:
    """What a reader raises on a file that is damaged, which may be anything, as PhotoError."""
    try:
        yield
    except PhotoError:
        raise
    except Exception as error:
        name = storage.printable(entry.path)
        raise PhotoError(f"'{name}' is damaged, compressed as a whole, or unlike the first file: check it.") from error


def choose_picture(schema: pa.Schema, wanted: str | None) -> tuple[str, bool]:
    """The column that has the pictures, and whether these are bytes in it and not paths. Raises PhotoError."""
    found = {
        (f"{field.name}.bytes" if types.is_struct(field.type) else field.name): _holds_bytes(field.type)
        for field in schema
        if (wanted is None or field.name == wanted) and (_holds_bytes(field.type) or _holds_text(field.type))
    }
    for names, kind in ((PICTURES, True), (PATHS, False)):
        fitting = [name for name, holds_bytes in found.items() if holds_bytes == kind]
        known = [name for known in names for name in fitting if name.removesuffix(".bytes").lower() == known]
        alone = len(fitting) == 1 and (kind or not any(found.values()))
        if known or alone:
            return (known or fitting)[0], kind
    which = f"has no column '{wanted}' of pictures or paths" if wanted else "does not say which column has the pictures"
    raise PhotoError(f"The Parquet {which}: name one of {', '.join(schema.names[:SHOWN])} with --column.")


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column has pictures; structs with bytes are how the Hub's datasets keep these."""
    if types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    kinds = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    return any(fits(_plain(kind)) for fits in kinds)


def _holds_text(kind: pa.DataType) -> bool:
    return any(fits(_plain(kind)) for fits in (types.is_string, types.is_large_string, types.is_string_view))


def _plain(kind: pa.DataType) -> pa.DataType:
    """What a column holds, which may be written as a dictionary."""
    return kind.value_type if types.is_dictionary(kind) else kind


def _choose_id(schema: pa.Schema, wanted: str | None, picture: str) -> str | None:
    if wanted and wanted not in schema.names:
        raise PhotoError(
            f"The Parquet has no column '{wanted}': name one of {', '.join(schema.names[:SHOWN])} with --id."
        )
    if wanted:
        return wanted
    plain = {
        field.name.lower(): field.name
        for field in schema
        if field.name != picture and (_holds_text(field.type) or types.is_integer(field.type))
    }
    return next((plain[name] for name in IDS if name in plain), None)


def _unique(table: pa.Table, source: str) -> pa.Table:
    """The table, if no id is in it twice. Raises PhotoError."""
    counts = pc.value_counts(table["id"])
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise PhotoError(
            f"'{twice[0]}' is in '{source}' more than once, and {len(twice) - 1} other ids are: name a column of ids "
            "that are unique with --id."
        )
    return table


def _list_tar(folder: str, entry: Entry) -> Iterator[Row]:
    """The photos in a tar, as WebDataset has them, by where their bytes lie; nothing is unpacked."""
    source, shard = join(folder, entry.path), entry.path[: -len(".tar")]
    seen: set[str] = set()
    with _told(entry), storage.open_file(source) as opened:
        file = io.BufferedReader(opened, BUFFER)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while member := tar.next():
                tar.members = []  # type: ignore[attr-defined]  # which it would keep, all of them
                name = member.name.removeprefix("./")
                hidden = re.search(r"(^|/)\.(?!\.?(/|$))", name)
                if not member.isreg() or hidden or _extension(name) not in EXTENSIONS:
                    continue
                key = storage.printable(f"{shard}/{name}")
                if key in seen:  # a tar may have several of one name
                    key = f"{key}@{member.offset_data}"
                seen.add(key)
                yield key, source, member.offset_data, member.size, -1, entry.version, _name(key)
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):  # a head that is damaged is taken for the end
                raise tarfile.ReadError


def _in_parallel(look: Callable[[Entry], pa.Table], files: list[Entry]) -> Iterator[pa.Table]:
    """What all files have, in order, several of them looked into at once."""
    with ThreadPoolExecutor(LISTERS) as pool:
        yield from pool.map(look, files)
