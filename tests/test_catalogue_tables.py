"""Catalogues in Parquet and tars: every photo by the place of its bytes, and what is damaged is named."""

import io
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from catalogues import BAD_NAME, fill, ids, make_tar, rows, save, sentence
from pyarrow import parquet

from background_remover import storage
from background_remover.catalogue import Columns, choose_picture


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the current one."""
    (tmp_path / "top").mkdir()
    monkeypatch.chdir(tmp_path / "top")
    return tmp_path / "top"


# --- Parquet ---

STRINGS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
BINARIES = [
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
    pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
]


@pytest.mark.parametrize("kind", BINARIES, ids=str)
def test_parquet_with_pictures_has_a_row_for_each_by_its_place(top, kind):
    values = [b"1", b"2", b"3", b"4", b"5"]
    data = [{"bytes": value, "path": None} for value in values] if pa.types.is_struct(kind) else values
    save(top / "q/a.parquet", 2, image=pa.array(data, kind), title=["t"] * 5)
    save(top / "q/b/c.parquet", image=pa.array(data[:1], kind), title=["t"])
    found = rows("q")
    assert [row["id"] for row in found] == ["a/0", "a/1", "a/2", "a/3", "a/4", "b/c/0"]
    assert [(row["group"], row["offset"]) for row in found] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (0, 0)]
    for row, value in zip(found, [*values, b"1"], strict=True):
        file = parquet.ParquetFile(row["source"])
        name, holds_bytes = choose_picture(file.schema_arrow, None)
        (column,) = file.read_row_group(row["group"], columns=[name]).columns
        got = column[row["offset"]].as_py()
        assert holds_bytes
        assert (got["bytes"] if isinstance(got, dict) else got) == value
        assert row["version"] == storage.look_at(row["source"])[1]
    assert ids("q/a.parquet") == ["a/0", "a/1", "a/2", "a/3", "a/4"]
    assert rows("q/a.parquet")[0]["version"] == found[0]["version"]


@pytest.mark.parametrize("kind", [*STRINGS, pa.int64()], ids=str)
def test_parquet_has_ids_of_any_type(top, kind):
    keys = [7, 8, None] if pa.types.is_integer(kind) else ["7", "8", None]
    save(
        top / "q/a.parquet",
        sku=pa.array(pa.array(keys, pa.int64() if keys[0] == 7 else pa.string()).cast(kind)),
        jpg=[b""] * 3,
    )
    assert ids("q") == ["7", "8", "a/2"]
    save(top / "q/b.parquet", sku=pa.array(keys[:1]).cast(kind), jpg=[b""])
    assert sentence("q", "out").startswith("'7' is in 'q' more than once")


@pytest.mark.parametrize("kind", STRINGS, ids=str)
def test_parquet_with_paths_has_each_photo_once(top, kind):
    paths = ["x.jpg", "a/y.jpg", "s3://b/k.jpg", "x.jpg", None, None]
    fill(top / "q", "x.jpg", "a/y.jpg")
    save(top / "q/t/a.parquet", 2, url=pa.array(paths, pa.string()).cast(kind))
    found = rows("q/t/a.parquet")
    assert [row["id"] for row in found] == ["x.jpg", "a/y.jpg", "s3://b/k.jpg", "a/4", "a/5"]
    (top / "q/t/a.parquet").rename(top / "q/a.parquet")
    found = rows("q/a.parquet")
    assert [storage.read(row["source"]) for row in found[:2]] == [b"x.jpg", b"a/y.jpg"]
    save(top / "q/b.parquet", url=pa.array(["x.jpg", "x.jpg"]).cast(kind), key=["one", "../two"])
    assert ids("q/b.parquet") == ["one", "../two"]
    assert ids("q/b.parquet", columns=Columns("url", "key")) == [
        "one",
        "../two",
    ]


def test_columns_are_found_or_asked_for(top):
    save(top / "a.parquet", one=[b"1"], two=[b"2"], name=["n"], n=[1.5])
    assert "name one of one, two, name, n with --column" in sentence("a.parquet", "out")
    assert ids("a.parquet", columns=Columns("two")) == ["n"]
    assert ids("a.parquet", columns=Columns("two", "n")) == ["1.5"]
    assert "has no column 'x'" in sentence("a.parquet", "out", Columns("x"))
    assert "has no column 'n' of pictures" in sentence("a.parquet", "out", Columns("n"))
    assert "has no column 'x'" in sentence("a.parquet", "out", Columns("two", "x"))
    save(top / "wide.parquet", **{f"column {number}": [1] for number in range(500)})
    assert len(sentence("wide.parquet", "out")) < 600


def test_parquet_that_can_not_be_read_is_named(top):
    save(top / "q/a.parquet", image=[b"1"], id=["x"])
    whole = (top / "q/a.parquet").read_bytes()
    for data in (b"", b"PAR1", whole[:-30], whole[:10] + b"\0" * 30 + whole[40:], os.urandom(500)):
        (top / "q/b.parquet").write_bytes(data)
        if data[:10] != whole[:10] or len(data) < len(whole):
            assert "'b.parquet' is damaged" in sentence("q", "out")
            assert "'b.parquet' is damaged" in sentence("q/b.parquet", "out")
    save(top / "q/b.parquet", id=["y"])
    assert "'b.parquet' is damaged, compressed as a whole, or unlike the first" in sentence("q", "out")
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    save(top / "q/b.parquet", image=[b"1"], id=bad)
    assert "'b.parquet' is damaged" in sentence("q", "out")
    save(top / "q/b.parquet", image=pa.array([], pa.binary()), id=pa.array([], pa.string()))
    assert ids("q") == ["x"]
    assert rows("q/b.parquet") == []


def test_results_of_an_earlier_run_are_a_catalogue_without_its_manifest(top):
    save(top / "r.parquet/part-0.parquet", id=["x"], image=[b"1"])
    save(top / "r.parquet/_manifest.parquet", id=["x"], source=["s"])
    assert ids("r.parquet") == ["x"]
    assert "folder for results" in sentence("r.parquet", "r.parquet")
    save(top / "in/a.parquet", id=["x"], image=[b"1"])
    (top / "r.parquet").rename(top / "in/r.parquet")
    assert ids("in", "in/r.parquet") == ["x"]


# --- tars ---


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tars_have_photos_where_their_bytes_lie(top, kind):
    members = {name: os.urandom(size) for size, name in enumerate(
        ["0.jpg", "0.json", "1.left.jpg", "1.right.png", "./2.jpg", "d/3.JPG", "._0.jpg", "d/._3.jpg", ".h/4.jpg"], 600
    )}  # fmt: skip
    members |= {"/abs.jpg": b"abs", "../up.jpg": b"up", "a/../b.jpg": b"dots", "é.jpg": b"e"}
    if kind != tarfile.USTAR_FORMAT:
        members |= {"l" * 300 + ".jpg": b"long", "long/" * 60 + "x.jpg": b"deep"}
    (top / "t").mkdir()
    (top / "t/s-0.tar").write_bytes(make_tar(members, kind))
    (top / "t/s-1.tar").write_bytes(make_tar({"0.jpg": b"other"}, kind))
    found = rows("t")
    got = {row["id"]: storage.read(row["source"], row["offset"], row["size"]) for row in found}
    hidden = {"0.json", "._0.jpg", "d/._3.jpg", ".h/4.jpg"}
    truth = {f"s-0/{name.removeprefix('./')}": data for name, data in members.items() if name not in hidden}
    assert got == truth | {"s-1/0.jpg": b"other"}
    assert {"s-0/0", "s-0/1.left", "s-0/1.right", "s-1/0"} <= {row["name"] for row in found}
    assert [row["version"] for row in found][-1] == storage.look_at("t/s-1.tar")[1]


def test_tars_have_names_twice_links_and_names_that_are_no_text(top):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in (
            ("x.jpg", b"1"),
            ("x.jpg", b"2"),
            (BAD_NAME, b"3"),
            ("\\xff\\xe9.jpg", b"4"),
            ("x.jpg", b"5"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for kind, name in ((tarfile.SYMTYPE, "link.jpg"), (tarfile.LNKTYPE, "hard.jpg"), (tarfile.DIRTYPE, "dir.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    (top / "x.tar").write_bytes(buffer.getvalue())
    assert [storage.read(row["source"], row["offset"], row["size"]) for row in rows("x.tar")] == [
        b"1",
        b"2",
        b"3",
        b"4",
        b"5",
    ]


def test_tars_that_are_damaged_or_compressed_are_named_and_no_photo_is_lost_silently(top):
    whole = make_tar({f"{number}.jpg": bytes([number]) * 700 for number in range(9)}, tarfile.GNU_FORMAT)
    head = 3 * 1536  # of the fourth member
    bad = {
        "zip": b"PK\3\4" + whole,
        "gz": make_tar({"x.jpg": b"1"}, mode="w:gz"),
        "none": b"",
        "half": whole[: head + 900],
        "head": whole[: head + 200],
        "flip": whole[: head + 150] + b"9999" + whole[head + 154 :],
        "noise": os.urandom(5000),
    }
    chain = tarfile.TarInfo("x")
    chain.type = tarfile.XHDTYPE
    bad["chain"] = chain.tobuf(tarfile.USTAR_FORMAT) * 3000 + whole
    for name, data in bad.items():
        (top / f"{name}.tar").write_bytes(data)
        told = sentence(f"{name}.tar", "out")
        assert told.startswith(f"'{name}.tar' is damaged, compressed as a whole"), name
    (top / "x.tar").write_bytes(make_tar({}))
    assert rows("x.tar") == []
    (top / "x.tar").write_bytes(whole[: 9 * 1536])  # whole photos, but no mark of the end
    assert len(rows("x.tar")) == 9
