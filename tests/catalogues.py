"""Catalogues that tests make, and what is true of all."""

from __future__ import annotations

import io
import os
import re
import tarfile
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from helpers import LEAK
from pyarrow import parquet

from background_remover.catalogue import SCHEMA, Columns, read_catalogue
from utilities import PhotoError

BAD_NAME = os.fsdecode(b"\xff\xe9.jpg")


def fill(folder: Path, *names: str) -> None:
    """Files that hold their own names."""
    for name in names:
        path = f"{folder}/{name}"
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(os.fsencode(name))


def rows(source: str | Path, results: str | Path = "out", columns: Columns | None = None) -> list[dict[str, Any]]:
    """The rows of a catalogue, which are as they should always be."""
    table = read_catalogue(str(source), str(results), columns)
    assert table.schema == SCHEMA
    found = table.to_pylist()
    assert len({row["id"] for row in found}) == len(found)
    check_names([row["name"] for row in found])
    return found


def check_names(names: list[str]) -> None:
    """Names are unique for any file system, and lead nowhere."""
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == len(names)
    for name in names:
        assert os.path.normpath(f"/out/{name}.png") == f"/out/{name}.png"
        assert not re.search(r"(^|/)\.|[\x00-\x1f\x7f\\]", name)
        assert all(len(f"{part}.png".encode()) <= 255 for part in name.split("/"))
        assert len(name.encode()) <= 1000


def ids(source: str | Path, results: str | Path = "out", columns: Columns | None = None) -> list[str]:
    return [row["id"] for row in rows(source, results, columns)]


def names(source: str | Path, results: str | Path = "out", columns: Columns | None = None) -> list[str]:
    return [row["name"] for row in rows(source, results, columns)]


def sentence(*arguments: Any) -> str:
    """What a catalogue that can't be read tells: one sentence, with no path but that which was given."""
    with pytest.raises(PhotoError) as caught:
        read_catalogue(*arguments)
    told = str(caught.value)
    assert re.fullmatch(r"[^\n]+[^.\n]\.", told), told
    assert not re.search(LEAK.replace(r"|\.py", ""), told.replace(str(arguments[0]), "").replace("the '/'", "")), told
    return told


def save(path: Path, groups: int | None = None, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path, row_group_size=groups)


def make_tar(members: dict[str, bytes], kind: int = tarfile.PAX_FORMAT, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=kind) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
