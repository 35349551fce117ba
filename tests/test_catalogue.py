"""What a catalogue holds: every photo once, by a name of its own that leads nowhere else, whoever made it."""

import os
import re
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from catalogues import BAD_NAME, check_names, fill, ids, make_tar, names, rows, save, sentence
from pyarrow import parquet

from background_remover import storage
from background_remover.catalogue import CHUNK, SCHEMA, name_results, read_catalogue
from background_remover.finding import without_results
from utilities import PhotoError


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the current one."""
    (tmp_path / "top").mkdir()
    monkeypatch.chdir(tmp_path / "top")
    return tmp_path / "top"


# --- folders and patterns ---


def test_a_folder_has_its_photos_with_what_tells_one_from_a_later(top):
    fill(top, "p/x.jpg", "p/a/B.PNG", "p/a/b/ü.heic", "p/.x.jpg", "p/.git/x.jpg", "p/x.txt", "p/x-cutout.png")
    found = rows("p")
    assert [row["id"] for row in found] == ["x.jpg", "a/B.PNG", "a/b/ü.heic"]
    assert [row["name"] for row in found] == ["x", "a/B", "a/b/ü"]
    for row in found:
        path = Path(row["source"])
        assert path.read_bytes().decode() == f"p/{row['id']}"
        assert (row["size"], row["offset"], row["group"]) == (path.stat().st_size, -1, -1)
        assert row["version"] == f"{row['size']}-{path.stat().st_mtime_ns}"
    assert [row["id"] for row in rows("p/")] == [row["id"] for row in rows(top / "p")] == [row["id"] for row in found]


def test_photos_with_odd_names_are_read_from_where_they_are(top):
    odd = ["n\nl.jpg", "back\\slash.jpg", "tab\t.jpg", "s p.jpg", "100%.jpg", "a%20b.jpg", "[1].jpg", "#?*.jpg"]
    odd += [BAD_NAME, "\\xff\\xe9.jpg", "x" * 251 + ".jpg", "ü" * 125 + ".jpg", "x../y.jpg", "\xe9.jpg", "e\u0301.jpg"]
    odd += ["-.jpg", "'\".jpg", "\u202egpj.jpg", "a.jpg.jpg", "\u2028.jpg", "con.jpg", "x.png/y.jpg", "\x7f.jpg"]
    fill(top / "p", *odd)
    found = rows("p")
    assert {storage.read(row["source"]) for row in found} == {os.fsencode(name) for name in odd}
    assert len(found) == len(odd)
    by_id = {row["id"]: row["name"] for row in found}
    assert by_id["s p.jpg"] == "s p"
    assert re.fullmatch(r"n-l-[0-9a-f]{12}", by_id["n\nl.jpg"])
    assert by_id["\\xff\\xe9.jpg"] != by_id["\\\\xff\\\\xe9.jpg"]
    assert re.fullmatch(r"x-png/y-[0-9a-f]{12}", by_id["x.png/y.jpg"])  # "x.png" may be a result of another


def test_links_count_and_lead_into_no_loop(top):
    fill(top, "p/x.jpg", "away/y.jpg")
    (top / "p/loop").symlink_to(top / "p")
    (top / "p/link.jpg").symlink_to("../away/y.jpg")
    (top / "p/gone.jpg").symlink_to("nowhere")
    os.mkfifo(top / "p/pipe.jpg")
    os.mkfifo(top / "p/pipe.tar")
    found = {row["id"]: row["source"] for row in rows("p")}
    assert set(found) == {"x.jpg", "link.jpg", "gone.jpg", "pipe.jpg"}
    for name in ("gone.jpg", "pipe.jpg"):  # each has its reason, and is not waited for
        with pytest.raises(PhotoError, match=name):
            storage.read(found[name])


def test_results_are_left_out_and_may_not_lie_around_the_photos(top):
    fill(top, "p/x.jpg", "p/out/x.png", "p/output/y.jpg", "q/z.jpg")
    (top / "link").symlink_to("p/out")
    for results in ("p/out", "p/out/", top / "p/out", "link", "p/../p/out"):
        assert ids("p", results) == ["x.jpg", "output/y.jpg"]
        assert ids("p/**/*.*", results) == ["x.jpg", "output/y.jpg"]
    for source, results in (
        ("p", "p"),
        ("p", "."),
        ("p/*.jpg", "p"),
        ("p/x*", top),
        ("p", "link/.."),
        (top / "p", "."),
    ):
        assert "folder for results" in sentence(str(source), str(results))


def test_patterns_mean_what_fits_and_names_with_brackets_themselves(top):
    fill(top, "x1.jpg", "x2.png", "a/x1.jpg", "a/b/y.webp", "a/.h/z.jpg", "a/n.txt", "[1]/z.jpg", "l[1].jpg", "l1.jpg")
    fill(top, "x2-cutout.png")
    for pattern, found in {
        "*.jpg": ["l1.jpg", "l[1].jpg", "x1.jpg"],
        "x?.*": ["x1.jpg", "x2.png"],
        "x[2-9]*": ["x2.png"],
        "x[!2]*": ["x1.jpg"],
        "**/*.webp": ["a/b/y.webp"],
        "a/**/*": ["x1.jpg", "b/y.webp"],
        "*/*.jpg": ["[1]/z.jpg", "a/x1.jpg"],
        "[1]": ["z.jpg"],
        "l[1].jpg": ["l[1].jpg"],
        "l[13].jpg": ["l1.jpg"],
        f"{top}/a/*.jpg": ["x1.jpg"],
        "a**1.jpg": [],
        "a/*.gif": [],
        "[": [],
    }.items():
        assert (ids(pattern) if found else sentence(pattern, "out") and []) == found, pattern


def test_folders_that_may_not_be_read_are_told(tmp_path):
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), "x.jpg", "secret/y.jpg")
        if root := os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
            os.chown(f"{folder}/secret", 65534, 65534)
            os.seteuid(65534)
        try:
            Path(folder, "secret").chmod(0)
            found = rows(folder)
            assert [row["id"] for row in found] == ["x.jpg", "secret"]
            with pytest.raises(PhotoError, match="'secret' can't be read"):
                storage.read(found[1]["source"])
            Path(folder, "secret").chmod(0o700)
        finally:
            if root:
                os.seteuid(0)


def test_what_holds_no_photos_is_told(top):
    fill(top, "p/x.txt", "x.pdf")
    os.mkfifo(top / "pipe")
    assert sentence("p", "out") == "There are no photos in 'p', nor Parquet files or tars of some: check the name."
    for name in ("gone", "", "pipe", "/dev/zero", "x" * 5000, "gone/x.jpg"):
        assert sentence(name, "out") == f"There is no '{name}': check the name."
    (top / "list").write_bytes(b"x\0y")
    (top / "zeros").write_bytes(bytes(1_000_000))
    (top / "long").write_bytes(b"x" * 1_000_000)
    for name, data in {
        "latin": b"\xe9.jpg\n",
        "utf16": "x.jpg\n".encode("utf-16"),
        "x.tar.gz": b"\x1f\x8b\x08",
    }.items():
        (top / name).write_bytes(data)
    for name in ("list", "zeros", "long", "latin", "utf16", "x.tar.gz"):
        assert f"'{name}' is no text" in sentence(f"./{name}", "out")


def test_a_single_photo_is_a_catalogue_with_its_version(top):
    fill(top, "a/x.jpg")
    (row,) = rows("a/x.jpg")
    assert (row["id"], row["name"], row["source"]) == ("x.jpg", "x", "a/x.jpg")
    assert (row["size"], row["version"]) == storage.look_at("a/x.jpg")


# --- lists ---


def test_lists_have_a_path_a_line(top):
    fill(top, "l/a/x.jpg", "l/b/y z.png")
    url = f"file://{top}/l/b/y%20z.png"
    lines = [
        "a/x.jpg",
        "",
        "  ",
        "b/y z.png",
        "a/x.jpg",
        f"{top}/l/a/x.jpg",
        url,
        "https://host/d/p.jpg?w=3",
        "s3://b/k?.jpg",
    ]
    for ending, start in (("\n", ""), ("\r\n", "\ufeff")):
        (top / "l/list.txt").write_bytes((start + ending.join(lines)).encode())
        found = rows("l/list.txt")
        assert [row["id"] for row in found] == [*dict.fromkeys(line for line in lines if line.strip())]
        read = [storage.read(row["source"]) for row in found if not row["source"].startswith(("s3:", "https:"))]
        assert read == [b"l/a/x.jpg", b"l/b/y z.png", b"l/a/x.jpg", b"l/b/y z.png"]
        assert [row["source"] for row in found[-2:]] == lines[-2:]
        assert [row["size"] for row in found[-2:]] == [-1, -1]
        assert len({row["version"] for row in found[-2:]} - {""}) == 2  # another URL is another photo
        assert found[0]["version"]
    (top / "l/list.txt").write_bytes(b"\n\n")
    assert rows("l/list.txt") == []


def test_lines_end_at_line_feeds_alone(top):
    odd = ["a\u2028b.jpg", "a\x0bb.jpg", "a\x85b.jpg", "a\x1cb.jpg", " s .jpg", "a\rb.jpg"]
    fill(top, *odd)
    (top / "list").write_text("\n".join(odd), newline="\n")
    assert [storage.read(row["source"]).decode() for row in rows("list")] == odd


def test_results_of_a_list_lie_below_the_folder_that_has_all_photos(top):
    for lines, found in {
        "p/a/x.jpg p/b/y.jpg": ["a/x", "b/y"],
        "p/ab/x.jpg p/ac/y.jpg": ["ab/x", "ac/y"],
        "s3://b/p/x.jpg s3://b/p/y.jpg": ["x", "y"],
        "s3://b/p/x.jpg s3://c/p/x.jpg": ["b/p/x", "c/p/x"],
        "p/x.jpg": ["x"],
        "x.jpg x.png y.jpg": ["x.jpg", "x.png", "y"],
    }.items():
        (top / "list.txt").write_text(lines.replace(" ", "\n"))
        assert names("list.txt") == found


def test_a_list_that_leads_away_has_results_in_their_folder(top):
    lines = ["../../etc/x.jpg", "/etc/../x.jpg", "a/../../b.jpg", "./c.jpg", "d//e.jpg", "..", "/", ".", "~/x.jpg"]
    lines += [
        "a\\..\\b.jpg",
        "s3://b/../x.jpg",
        "https://h/../../x.jpg",
        "f/" * 600 + "x.jpg",
        "CON",
        "a/",
        "file://[x",
    ]
    (top / "list.txt").write_text("\n".join(lines))
    assert len(names("list.txt")) == len(lines)


def test_no_result_takes_the_place_of_a_photo(top):
    fill(top, "p/x.png", "p/a/y.jpg", "z.png")
    (top / "p/list.txt").write_text("x.png\na/y.jpg\n../z.png\n")
    (top / "list.txt").write_text("p/x.png\np/a/y.jpg\n")
    (top / "link").symlink_to("p")
    for source, results in (("p/list.txt", "p"), ("list.txt", "p"), ("list.txt", "link"), ("p/list.txt", ".")):
        found = rows(source, results)
        for row in found:
            assert not Path(results, row["name"] + ".png").exists()
    assert names("p/x.png", "p") == ["x.png"]
    assert names("list.txt", "elsewhere") == ["x", "a/y"]


def test_lists_are_read_in_linear_time_and_few_bytes(top):
    seconds = []
    for count in (CHUNK // 2, CHUNK * 2):
        (top / "list").write_text("".join(f"s3://b/p/{number // 100}/{number}.jpg\n" for number in range(count)))
        start = time.perf_counter()
        assert len(read_catalogue("list", "out")) == count
        seconds.append(time.perf_counter() - start)
    assert seconds[1] < 10 * seconds[0] + 0.5


def test_many_results_without_photos_take_no_square_of_time():
    stems = [f"{number:06}" + "x" * 60 for number in range(4000)]
    found = [f"{stem}-{number}-cutout.png" for number, stem in enumerate(stems)] + [f"y{stem}.jpg" for stem in stems]
    start = time.perf_counter()
    assert without_results(found) == found
    assert time.perf_counter() - start < 2


# --- buckets ---


def test_a_bucket_has_its_photos(bucket):
    keys = ["a b.jpg", "p%20q.jpg", "what?.jpg", "d/x.png", "d/X.jpg", "d/[1].jpg", "d/1.jpg", "ü.jpg"]
    bucket.put(*keys, "d/.h/x.jpg", "x.txt", "out/x.png")
    found = rows(bucket.name, f"{bucket.name}/out")
    assert {row["id"] for row in found} == set(keys)
    assert all(row["source"] == f"{bucket.name}/{row['id']}" and row["size"] == 7 for row in found)
    assert all(re.fullmatch(r"7-\d{19}", row["version"]) for row in found)
    assert sorted(names(f"{bucket.name}/d/")) == ["1", "X.jpg", "[1]", "x.png"]
    for pattern, fitting in {
        "*.jpg": ["a b.jpg", "p%20q.jpg", "what?.jpg", "ü.jpg"],
        "**/*.png": ["d/x.png", "out/x.png"],
        "d/[1].jpg": ["[1].jpg"],
        "d/[12].jpg": ["1.jpg"],
        "what?.jpg": ["what?.jpg"],
    }.items():
        assert ids(f"{bucket.name}/{pattern}") == fitting
    assert ids(f"{bucket.name}/**/*.png", f"{bucket.name}/out") == ["d/x.png"]
    for results in (bucket.name, f"{bucket.name}/"):
        assert "folder for results" in sentence(f"{bucket.name}/d", results)
    assert "no pattern" in sentence(f"{bucket.name}/a**b", "out")


def test_a_bucket_has_lists_parquet_and_tars(bucket, tmp_path):
    bucket.put("p/x.jpg", "p/list.txt", data=b"x.jpg\n/y.jpg\n")
    assert [row["source"] for row in rows(f"{bucket.name}/p/list.txt")] == [f"{bucket.name}/p/x.jpg", "/y.jpg"]
    bucket.put("t/a.tar", data=make_tar({"x.jpg": b"one"}))
    (row,) = rows(f"{bucket.name}/t")
    assert storage.read(row["source"], row["offset"], row["size"]) == b"one"
    parquet.write_table(pa.table({"image": [b"1", b"2"]}), tmp_path / "x")
    bucket.put("q/a.parquet", "q/b.parquet", data=(tmp_path / "x").read_bytes())
    assert ids(f"{bucket.name}/q") == ["a/0", "a/1", "b/0", "b/1"]
    assert "There is no" in sentence(f"{bucket.name}/none", "out")
    assert "There is no" in sentence("s3://nowhere/", "out")


# --- names ---


def table_of(*pairs: tuple[str, str]) -> pa.Table:
    """Photos with these ids and names of their own."""
    return pa.Table.from_pylist(
        [dict.fromkeys(SCHEMA.names) | {"id": key, "name": name} for key, name in pairs], SCHEMA
    )


def test_names_that_would_be_one_file_become_several():
    keys = [
        "x.jpg",
        "x.png",
        "X.gif",
        "\xe9.jpg",
        "e\u0301.png",
        "Σ.jpg",
        "ς.png",
        "a/x.jpg",
        "y.jpg",
        "y.JPG",
        "z.jpg",
    ]
    own = [(key, key.rpartition(".")[0]) for key in keys]
    found = name_results(table_of(*own))["name"].to_pylist()
    check_names(found)
    assert found[:3] == ["x.jpg", "x.png", "X.gif"]
    assert all(re.fullmatch(r"y-[0-9a-f]{12}", name) for name in found[8:10])  # one file for some
    assert [found[7], found[10]] == ["a/x", "z"]
    assert found == name_results(table_of(*own))["name"].to_pylist()


def test_who_knows_how_names_are_made_can_make_none_twice():
    keys = ["x.jpg", "x.png", "x.jpg.png"]
    for _ in range(4):  # photos that are called as those before them will be
        found = name_results(table_of(*((key, key.rpartition(".")[0]) for key in keys)))["name"].to_pylist()
        check_names(found)
        keys += [f"{name}.gif" for name in found if f"{name}.gif" not in keys]


def test_names_that_are_taken_are_left_to_who_has_them():
    taken = pa.chunked_array([["x", "Y", "z.jpg", "new/x"]], pa.string())
    found = name_results(
        table_of(("x.jpg", "x"), ("y.jpg", "y"), ("z.jpg", "z"), ("z.png", "z"), ("w.jpg", "w")), taken
    )
    told = found["name"].to_pylist()
    check_names([*told, *taken.to_pylist()])
    assert told[0] == "x.jpg"
    assert told[4] == "w"
    assert name_results(table_of(), taken).num_rows == 0


def test_names_that_many_photos_share_are_made_in_linear_time():
    seconds = []
    for count in (10_000, 40_000):
        keys = pa.array([f"{number}.x" for number in range(count)])
        columns = {name: pa.nulls(count, SCHEMA.field(name).type) for name in SCHEMA.names}
        table = pa.table(columns | {"id": keys, "name": pa.array(["same"] * count)}, SCHEMA)
        start = time.perf_counter()
        assert pc.count_distinct(name_results(table)["name"]).as_py() == count
        seconds.append(time.perf_counter() - start)
    assert seconds[1] < 10 * seconds[0] + 0.5


def test_ids_that_look_alike_once_they_are_cleaned_keep_results_apart(top):
    odd = ["a\\b", "a/b", "a-b", "../a-b", "a\nb", "a\tb", "/a-b", ".a-b", "a-b/", "", ".", "..", "/", "//", "x" * 300]
    odd += [
        "x" * 301,
        "y/" * 2000,
        "z" * 9000,
        "manifest.csv/x",
        "manifest.parquet/x",
        "A\\B",
        "é\n",
        "e\u0301\n",
        "a-b.jpg",
    ]
    save(top / "a.parquet", id=odd, image=[b"1"] * len(odd))
    found = rows("a.parquet")
    assert [row["id"] for row in found] == odd
    assert not any(row["name"].startswith("manifest.") for row in found)
