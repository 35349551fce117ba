"""Catalogues on a real Ray: what is left to do, faults, kills, a cluster of two nodes, buckets."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pytest
import standins
from click.testing import CliRunner, Result
from helpers import PERSON, ROOT
from PIL import Image
from pyarrow import parquet

from background_remover import Finish, batch, cli, weights
from background_remover.catalogue import read_catalogue
from background_remover.cutters import SECONDS, Order
from background_remover.manifest import SCHEMA, Manifest
from background_remover.outputs import is_whole

STAND_IN = """
import json, sys
from background_remover import Finish, batch
from background_remover.cutters import Order
import standins
source, results, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
seconds, load = options.pop("seconds", 120.0), getattr(standins, options.pop("load", "copying"))
order = Order(Finish(), way="w", load=load, seconds=seconds)
print(json.dumps(batch.run(source, results, order, **options)))
"""  # a run with a network that copies


def environment(**env: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return os.environ | {"PYTHONPATH": path, "RMBG_WEIGHTS": weights.ISNET} | env


def start(source: object, results: object, **options: object) -> subprocess.Popen:
    """A run in a process, and in a group of its own."""
    command = [sys.executable, "-c", STAND_IN, str(source), str(results), json.dumps(options)]
    env = environment(**({"RAY_AUTH_MODE": "disabled"} if "address" in options else {}))
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0)


def finish(process: subprocess.Popen, timeout: float = 240) -> dict[str, int]:
    """What a run gives in the end."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, err.decode()
    return json.loads(out.splitlines()[-1])


def command(*arguments: object, **env: str) -> subprocess.CompletedProcess:
    """The command, with the real network."""
    words = [sys.executable, "-m", "background_remover", "batch", *map(str, arguments)]
    return subprocess.run(words, env=environment(**env), capture_output=True, text=True, timeout=240, check=False)


def rows_of(results: Path) -> dict[str, dict]:
    """The manifest by id, each of which is in it once."""
    rows = parquet.read_table(results / "manifest.parquet").to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row for row in rows}


def fill(folder: Path, count: int, deed: str = "") -> list[str]:
    """So many photos, each like no other; all do a deed, if there is one."""
    folder.mkdir(exist_ok=True)
    names = [f"{number:03}.png" for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(standins.photo(number, deed))
    return names


def is_right(results: Path, photos: Path, name: str) -> bool:
    """Whether a result is, byte for byte, what the library makes of the photo."""
    return (results / name).read_bytes() == standins.result(photos / name)


def wait_for(condition: Callable[[], object], process: subprocess.Popen, seconds: float = 120) -> None:
    """While a run goes on. One that ends, or in which it does not come to that, is ended."""
    standins.until(lambda: condition() or process.poll() is not None, seconds)
    if process.poll() is not None or not condition():
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(process.communicate()[1].decode())


# --- what is left to do ---

ORDER = Order(Finish(), way="now")


def prepared(folder: Path, order: Order = ORDER, **options: bool) -> list[str]:
    """The ids of what there is to do."""
    photos = read_catalogue(str(folder / "in"), str(folder / "out"))
    return batch.prepare(photos, str(folder / "out"), order, **options).pending["id"].to_pylist()


def tell(folder: Path, *names: str, status: str = "done", way: str = "now", size: int | None = None) -> None:
    """Write into the manifest that these photos are done, and results of as many bytes as it says."""
    manifest = Manifest(str(folder / "out"))
    for name in names:
        found = (folder / "in" / name).stat()
        row = dict.fromkeys(SCHEMA.names) | {"id": name, "status": status, "way": way}
        row["version"] = f"{found.st_size}-{found.st_mtime_ns}"
        if status in ("done", "no subject"):
            result = folder / "out" / Path(name).with_suffix(".png")
            result.parent.mkdir(exist_ok=True)
            result.write_bytes(b"result")
            row |= {"output": result.name, "output_bytes": 6 if size is None else size}
        manifest.add([row])
    manifest.flush()


def test_what_the_manifest_says_is_done_is_not_done_again_unless_something_has_changed(tmp_path):
    names = fill(tmp_path / "in", 8)
    assert prepared(tmp_path) == names
    tell(tmp_path, *names[:6])
    assert prepared(tmp_path) == names[6:]
    os.utime(tmp_path / "in" / names[0], ns=(1, 1))  # another photo of that name
    (tmp_path / "out" / names[1]).unlink()
    (tmp_path / "out" / names[2]).write_bytes(b"res")  # truncated
    tell(tmp_path, names[3], way="another")  # by a run since then, with other options
    assert prepared(tmp_path) == names[:4] + names[6:]
    assert prepared(tmp_path, Order(Finish(), way="another")) == names[:3] + names[4:]


def test_what_was_refused_or_failed_is_done_again_only_if_that_is_asked_for(tmp_path):
    names = fill(tmp_path / "in", 4)
    tell(tmp_path, names[0])
    tell(tmp_path, names[1], status="refused")
    tell(tmp_path, names[2], status="failed")
    tell(tmp_path, names[3], status="no subject")
    assert prepared(tmp_path) == []
    assert prepared(tmp_path, retry_failed=True) == names[1:3]


def test_a_photo_that_comes_later_takes_no_result_of_another(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("x.jpg", "y.JPG"):
        (tmp_path / "in" / name).write_bytes(standins.photo())
    tell(tmp_path, "x.jpg", "y.JPG")
    (tmp_path / "in" / "x.webp").write_bytes(standins.photo())
    (tmp_path / "in" / "Y.png").write_bytes(standins.photo())
    photos = read_catalogue(str(tmp_path / "in"), str(tmp_path / "out"))
    pending = batch.prepare(photos, str(tmp_path / "out"), ORDER).pending
    results = [name.casefold() + ".png" for name in pending["name"].to_pylist()]
    assert len(pending) == 2
    assert not {*results} & {"x.png", "y.png"}


def test_what_decides_on_the_looks_decides_on_the_way(isnet_net, monkeypatch):
    monkeypatch.setenv("RMBG_PRECISION", "")

    def way(**changed: object) -> str:
        return batch.pin(Order(Finish(**changed.pop("finish", {})), weights=weights.ISNET, **changed)).way

    ways = [way(), way(refine=True), way(finish={"background": "white"}), way(precision="fp32")]
    ways.append(way(finish={"background_image": PERSON}))
    assert len({*ways}) == len(ways)
    assert way() == way(seconds=3.0)
    pinned = batch.pin(Order(Finish(background_image=PERSON), weights=weights.ISNET))
    assert pinned.finish.background_image == PERSON.read_bytes()
    assert pinned.sha256 == weights.load(weights.ISNET).sha256
    assert pinned.precision is None
    monkeypatch.setenv("RMBG_PRECISION", "fp32")  # of this machine: the others are told
    assert batch.pin(Order(Finish(), weights=weights.ISNET)).precision == "fp32"
    assert way() == way(precision="fp32") == ways[3]
    assert way(precision="bf16") not in ways


@pytest.mark.parametrize(
    ("nodes", "device", "cluster"),
    [
        ([{"CPU": 2}], None, (1, 2, 0)),
        ([{"CPU": 0}, {"CPU": 1}, {"CPU": 1}], None, (2, 1, 0)),
        ([{"CPU": 64}], None, (8, 8, 0)),
        ([{"CPU": 8}, {"CPU": 6}], None, (2, 6, 0)),
        ([{"CPU": 16}, {"CPU": 32, "GPU": 4}], None, (8, 4, 0.5)),
        ([{"CPU": 96, "GPU": 1}], "cuda", (4, 4, 0.25)),
        ([{"CPU": 3, "GPU": 1}], None, (1, 3, 1)),
        ([{"CPU": 8, "GPU": 1}, {"CPU": 4, "GPU": 1}], None, (2, 4, 1)),
        ([{"CPU": 16, "GPU": 1}], "cpu", (2, 8, 0)),
        ([{"CPU": 1}, {"CPU": 64}], None, (8, 8, 0)),
        ([{"CPU": 2}], "cuda", (1, 1, 1)),
        ([], None, (1, 1, 0)),
    ],
)
def test_there_are_some_actors_for_each_gpu_or_one_for_some_cores_of_each_node(nodes, device, cluster):
    assert batch.size_cluster(nodes, device) == cluster
    assert batch.size_cluster(nodes, device, 7).actors == 7


@pytest.mark.parametrize(
    ("cores", "actors", "cluster"),
    [
        (96, None, (16, 4, 0.25)),
        (96, 4, (4, 16, 1)),
        (96, 6, (6, 8, 0.5)),
        (96, 40, (40, 4, 0.25)),
        (24, None, (4, 6, 1)),
    ],
)
def test_gpus_are_shared_only_if_all_have_work(cores, actors, cluster):
    assert batch.size_cluster([{"CPU": cores, "GPU": 4}], "cuda", actors) == cluster


def test_rows_that_are_made_anew_leave_none_of_before_behind(tmp_path):
    """Also where they lie in one file with those of photos that are gone since."""
    names, out = fill(tmp_path / "in", 3), tmp_path / "out.parquet"
    manifest, part = Manifest(str(out), "_"), batch.PART.format("0" * 20)
    for name in names:
        found = (tmp_path / "in" / name).stat()
        row = {"id": name, "status": "done", "way": "now", "output": part}
        row["version"] = f"{found.st_size}-{found.st_mtime_ns}"
        manifest.add([dict.fromkeys(SCHEMA.names) | row])
    manifest.flush()
    (out / part).write_bytes(b"rows")
    (out / "part-0.parquet").write_bytes(b"somebody else's")

    def pending() -> list[str]:
        photos = read_catalogue(str(tmp_path / "in"), str(out))
        return batch.prepare(photos, str(out), ORDER).pending["id"].to_pylist()

    assert pending() == []
    (tmp_path / "in" / names[0]).unlink()
    assert pending() == []
    assert (out / part).exists()
    os.utime(tmp_path / "in" / names[1], ns=(1, 1))
    assert pending() == names[1:]
    assert {path.name for path in out.glob("*.parquet")} == {"part-0.parquet"}


@pytest.mark.parametrize(
    ("source", "results", "sentence"),
    [
        ("nowhere", "out", "There is no 'nowhere'"),
        ("in", "in", "The photos lie in the folder for results"),
        ("in", "https://example.com/out", "Results can't go to a web address"),
        ("in", "in/000.png", "'000.png' can't be written"),
        ("empty", "out", "There are no photos in 'empty'"),
    ],
)
def test_what_was_called_wrongly_is_told_and_changes_nothing(tmp_path, monkeypatch, source, results, sentence):
    fill(tmp_path / "in", 1)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(batch, "pin", lambda order: order)
    before = {*tmp_path.rglob("*")}
    done: Result = CliRunner().invoke(cli.cutout, ["batch", source, results])
    assert done.exit_code == 3
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert {*tmp_path.rglob("*")} == before


def test_the_time_for_a_photo_is_what_the_command_and_the_readme_say():
    option = next(option for option in cli.cutout.commands["batch"].params if option.name == "timeout")
    assert option.default == SECONDS
    assert f"[{SECONDS:.0f}]" in option.help
    assert f"`--timeout` ({SECONDS:.0f} seconds)" in (ROOT / "README.md").read_text()


def test_one_run_at_a_time_works_on_a_folder(tmp_path):
    fill(tmp_path / "in", 1)
    with batch._alone(str(tmp_path / "out")), pytest.raises(batch.BatchError, match="Another run works on 'out'"):
        batch.run(str(tmp_path / "in"), str(tmp_path / "out"), ORDER)


def test_a_background_that_is_no_picture_is_told_before_anything_is_begun(tmp_path):
    fill(tmp_path / "in", 1)
    (tmp_path / "text.png").write_text("no picture")
    arguments = ["batch", tmp_path / "in", tmp_path / "out", "--background-image", tmp_path / "text.png"]
    done = CliRunner().invoke(cli.cutout, [*map(str, arguments)])
    assert done.exit_code == 2
    assert not (tmp_path / "out").exists()


# --- faults ---


@pytest.mark.slow
def test_each_fault_has_its_row_and_its_reason_and_stops_nothing(tmp_path):
    names = fill(tmp_path / "in", 60)
    for name, deed in (("hang", "sleep"), ("kill", "kill"), ("odd", "raise_something_odd")):
        (tmp_path / "in" / f"{name}.png").write_bytes(standins.photo(1, deed))
    photo = (tmp_path / "in" / names[0]).read_bytes()
    for name, data in (("cut", photo[:100]), ("text", b"no photo at all"), ("empty", b"")):
        (tmp_path / "in" / f"{name}.png").write_bytes(data)
    (tmp_path / "in" / "gone.png").symlink_to(tmp_path / "nowhere")
    counts = finish(start(tmp_path / "in", tmp_path / "out", seconds=4.0))
    assert counts == {"done": 60, "no subject": 0, "refused": 3, "failed": 4, "missing": 0}
    rows = rows_of(tmp_path / "out")
    assert rows.keys() == {*names, *(f"{name}.png" for name in ["hang", "kill", "odd", "cut", "text", "empty", "gone"])}
    assert Counter(row["status"] for row in rows.values()) == {"done": 60, "refused": 3, "failed": 4}
    for name, status, reason in (
        ("hang", "failed", "longer than 4 seconds"),
        ("kill", "failed", "ended the process"),
        ("odd", "failed", "Something went wrong"),
        ("cut", "refused", "damaged or incomplete"),
        ("text", "refused", "not a photo"),
        ("empty", "refused", "is empty"),
        ("gone", "failed", "no file 'gone.png'"),
    ):
        row = rows[f"{name}.png"]
        assert (row["status"], row["output"], row["sha256"]) == (status, None, None)
        assert reason in row["reason"]
    assert all(is_right(tmp_path / "out", tmp_path / "in", name) for name in names)
    for name in ["hang", "kill", "odd", "cut", "text", "empty"]:  # replaced by sound ones, they are done
        (tmp_path / "in" / f"{name}.png").write_bytes(photo)
    (tmp_path / "in" / "gone.png").unlink()
    (tmp_path / "in" / "gone.png").write_bytes(photo)
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    assert finish(start(tmp_path / "in", tmp_path / "out"))["done"] == 67
    assert all(path.stat().st_mtime_ns == time for path, time in again.items())


@pytest.mark.slow
def test_killed_three_times_it_does_only_the_rest(tmp_path):
    """The whole run, or its first process alone."""
    names = fill(tmp_path / "in", 90, "be_slow")
    out = tmp_path / "out"
    made: dict[Path, int] = {}
    for number, kill in ((4, os.killpg), (22, os.kill), (45, os.killpg)):
        process = start(tmp_path / "in", out)
        wait_for(lambda number=number: len([*out.glob("*.png")]) >= number, process)
        kill(process.pid, signal.SIGKILL)
        process.communicate()
        time.sleep(3)  # until its workers have seen that
        assert all(is_whole(path) for path in out.glob("*.png"))
        assert all(path.stat().st_mtime_ns == time for path, time in made.items())
        made |= {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert len(made) < len(names)
    assert finish(start(tmp_path / "in", out))["done"] == len(names)
    assert all(path.stat().st_mtime_ns == time for path, time in made.items())
    rows = rows_of(out)
    assert rows.keys() == {*names}
    assert all(is_right(out, tmp_path / "in", name) for name in names)
    assert {row["output"] for row in rows.values()} == {*names}
    assert not [path for path in out.rglob("*") if path.suffix == ".part"]


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """The address of two nodes with a core each, on this machine."""
    ray, port = Path(sys.executable).with_name("ray"), 6390
    env = environment(RAY_AUTH_MODE="disabled", RAY_TMPDIR=str(folder))
    some = ["--num-cpus=1", "--object-store-memory=100000000", "--block"]
    nodes = []
    try:
        for words in (["--head", f"--port={port}", "--include-dashboard=false"], [f"--address=127.0.0.1:{port}"]):
            command = [ray, "start", *words, *some]
            nodes.append(subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            time.sleep(6)
        yield f"127.0.0.1:{port}"
    finally:
        for pid in processes("", folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for node in nodes:
            node.wait(30)


def processes(word: str, folder: Path) -> list[int]:
    """Those of a cluster in that folder which have a word in their command lines, the oldest first."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if word in line and f"RAY_TMPDIR={folder}".encode() in (path / "environ").read_bytes():
                found.append(int(path.name))
    return sorted(found)


@pytest.mark.slow
def test_a_cluster_loses_nothing_where_a_process_an_actor_and_a_node_are_killed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("c")
    names = fill(folder / "in", 240, "be_slow")
    out = folder / "out"
    with cluster(folder / "ray") as address:
        process = start(folder / "in", out, address=address, load="one_by_one")
        wait_for(lambda: len(processes("ray::MapWorker", folder / "ray")) == 2, process)  # one on each node
        first, second = processes("ray::MapWorker", folder / "ray")
        wait_for(lambda: len([*out.glob("*.png")]) >= 20, process)
        lists = [path.read_text().split() for path in Path(f"/proc/{second}/task").glob("*/children")]
        child = next(int(pid) for pids in lists for pid in pids)
        os.kill(child, signal.SIGKILL)
        wait_for(lambda: len([*out.glob("*.png")]) >= 60, process)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: len([*out.glob("*.png")]) >= 100, process)
        os.kill(processes("raylet/raylet ", folder / "ray")[1], signal.SIGKILL)
        counts = finish(process)
    assert counts == {"done": len(names), "no subject": 0, "refused": 0, "failed": 0, "missing": 0}
    assert rows_of(out).keys() == {*names}
    assert all(is_right(out, folder / "in", name) for name in names)


@pytest.mark.slow
def test_ctrl_c_ends_it_and_what_is_done_stays(tmp_path):
    fill(tmp_path / "in", 300, "be_slow")
    process = start(tmp_path / "in", tmp_path / "out")
    wait_for(lambda: len([*(tmp_path / "out").glob("*.png")]) >= 70, process)
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=30)[1]
    made = len([*(tmp_path / "out").glob("*.png")])
    assert 70 <= made < 300
    assert Manifest(str(tmp_path / "out")).read("id").num_rows >= 16  # a unit at least: what was in hand is not told of


# --- all the ways in and out ---


@pytest.mark.slow
def test_folder_parquet_tar_and_bucket_give_the_same_bytes_as_the_command_line(tmp_path, bucket, remover):
    """With the real network."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("person.jpg", "cat.jpg"):
        with Image.open(ROOT / "examples" / name) as image:
            image.thumbnail((400, 400))
            image.save(photos / name)
    table = pa.table(
        {"id": ["person", "cat"], "image": [(photos / f"{name}.jpg").read_bytes() for name in ("person", "cat")]}
    )
    parquet.write_table(table, tmp_path / "photos.parquet")
    subprocess.run(["tar", "-cf", tmp_path / "photos.tar", "-C", photos, "person.jpg", "cat.jpg"], check=True)
    for path in photos.iterdir():
        bucket.put(f"in/{path.name}", data=path.read_bytes())
    single = [sys.executable, "-m", "background_remover", str(photos), "-o", str(tmp_path / "single")]
    subprocess.run(single, env=environment(), check=True, capture_output=True)
    truth = {name: (tmp_path / "single" / f"{name}.png").read_bytes() for name in ("person", "cat")}
    remover(photos / "cat.jpg").save(tmp_path / "cat.png")
    assert (tmp_path / "cat.png").read_bytes() == truth["cat"]
    for source, below in ((photos, ""), (tmp_path / "photos.parquet", ""), (tmp_path / "photos.tar", "photos/")):
        out = tmp_path / f"out-{source.name}-files"
        done = command(source, out)
        assert done.returncode == 0, done.stderr
        assert "2 photos: 2 done" in done.stderr
        assert {name: (out / below / f"{name}.png").read_bytes() for name in truth} == truth
    done = command(f"{bucket.name}/in", f"{bucket.name}/out")
    assert done.returncode == 0, done.stderr
    for name, data in truth.items():
        assert bucket.get(f"out/{name}.png") == data
    before = {name: bucket.written(f"out/{name}.png") for name in truth}
    again = command(f"{bucket.name}/in", f"{bucket.name}/out")
    assert again.returncode == 0, again.stderr
    assert {name: bucket.written(f"out/{name}.png") for name in truth} == before  # nothing was left to do
    done = command(photos, tmp_path / "rows.parquet")
    assert done.returncode == 0, done.stderr
    rows = parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert {row["id"].removesuffix(".jpg"): row["image"] for row in rows} == truth


@pytest.mark.slow
def test_rows_of_parquet_are_each_there_once_after_a_kill(tmp_path):
    names = fill(tmp_path / "in", 60, "be_slow")
    out = tmp_path / "out.parquet"
    process = start(tmp_path / "in", out)
    wait_for(lambda: len([*out.glob("cutouts-*.parquet")]) >= 2, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(3)
    assert finish(start(tmp_path / "in", out))["done"] == len(names)
    os.utime(tmp_path / "in" / names[5], ns=(1, 1))  # one that is to be made anew, in a file with others
    assert finish(start(tmp_path / "in", out))["done"] == len(names)
    rows = parquet.read_table(out).to_pylist()
    assert sorted(row["id"] for row in rows) == names
    for row in rows[::7]:
        assert row["image"] == standins.result(tmp_path / "in" / row["id"])
    manifest = parquet.read_table(out / "_manifest.parquet").to_pylist()
    parts = {row["id"]: row["output"] for row in manifest}
    assert {*parts.values()} == {path.name for path in out.glob("cutouts-*.parquet")}


@pytest.mark.slow
def test_nothing_that_lies_among_the_photos_is_run(tmp_path):
    """Nor in the folder from which the command is called."""
    fill(tmp_path, 2)
    for name in ("numpy", "pyarrow", "ray", "json", "background_remover"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\nraise SystemExit(3)\n")
    words = [sys.executable, "-P", "-c", STAND_IN, ".", "out", "{}"]
    env = environment(RAY_ADDRESS="192.0.2.1:6379")  # of a cluster that is not meant
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["done"] == 2
    assert not (tmp_path / "was-run").exists()
