"""What a catalogue holds: a folder, a pattern, a list, a bucket, Parquet, or WebDataset, as one table of photos."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
from fsspec.utils import glob_translate
from pyarrow import parquet

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
        ("version", pa.string()),  # what changes whenever the photo does, "" if that is not known
        ("name", pa.string()),  # of its result, without an extension
    ]
)
CHUNK = 65_536  # photos that are held as Python's own objects at once
LISTERS = 16  # tars, or files of Parquet, that are looked into at once
PATHS = ("uri", "url", "path", "file", "image", "source")  # columns of Parquet that are looked for, in this order
PICTURES = ("image", "bytes", "data", "content", "jpg", "picture", "photo")
IDS = ("id", "key", "__key__", "sku", "name", "filename")
LONGEST_PART = 200  # bytes of one part of a result's name, so that an extension and a number fit behind it
ODD = r"(^|/)(\.|/|$)|[\x00-\x1f\x7f\\]"  # what no name should have: parts that are empty, dots or hidden, controls

Row = tuple[str, str, int, int, int, str, str]


class Columns(NamedTuple):
    """Which columns of Parquet count: the pictures or their paths, and the ids, None for the first that fits."""

    picture: str | None = None
    id: str | None = None


def read_catalogue(source: str, results: str, columns: Columns | None = None) -> pa.Table:
    """All photos of a folder, a pattern, a list or a file of Parquet or tar, as a table of SCHEMA.

    Of a folder or a pattern, what lies below `results` is left out; if it holds no photos, it is its Parquet files that
    count, else its tars. A text file has a path or URI a line, those that are relative from its own folder on.
    Ids are unique, and so are names, as `name_results` makes them. Raises PhotoError for what can't be read.
    """
    source = storage.local_path(source)
    kind = "" if re.search(r"[*?\[]", source) else storage.kind_of(source)
    suffix = source.rstrip("/").rpartition("/")[2].rpartition(".")[2].lower()
    if kind == "file" and suffix not in ("parquet", "tar") and f".{suffix}" not in EXTENSIONS:
        return name_results(_table(_read_list(source)))
    if kind == "file":
        folder, _, name = source.rpartition("/") if "/" in source else (".", "", source)
        found = [Entry(name, -1, "")]
        source = folder or "/"
    elif kind == "folder" or re.search(r"[*?\[]", source):
        if kind == "folder" and not storage.is_remote(source):
            table = _table(_list_folder(Path(source), Path(results)))
            if len(table):
                return name_results(table)
        source, found = _list(source, results)
    else:
        raise PhotoError(f"There is no '{source}': check the name.")
    photos = [entry for entry in found if _extension(entry.path) in EXTENSIONS]
    files = [entry for entry in found if _extension(entry.path) == ".parquet"]
    tars = [entry for entry in found if _extension(entry.path) == ".tar"]
    if photos:
        return name_results(_table(_photo_row(source, entry) for entry in photos))
    if files:
        return _read_parquet(source, files, columns or Columns())
    if tars:
        return name_results(_unique(_table(_in_parallel(lambda entry: _list_tar(source, entry), tars)), source))
    raise PhotoError(f"There are no photos in '{source}', nor Parquet files or tars of some: check the name.")


def name_results(table: pa.Table, taken: pa.ChunkedArray | None = None) -> pa.Table:
    """The table with a name for each result that no other has, nor is among those `taken`, whatever case they are in.

    It is the photo's own, without its extension. Photos that would share it keep their extensions; those that would
    still share one have a part of the hash of their ids behind it.
    """
    names = table["name"]
    for better in (_full_name, _hashed_name):
        keys = pc.utf8_lower(pc.utf8_normalize(names, "NFC"))
        counts = pc.value_counts(keys)
        shared = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        clashing = pc.is_in(keys, shared)
        if taken is not None:
            clashing = pc.or_(clashing, pc.is_in(keys, pc.utf8_lower(pc.utf8_normalize(taken, "NFC"))))
        rows = pc.indices_nonzero(clashing).to_pylist()
        if not rows:
            break
        renamed = [better(table["id"][row].as_py(), names[row].as_py()) for row in rows]
        names = pc.replace_with_mask(names.combine_chunks(), clashing.combine_chunks(), pa.array(renamed, pa.string()))
        names = pa.chunked_array([names])
    return table.set_column(table.schema.get_field_index("name"), "name", names)


def _full_name(key: str, name: str) -> str:
    extension = _extension(key)
    return name + extension if extension in EXTENSIONS else _hashed_name(key, name)


def _hashed_name(key: str, name: str) -> str:
    return f"{name}-{sha256(key.encode(errors='surrogateescape')).hexdigest()[:12]}"


def _name(key: str) -> str:
    """What a result is called for an id or a path, which may be that of somebody who means harm.

    Its folders stay. What would lead elsewhere, hide, or can't be written everywhere is replaced, and the name then
    has a part of the id's hash, so that two that differ still do.
    """
    stem = key[: -len(extension)] if (extension := _extension(key)) in EXTENSIONS else key
    parts = stem.split("/")
    if not re.search(ODD, stem) and all(len(part.encode()) <= LONGEST_PART for part in parts):
        return stem
    kept = [safe_stem(part + ".") for part in parts if part.strip(".")]
    return _hashed_name(key, "/".join(kept) or "photo")


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


def _photo_row(folder: str, entry: Entry) -> Row:
    return entry.path, join(folder, entry.path), -1, entry.size, -1, entry.version, _name(entry.path)


def _list_folder(top: Path, results: Path) -> Iterator[Row]:
    """The photos below a folder of this machine."""
    for folder, names in walk(top, results):
        for name in without_results(names):
            path = f"{folder}/{name}"
            below = os.path.relpath(path, top)
            size, version = _look_at(path)
            key = _printable(below)
            yield key, _printable_source(path), -1, size, -1, version, _name(key)


def _look_at(path: str) -> tuple[int, str]:
    """The bytes and the version of a file of this machine; of one that can't be looked at, nothing is known."""
    try:
        found = os.stat(path)  # noqa: PTH116  # a million times
    except (OSError, ValueError):
        return -1, ""
    return found.st_size, storage.version_of(found.st_size, found.st_mtime_ns)


def _printable(path: str) -> str:
    """A path as text: bytes of a name that are none are written out."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _printable_source(path: str) -> str:
    return path if path.isprintable() else "file://" + quote(os.fsencode(os.path.abspath(path)))  # noqa: PTH100


def _list(source: str, results: str) -> tuple[str, list[Entry]]:
    """A folder, or that before a pattern, and the files below it that are meant."""
    pattern = re.search(r"[*?\[]", source)
    folder = source[: pattern.start()].rpartition("/")[0] or "/" if pattern else source
    if pattern and "/" not in source[: pattern.start()]:
        folder = "."
    found: Iterable[Entry] = storage.entries(folder)
    if pattern:
        below = source[len(folder.rstrip("/")) + 1 :] if folder != "." else source
        fits = re.compile(glob_translate(below)).match
        found = (entry for entry in found if fits(entry.path))
    if _is_below(results, folder):
        skipped = os.path.relpath(results, folder) + "/" if not storage.is_remote(results) else ""
        skipped = skipped or results[len(folder.rstrip("/")) + 1 :].rstrip("/") + "/"
        found = (entry for entry in found if not entry.path.startswith(skipped))
    return folder, list(found)


def _is_below(path: str, folder: str) -> bool:
    if storage.is_remote(path) or storage.is_remote(folder):
        return path.startswith(folder.rstrip("/") + "/")
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _read_list(source: str) -> Iterator[Row]:
    """The photos of a text file, each once; their results lie as they do, below the folder that has them all."""
    text = storage.read(source)
    folder = source.rpartition("/")[0] if "/" in source else "."
    try:
        lines = dict.fromkeys(line for line in text.decode("utf-8-sig").splitlines() if line.strip())
    except UnicodeDecodeError:
        short = Path(source).name
        raise PhotoError(f"'{short}' is no text: give a folder, a list of paths, Parquet or tars.") from None
    yield from _rows_of_paths([(line, line) for line in lines], folder)


def _rows_of_paths(photos: list[tuple[str, str]], folder: str) -> Iterator[Row]:
    """Rows for ids and paths; where these are the same, results lie below the folder that all paths have in common."""
    paths = [path.partition("://")[2].partition("?")[0] if storage.is_remote(path) else path for _, path in photos]
    folders = {path.rpartition("/")[0] + "/" for path in paths}  # the first and the last in order differ earliest
    above = len(os.path.commonprefix([min(folders), max(folders)]).rpartition("/")[0]) if paths else 0  # noqa: RUF071
    for (key, path), short in zip(photos, paths, strict=True):
        name = _name(short[above:].lstrip("/") if key == path else key)
        path = storage.local_path(path)
        if not storage.is_remote(path) and not path.startswith("/"):
            path = join(folder, path)
        size, version = (-1, "") if storage.is_remote(path) else _look_at(path)
        yield key, path, -1, size, -1, version, name


def _read_parquet(folder: str, files: list[Entry], columns: Columns) -> pa.Table:
    """The photos in Parquet: bytes in it, or paths."""
    with storage.open_file(join(folder, files[0].path)) as file:
        schema = parquet.read_schema(file)
    picture, holds_bytes = choose_picture(schema, columns.picture)
    key = _choose_id(schema, columns.id, picture)

    def rows(entry: Entry) -> Iterator[tuple[str, ...] | Row]:
        source = join(folder, entry.path)
        with storage.open_file(source) as opened:
            file = parquet.ParquetFile(opened)
            number = 0
            for group in range(file.num_row_groups):
                wanted = [*([key] if key else []), *([] if holds_bytes else [picture])]
                count = file.metadata.row_group(group).num_rows
                table = file.read_row_group(group, columns=wanted)
                ids = table[key].cast(pa.string()).to_pylist() if key else [None] * count
                paths = [None] * count if holds_bytes else table[picture].cast(pa.string()).to_pylist()
                for row, (given, path) in enumerate(zip(ids, paths, strict=True)):
                    own = given if given is not None else path or f"{entry.path[: -len('.parquet')]}/{number + row}"
                    if holds_bytes:
                        yield own, source, row, -1, group, entry.version, _name(own)
                    else:
                        yield own, path or ""
                number += count

    if holds_bytes:
        return name_results(_unique(_table(_in_parallel(rows, files)), folder))
    photos: list[Any] = list(_in_parallel(rows, files))
    if not key:
        photos = list(dict.fromkeys(photos))
    return name_results(_unique(_table(_rows_of_paths(photos, folder)), folder))


def choose_picture(schema: pa.Schema, wanted: str | None) -> tuple[str, bool]:
    """The column that has the pictures, and whether these are bytes in it and not paths. Raises PhotoError."""
    found = {
        (f"{field.name}.bytes" if pa.types.is_struct(field.type) else field.name): _holds_bytes(field.type)
        for field in schema
        if (wanted is None or field.name == wanted) and _may_hold(field.type)
    }
    for names, kind in ((PICTURES, True), (PATHS, False)):
        fitting = [name for name, holds_bytes in found.items() if holds_bytes == kind]
        known = [name for known in names for name in fitting if name.removesuffix(".bytes").lower() == known]
        if known or len(fitting) == 1:
            return (known or fitting)[0], kind
    which = f"has no column '{wanted}' of pictures or paths" if wanted else "does not say which column has the pictures"
    raise PhotoError(f"The Parquet {which}: name one of {', '.join(schema.names)} with --column.")


def _holds_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _may_hold(kind: pa.DataType) -> bool:
    """Whether a column may have pictures or paths; structs with bytes are how the Hub's datasets keep pictures."""
    if pa.types.is_struct(kind):
        return "bytes" in [field.name for field in kind]
    return bool(_holds_bytes(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _choose_id(schema: pa.Schema, wanted: str | None, picture: str) -> str | None:
    if wanted and wanted not in schema.names:
        raise PhotoError(f"The Parquet has no column '{wanted}': name one of {', '.join(schema.names)} with --id.")
    if wanted:
        return wanted
    plain = {
        field.name.lower(): field.name
        for field in schema
        if field.name != picture and (pa.types.is_string(field.type) or pa.types.is_integer(field.type))
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
    try:
        with storage.open_file(source) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # which it would keep, all of them
                hidden = re.search(r"(^|/)\.", member.name.removeprefix("./"))
                if not member.isreg() or hidden or _extension(member.name) not in EXTENSIONS:
                    continue
                key = f"{shard}/{member.name.removeprefix('./')}"
                if key in seen:  # a tar may have several of one name
                    key = f"{key}@{member.offset_data}"
                seen.add(key)
                yield key, source, member.offset_data, member.size, -1, entry.version, _name(key)
    except tarfile.TarError as error:
        raise PhotoError(f"'{entry.path}' is no tar that can be read, or a compressed one: unpack it first.") from error


def _in_parallel(look: Any, files: list[Entry]) -> Iterator[Any]:
    """The rows of all files, in order, several of these looked into at once."""
    with ThreadPoolExecutor(LISTERS) as pool:
        for start in range(0, len(files), LISTERS):
            for rows in pool.map(lambda entry: list(look(entry)), files[start : start + LISTERS]):
                yield from rows
