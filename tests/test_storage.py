"""Files on a disk or in a bucket: what is named, listed and read is what is there, and what is written is whole."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pytest
from helpers import LEAK, ROOT
from pyarrow import fs

from background_remover import storage
from background_remover.storage import entries, kind_of, look_at, names_in, read, remove, write, writing
from utilities import PhotoError

ODD_KEYS = ["a b.jpg", "p%20q.jpg", "what?.jpg", "a+b.jpg", "ü.jpg", "#1.jpg", "[1].jpg", "x&y=z.jpg", "d/e/f.jpg"]
BAD_NAME = os.fsdecode(b"\xff\xe9.jpg")


def paths(folder: str | Path) -> list[str]:
    return [entry.path for entry in entries(str(folder))]


def sentence(work: object, *arguments: object) -> str:
    """What a call tells, which is one sentence with no path of the machine."""
    with pytest.raises(PhotoError) as caught:
        work(*arguments)  # type: ignore[operator]
    told = str(caught.value)
    told.encode()
    assert re.fullmatch(r"[^\n]+[^.\n]\.", told), told
    assert not re.search(LEAK.replace(r"|\.py", ""), re.sub(r"'\w+://[^']*'", "", told)), told
    return told


# --- names ---


def test_a_name_is_a_path_or_elsewhere():
    for name in ("s3://b/k", "gs://b", "memory://x", "S3://b/k", "file:///x", "https://host/x"):
        assert storage.is_remote(name)
    for name in ("a/b", "/a/b", "C://x", "a:b", "://x", "", "1://x", "a b://x"):
        assert not storage.is_remote(name)


def test_file_urls_are_paths_whatever_is_in_them(tmp_path):
    for name in ("x y.jpg", "100%.jpg", "a%20b.jpg", "what?#1.jpg", "n\nl.jpg", "ü.jpg", BAD_NAME):
        path = f"{tmp_path}/{name}"
        Path(path).write_bytes(os.fsencode(name))
        url = "file://" + quote(os.fsencode(path))
        assert storage.local_path(url) == path
        assert read(url) == os.fsencode(name)
        assert kind_of(url) == "file"
    assert storage.local_path("file://localhost/a") == "/a"
    assert storage.local_path("FILE:///a%2Fb") == "/a/b"
    assert storage.local_path("file://[bad") == "/"
    assert storage.local_path("/a%20b") == "/a%20b"


def test_what_lies_in_a_folder_is_nowhere_else():
    found = {"a": "a/x", "a/": "a/x", "a//": "a/x", "/": "/x", "": "./x", ".": "./x", "s3://b/": "s3://b/x"}
    assert {folder: storage.join(folder, "x") for folder in found} == found
    write(storage.join("memory://", "root", "x"), b"data")
    assert read("memory://root/x") == b"data"


def test_two_names_that_differ_are_two_in_print():
    names = ["a\udcff", "a\\xff", "a\\udcff", "a\\\\xff", "a\\", "a\\\\", "ÿ"]
    printed = [storage.printable(name) for name in names]
    assert len(set(printed)) == len(names)
    assert "".join(printed).encode()
    assert storage.printable("plain ü/x.jpg") == "plain ü/x.jpg"


# --- this machine ---


def test_entries_are_all_files_below_a_folder_but_hidden_ones(tmp_path):
    for name in ("x.jpg", "a/y.png", "a/b/z", ".hidden", ".git/x", "a/.b/x", "n\nl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    Path(f"{tmp_path}/a/{BAD_NAME}").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "away").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to("x.jpg")
    assert paths(tmp_path) == ["link", "n\nl", "x.jpg", "a/y.png", "a/\\xff\\xe9.jpg", "a/b/z"]
    (found,) = (entry for entry in entries(f"{tmp_path}/") if entry.path == "a/b/z")
    there = (tmp_path / "a/b/z").stat()
    assert found[1:] == (there.st_size, f"{there.st_size}-{there.st_mtime_ns}")
    assert found[1:] == look_at(f"{tmp_path}/a/b/z")


def test_a_version_changes_with_a_file_alone(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"1")
    first = look_at(str(path))
    assert look_at(str(path)) == first
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert look_at(str(path)) != first
    assert look_at(f"{path}-gone") == look_at("a\0b") == look_at("x" * 5000) == (-1, "")


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in (f"{tmp_path}/pipe", "/dev/zero", f"{tmp_path}/gone", "", "a\0b", "x" * 5000):
        assert kind_of(name) == ""
        assert name.rpartition("/")[2][:9] in sentence(read, name) or "\0" in name
    assert kind_of(str(tmp_path)) == "folder"
    assert "can't be read" in sentence(read, str(tmp_path))


def test_a_file_is_read_whole_or_in_part(tmp_path):
    data = os.urandom(100_000)
    (tmp_path / "x").write_bytes(data)
    assert read(f"{tmp_path}/x") == data
    assert read(f"{tmp_path}/x", 70_000, 20_000) == data[70_000:90_000]
    assert read(f"{tmp_path}/x", 99_999, 20) == data[-1:]
    with storage.open_file(f"{tmp_path}/x") as file:
        file.seek(5)
        assert file.read(5) == data[5:10]


def test_sentences_tell_names_as_text_and_no_folders(tmp_path):
    assert sentence(read, f"{tmp_path}/{BAD_NAME}") == "There is no file '\\xff\\xe9.jpg': check the path."
    assert sentence(storage.open_file, f"{tmp_path}/x.tar") == "There is no file 'x.tar': check the path."
    assert str(tmp_path) not in sentence(storage.open_file, str(tmp_path))
    assert str(tmp_path) not in sentence(names_in, str(Path(__file__)))
    assert str(tmp_path) not in sentence(read, f"{tmp_path}/x", 0, 10)


def test_files_with_too_many_bytes_are_not_read(tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(200_000_001)
    (tmp_path / "empty").touch()
    assert "200 MB" in sentence(read, f"{tmp_path}/large")
    assert "200 MB" in sentence(read, f"{tmp_path}/large", 0, 200_000_001)
    assert "empty" in sentence(read, f"{tmp_path}/empty")


def test_files_on_a_disk_are_written_whole_and_within_their_folder(tmp_path):
    out, away = tmp_path / "out", tmp_path / "away"
    away.mkdir()
    write(f"{out}/a/x.png", b"new", str(out))
    assert (out / "a/x.png").read_bytes() == b"new"
    (out / "link").symlink_to(away)
    assert "link" in sentence(write, f"{out}/link/x.png", b"x", str(out))
    assert "link" in sentence(write, f"{out}/../x.png", b"x", str(out))
    assert list(away.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["away", "out"]
    (out / "b").touch()
    assert "can't be written" in sentence(write, f"{out}/b/x.png", b"x", str(out))
    assert "can't be written" in sentence(write, f"{out}/{'x' * 256}", b"x", str(out))
    write(f"{out}/{'x' * 255}", b"x", str(out))


def test_what_fails_while_it_is_written_leaves_the_file_as_it_was(tmp_path, bucket):
    for folder in (str(tmp_path), bucket.name, "memory://writing"):
        write(f"{folder}/x", b"before")
        with pytest.raises(TypeError), writing(f"{folder}/x") as file:
            file.writelines([b"half", "no bytes"])
        assert read(f"{folder}/x") == b"before"
        assert paths(folder) == ["x"]
        with writing(f"{folder}/x") as file:
            file.write(b"af")
            file.write(b"ter")
        assert read(f"{folder}/x") == b"after"
    with pytest.raises(PhotoError), writing(f"{tmp_path}/x/y"):
        pass


def test_a_disk_that_is_full_keeps_what_it_has(small_disk):
    write(f"{small_disk}/x", b"before", str(small_disk))
    assert "No space" in sentence(write, f"{small_disk}/x", bytes(100_000), str(small_disk))
    assert (small_disk / "x").read_bytes() == b"before"
    assert paths(small_disk) == ["x"]


def test_names_and_deletion(tmp_path, bucket):
    for folder in (f"{tmp_path}/f", f"{bucket.name}/f", "memory://names/f"):
        assert names_in(folder) == []
        for name in ("b", "a", ".c", "d/e"):
            write(f"{folder}/{name}", b"x")
        assert names_in(folder) == [".c", "a", "b"]
        remove(f"{folder}/a")
        remove(f"{folder}/gone")
        remove(f"{folder}/d")  # a folder, which stays
        assert names_in(folder) == [".c", "b"]
        assert read(f"{folder}/d/e") == b"x"


# --- buckets ---


def test_objects_are_listed_and_read_whatever_their_keys(bucket):
    for key in ODD_KEYS:
        bucket.put(key, data=key.encode())
    bucket.put(".hidden.jpg", "d/.e/x.jpg")
    assert sorted(paths(bucket.name)) == sorted(ODD_KEYS)
    assert sorted(paths(f"{bucket.name}/")) == sorted(ODD_KEYS)
    assert paths(f"{bucket.name}/d") == paths(f"{bucket.name}/d/") == ["e/f.jpg"]
    for key in ODD_KEYS:
        assert read(f"{bucket.name}/{key}") == key.encode()
        assert read(f"{bucket.name}/{key}", 1, 3) == key.encode()[1:4]
        assert kind_of(f"{bucket.name}/{key}") == "file"
        assert look_at(f"{bucket.name}/{key}")[0] == len(key.encode())


def test_keys_that_arrow_does_not_take_have_their_sentence(bucket):
    bucket.put("x//y.jpg", "/z.jpg", "w.jpg")
    assert sorted(paths(bucket.name)) == ["/z.jpg", "w.jpg", "x//y.jpg"]
    for key in ("x//y.jpg", "/z.jpg"):
        assert "nothing between two '/'" in sentence(read, f"{bucket.name}/{key}")


def test_dots_in_keys_lead_nowhere(bucket, tmp_path):
    bucket.put("a/../b.jpg", data=b"dots")
    bucket.put("b.jpg", data=b"none")
    assert paths(bucket.name) == ["a/../b.jpg", "b.jpg"] or paths(bucket.name) == ["b.jpg"]
    assert read(f"{bucket.name}/b.jpg") == b"none"


def test_all_of_more_than_a_thousand_objects_are_listed(bucket):
    names = [f"f{number % 7}/{number:05}.jpg" for number in range(2345)]
    bucket.put(*names)
    found = list(entries(bucket.name))
    assert [entry.path for entry in found] == sorted(names)
    assert {entry.size for entry in found} == {len(b"a photo")}
    assert all(re.fullmatch(r"7-\d{19}", entry.version) for entry in found)


def test_what_is_not_there_is_told(bucket):
    assert kind_of(f"{bucket.name}/none") == ""
    assert kind_of(bucket.name) == kind_of(f"{bucket.name}/") == "folder"
    assert paths(f"{bucket.name}/none") == names_in(f"{bucket.name}/none") == []
    assert "There is no 's3://nowhere'" in sentence(kind_of, "s3://nowhere")
    assert "'x.jpg'" in sentence(read, f"{bucket.name}/x.jpg")
    assert "'x.jpg'" in sentence(read, "s3://nowhere/x.jpg")
    assert "no such bucket" in sentence(write, "s3://nowhere/x.png", b"x")
    for name in ("none://x/y", "hdfs://x/y", "s3://a b/y", "none://x::y/z"):
        assert "can't be reached" in sentence(read, name)


def test_objects_are_there_whole_or_not_at_all(bucket):
    data = os.urandom(12_000_000)  # more than a part of an upload has
    system, path = storage.locate(f"{bucket.name}/x.png")
    stream = system.open_output_stream(path)
    stream.write(data)
    assert bucket.keys() == []
    stream.close()
    assert bucket.get("x.png") == data
    write(f"{bucket.name}/ü/a b?%.png", pa.py_buffer(data))
    assert bucket.get("ü/a b?%.png") == data
    assert bucket.keys() == ["x.png", "ü/a b?%.png"]  # and no markers of folders


def test_wrong_keys_are_told(bucket, monkeypatch):
    def refused(*_: object) -> None:
        raise OSError("When listing: AWS Error ACCESS_DENIED during ListObjectsV2 operation: No. /srv/x.py")

    monkeypatch.setattr(storage, "locate", lambda name: (Refusing(), "x/y.jpg"))
    names = ("get_file_info", "open_input_file", "open_output_stream", "delete_file")
    Refusing = type("Refusing", (), dict.fromkeys(names, refused))
    for work in (read, kind_of, look_at, remove, names_in, storage.open_file, lambda name: list(entries(name))):
        assert "(access denied): check it, and the keys for it." in sentence(work, "s3://x/y.jpg")
    assert "access denied" in sentence(write, "s3://x/y.jpg", b"x")


def test_nothing_but_the_endpoint_is_asked(bucket, tmp_path):
    if not shutil.which("strace"):
        pytest.skip("needs strace")
    bucket.put("a/x.jpg")
    code = f"""from background_remover import storage
assert [entry.path for entry in storage.entries({bucket.name!r} + "/a")] == ["x.jpg"]
storage.write({bucket.name!r} + "/y.png", storage.read({bucket.name!r} + "/a/x.jpg"))"""
    trace = tmp_path / "trace"
    for region in ({"AWS_REGION": "us-east-1"}, {"AWS_REGION": ""}):
        command = ["strace", "-f", "-e", "trace=connect,sendto", "-o", str(trace), sys.executable, "-c", code]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | region, capture_output=True, text=True, check=False)
        if "ptrace" in done.stderr:
            pytest.skip("may not trace")
        assert done.returncode == 0, done.stderr
        asked = set(re.findall(r'sin_port=htons\((\d+)\), sin_addr=inet_addr\("([\d.]+)"\)', trace.read_text()))
        assert asked == {(bucket.url.rpartition(":")[2], "127.0.0.1")}


# --- what else there is ---


def test_file_systems_that_arrow_does_not_know_are_those_of_fsspec(tmp_path):
    write("memory://shop/a/x%20y.jpg", b"in memory")
    assert read("memory://shop/a/x%20y.jpg") == b"in memory"
    assert paths("memory://shop") == ["a/x%20y.jpg"]
    assert kind_of("memory://shop") == "folder"
    assert kind_of("memory://shop/none") == ""
    assert isinstance(storage.locate("memory://shop")[0], fs.PyFileSystem)
    assert "'none'" in sentence(read, "memory://shop/none")


def test_folders_are_made_where_a_file_system_has_some(tmp_path):
    write(f"local://{tmp_path}/a/b/x", b"data")
    assert (tmp_path / "a/b/x").read_bytes() == b"data"
    assert stat.S_ISDIR((tmp_path / "a/b").stat().st_mode)
