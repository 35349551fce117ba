"""The command line as people and scripts use it: real processes, and the real network in this one."""

import csv
import hashlib
import io
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result
from helpers import PERSON, ROOT, encoded, pixels, serving
from PIL import Image

from background_remover import Finish, cli, fetch, weights
from background_remover.choices import CHOICES
from background_remover.cutout import OUTPUTS
from background_remover.encoding import ENCODERS
from background_remover.finding import SETTLED
from background_remover.outputs import PART, is_whole, read_origin
from background_remover.shadows import SHADOWS

COMMAND = [sys.executable, "-m", "background_remover"]
ENVIRONMENT = os.environ | {"RMBG_WEIGHTS": weights.ISNET, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
SMALL = encoded(Image.open(PERSON).resize((300, 200)), "JPEG")
OTHERS = {"output", "background_image"}  # fields of `Finish` that have options of another kind


def fill(folder: Path, *names: str, data: bytes = SMALL) -> list[Path]:
    """Photos of these names, in folders that are made."""
    for path in (paths := [folder / name for name in names]):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return paths


def tree(folder: Path) -> set[str]:
    """All files below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def wait_for(condition: Callable[[], object], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def invoke(monkeypatch, tmp_path) -> Callable[..., Result]:
    """The command in this process and an empty folder, without weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "load", lambda *_: pytest.fail("the network is not needed"))
    return lambda *arguments, **options: CliRunner().invoke(cli.cutout, [*map(str, arguments)], **options)


@pytest.fixture
def cutout(invoke, monkeypatch, remover) -> Callable[..., Result]:
    """The same with the network; `forwards` of it says how often that ran."""

    def forward(images):
        run.forwards += 1
        return original(images)

    def run(*arguments: object, **options: object) -> Result:
        return invoke(*arguments, **options)

    original, run.forwards = remover.engine.forward, 0
    monkeypatch.setattr(remover.engine, "forward", forward)
    monkeypatch.setattr(cli, "load", lambda *_: remover)
    return run


@contextmanager
def process(*arguments: object, **options: object) -> Iterator[subprocess.Popen]:
    """The command in a process of its own, with pipes, which doesn't outlive the test."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*COMMAND, *map(str, arguments)], env=ENVIRONMENT, **(pipes | options)) as started:
        try:
            yield started
        finally:
            started.kill()


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess:
    command = [*COMMAND, *map(str, arguments)]
    given = {"env": ENVIRONMENT, "capture_output": True, "timeout": 120} | options
    return subprocess.run(command, check=False, **given)


# --- options ---


def test_the_choices_are_the_fields_of_a_finish_with_their_defaults():
    of_finish = {field.name: field.default for field in fields(Finish) if field.name != "background_image"}
    assert {choice.name: choice.default for choice in CHOICES} == of_finish
    kinds = {field.name: field.type for field in fields(Finish)}
    assert {choice.name: choice.kind.__name__ for choice in CHOICES} == {
        choice.name: kinds[choice.name].removesuffix(" | None") for choice in CHOICES
    }
    values = {choice.name: choice.values for choice in CHOICES if choice.values}
    assert values["output"] == OUTPUTS
    assert values["shadow"] == SHADOWS
    assert {ENCODERS[f".{value}"].name for value in values["format"]} == {encoder.name for encoder in ENCODERS.values()}


def test_each_choice_is_an_option_and_nothing_else_is_made_of_it(invoke):
    Path("image.png").write_bytes(encoded(Image.new("RGB", (9, 9)), "PNG"))
    given = {
        "background": "red",
        "background_image": "image.png",
        "blur": 0.1,
        "crop": True,
        "margin": 0.2,
        "width": 70,
        "height": 80,
        "format": "webp",
        "quality": 33,
        "output": "matte",
        "shadow": "drop",
        "shadow_strength": 0.7,
        "shadow_softness": 0.05,
        "shadow_direction": 200.0,
        "clean": True,
    }
    assert given.keys() == {field.name for field in fields(Finish)}
    arguments = [
        word
        for name, value in given.items()
        if name not in ("crop", "output", "clean")
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    for words, wanted in (
        (["--crop", "--clean", "--matte", *arguments], given),
        ([], {f.name: f.default for f in fields(Finish)}),
    ):
        options = cli.photos_command.make_context("cutout", ["x.jpg", *words]).params
        del options["photos"], options["watch"]
        made = {field.name: getattr(cli.Run(**options)._finish, field.name) for field in fields(Finish)}
        made["background_image"] = made["background_image"] and str(made["background_image"])
        assert made == wanted


@pytest.mark.slow
def test_help_comes_at_once_and_imports_nothing_heavy():
    took = []
    for _ in range(5):
        start = time.monotonic()
        done = run("--help", text=True)
        took.append(time.monotonic() - start)
        assert done.returncode == 0, done.stderr
    assert min(took) < 0.4
    assert all(f"--{field.name.replace('_', '-')}" in done.stdout for field in fields(Finish) if field.name != "output")
    command = [sys.executable, "-X", "importtime", "-m", "background_remover", "--help"]
    told = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True).stderr
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in told.splitlines()}
    assert "click" in imported
    assert not imported & {"torch", "numpy", "PIL", "cv2", "httpx", "asyncio", "gradio", "tqdm"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Usage"),
        (["--json"], "Name a photo"),
        (["empty"], "There are no photos there"),
        (["x.jpg", "--nonsense"], "No such option"),
        (["x.jpg", "--quality", "200"], "A quality of 200 can't be made"),
        (["x.jpg", "--crop", "--margin", "nan"], "A margin of nan can't be made"),
        (["x.jpg", "--background", "nonsense"], "This is not a colour"),
        (["x.jpg", "--shadow", "long"], "'long' is not one of"),
        (["x.jpg", "--shadow", "drop", "--shadow-softness", "1"], "A shadow's softness can't be 1.0"),
        (["x.jpg", "--background-image", "gone.png"], "There is no file 'gone.png'"),
        (["x.jpg", "--format", "gif"], "'gif' is not one of"),
        (["x.jpg", "-o", "x.gif"], "'.gif' is not a format to save in"),
        (["x.jpg", "-o", "y.png", "--format", "jpg"], "'y.png' is no jpg file"),
        (["x.jpg", "-o", ""], "The name for results is empty"),
        (["x.jpg", "-o", "-"], "Only the result of '-' goes to standard output"),
        (["x.jpg", "-o", "text.txt"], "'text.txt' is a file"),
        (["x.jpg", "-o", "x.jpg"], "'x.jpg' is the photo itself"),
        (["x.jpg", "-o", "link.jpg"], "'link.jpg' is the photo itself"),
        (["x.jpg", "y.jpg", "-o", "z.png"], "'z.png' is one file, for 2 photos"),
        (["y.jpg", "--report", "x.jpg"], "'x.jpg' is no name for a report"),
        (["--watch", "empty", "-o", "z.png"], "'z.png' is one file"),
        (["-", "x.jpg"], "'-' stands alone"),
        (["-", "--json"], "'-' stands alone"),
        (["-", "-o", "folder"], "The result of '-' is a picture"),
    ],
)
def test_what_was_called_wrongly_is_told_and_changes_nothing(invoke, tmp_path, arguments, sentence):
    fill(tmp_path, "x.jpg", "y.jpg")
    fill(tmp_path, "text.txt", data=b"text")
    Path("empty").mkdir()
    Path("link.jpg").symlink_to("x.jpg")
    before = {name: Path(name).read_bytes() for name in tree(tmp_path)}
    done = invoke(*arguments)
    assert (done.exit_code, sentence in done.output) == (2, True), done.output
    assert {name: Path(name).read_bytes() for name in tree(tmp_path)} == before


def test_weights_that_are_not_there_end_it_with_a_sentence(monkeypatch, tmp_path):
    (photo,) = fill(tmp_path, "x.jpg")
    done = CliRunner().invoke(cli.cutout, [str(photo), "--weights", str(tmp_path / "gone")])
    assert done.exit_code == 1
    assert done.output.startswith("Error: There are no weights named")
    assert tree(tmp_path) == {"x.jpg"}


# --- results ---


def test_of_twenty_photos_two_are_broken_and_again_nothing_is_left_to_do(cutout, tmp_path):
    photos = fill(tmp_path / "photos", *(f"{'abc'[at % 3]}/{at}.jpg" for at in range(20)))
    fill(tmp_path / "photos", "a/3.jpg", data=b"no photo")
    fill(tmp_path / "photos", "b/4.jpg", data=SMALL[:3000])
    first = cutout("photos", "-o", "out", "--json", "--report", "report.csv")
    assert first.exit_code == 1
    rows = {row["photo"]: row for row in map(json.loads, first.stdout.splitlines())}
    assert rows.keys() == {str(photo.relative_to(tmp_path)) for photo in photos}
    reasons = {name: row["reason"] for name, row in rows.items() if row["status"] == "failed"}
    assert reasons.keys() == {"photos/a/3.jpg", "photos/b/4.jpg"}
    assert all("This" in reason for reason in reasons.values())
    assert cutout.forwards == 18
    done = {path.relative_to(tmp_path / "photos").with_suffix(".png").as_posix() for path in photos}
    assert tree(tmp_path / "out") == done - {"a/3.png", "b/4.png"}
    with Path("report.csv").open(newline="") as file:
        assert {row["photo"]: row["reason"] or None for row in csv.DictReader(file)} == {
            name: row["reason"] for name, row in rows.items()
        }
    start = time.monotonic()
    again = cutout("photos", "-o", "out")
    assert time.monotonic() - start < 4
    assert (again.exit_code, cutout.forwards) == (1, 18)
    assert "18 skipped, 2 failed" in again.stderr


def test_a_result_of_another_precision_is_made_anew_however_that_was_asked_for(cutout, tmp_path, monkeypatch):
    fill(tmp_path, "x.jpg")
    for given, variable, forwards in (
        ((), "", 1),
        ((), "fp32", 2),
        (("--precision", "fp32"), "", 2),
        (("--precision", "fp32"), "bf16", 2),
        ((), "", 3),
    ):
        monkeypatch.setenv("RMBG_PRECISION", variable)
        assert cutout("x.jpg", "-o", "out", *given).exit_code == 0
        if not read_origin(tmp_path / "out" / "x.png"):
            pytest.skip("there are no extended attributes here")
        assert cutout.forwards == forwards


def test_results_beside_photos_are_no_photos_of_the_next_run(cutout, tmp_path):
    fill(tmp_path, "x.jpg", "y.png", data=encoded(Image.open(io.BytesIO(SMALL)), "PNG"))
    for arguments in ([tmp_path], ["*"], [path.name for path in tmp_path.iterdir()]):
        assert cutout(*arguments).exit_code == 0
        assert tree(tmp_path) == {"x.jpg", "y.png", "x-cutout.png", "y-cutout.png"}
        names = sorted(path.name for path in tmp_path.iterdir())
        assert cutout(*names).exit_code == 0
    assert tree(tmp_path) == {"x.jpg", "y.png", "x-cutout.png", "y-cutout.png"}
    assert cutout.forwards == 2


def test_what_is_older_or_truncated_or_unwanted_is_made_anew(cutout, remover, tmp_path):
    (photo,) = fill(tmp_path, "x.jpg")
    result = tmp_path / "x-cutout.png"
    remover(photo).save(tmp_path / "truth.png")
    truth = (tmp_path / "truth.png").read_bytes()
    for prepare, arguments in (
        (lambda: None, []),
        (lambda: result.write_bytes(truth[:-100]), []),
        (lambda: os.utime(result, (1, 1)), []),
        (lambda: None, ["--overwrite"]),
    ):
        prepare()
        before = cutout.forwards
        assert cutout(photo, *arguments).exit_code == 0
        assert cutout.forwards == before + 1
        assert result.read_bytes() == truth
    before = cutout.forwards
    assert "(as it was)" in cutout(photo).stdout
    assert cutout.forwards == before


@pytest.mark.parametrize(
    ("arguments", "result", "finish"),
    [
        (["-o", "y.webp"], "y.webp", Finish(format="webp")),
        (["-o", "y.tiff", "--format", "tif"], "y.tiff", Finish(format="tiff")),
        (["-o", "y.png/"], "y.png/x.png", Finish()),
        (["--format", "jpg", "--quality", "50"], "x-cutout.jpg", Finish(format="jpg", quality=50)),
        (["--matte", "--refine"], "x-matte.png", Finish(output="matte")),
        (["--box", "60,0,250,190", "--points", "150,100 5,5,0"], "x-cutout.png", Finish()),
        (["--width", "64"], "x-cutout.png", Finish(width=64)),
        (["--background", "red", "--crop"], "x-cutout.png", Finish(background="red", crop=True)),
        (
            ["--shadow", "drop", "--shadow-direction", "90", "--clean", "--format", "jpg"],
            "x-cutout.jpg",
            Finish(format="jpg", shadow="drop", shadow_direction=90.0, clean=True),
        ),
    ],
)
def test_options_make_what_python_makes_of_them(cutout, remover, arguments, result, finish):
    (photo,) = fill(Path(), "x.jpg")
    done = cutout(photo.name, *arguments)
    assert (done.exit_code, done.stdout) == (0, f"x.jpg -> {result}\n"), done.output
    buffer = io.BytesIO()
    picked = {"box": "60,0,250,190", "points": "150,100 5,5,0"} if "--box" in arguments else {}
    finish.save(remover(photo, refine="--refine" in arguments, **picked), buffer)
    assert Path(result).read_bytes() == buffer.getvalue()


def test_a_photo_of_16_bits_has_a_tiff_of_16_in_a_file_which_is_done_then(cutout, tmp_path):
    deep = np.asarray(Image.open(io.BytesIO(SMALL))).astype(np.uint16) * 257 - 5
    tifffile.imwrite(tmp_path / "x.tif", deep, photometric="rgb")
    for _ in range(2):
        done = cutout("x.tif", "--format", "tif")
        assert done.exit_code == 0, done.output
    assert tifffile.imread("x-cutout.tif").dtype == np.uint16
    assert cutout.forwards == 1


def test_odd_names_have_results_and_say_nothing_to_the_terminal(cutout, tmp_path):
    names = ["a\nb\x1b[31m.jpg", "\udcff.jpg", "x" * 251 + ".jpg", "-x.jpg", "C:\\x.jpg", "..jpg"]
    fill(tmp_path, *names)
    fill(tmp_path, "\x1b[2J.jpg", data=b"no photo")
    Path("loop.jpg").symlink_to("loop.jpg")
    Path("gone\a\x9b2J.jpg").symlink_to("nowhere")
    os.mkfifo("pipe.jpg")
    done = cutout("--report", "report.csv", "--", *sorted(tree(tmp_path)))
    assert done.exit_code == 1
    assert "6 done, 4 failed" in done.stderr
    assert not {"\x1b", "\x9b", "\a", "\udcff"} & {*done.output}
    assert len(tree(tmp_path)) == 10 + 6 + 1
    assert all(is_whole(path) for path in tmp_path.glob("*-cutout.png"))


def test_a_photo_by_url_is_fetched_from_public_addresses_alone(cutout, tmp_path, monkeypatch):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(SMALL)

    with serving(Handler) as port:
        url = f"http://127.0.0.1:{port}/a/..%2fdog%20one.jpg?x=/y.png#z"
        refused = cutout(url)
        assert refused.exit_code == 1
        assert "This address is not a public one" in refused.stderr
        monkeypatch.setattr(fetch, "is_public", lambda _: True)
        assert cutout(url, "-o", "out").exit_code == 0
    assert tree(tmp_path) == {"out/dog-one.png"}


# --- processes ---


@pytest.mark.slow
def test_a_stream_is_what_python_saves(remover, tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.asarray(Image.open(io.BytesIO(SMALL))).astype(np.uint16) * 257)
    for photo, suffix in ((PERSON, "png"), (tmp_path / "x.tif", "tif")):
        done = run("-", "--format", suffix, input=photo.read_bytes())
        remover(photo).save(tmp_path / f"truth.{suffix}")
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == (tmp_path / f"truth.{suffix}").read_bytes()


@pytest.mark.slow
def test_a_stream_that_is_no_photo_or_can_not_be_read_or_written_ends_with_a_sentence(tmp_path):
    (photo,) = fill(tmp_path, "x.jpg")
    for arguments, code, sentence in (
        (f"- < {os.devnull}", 1, "Error: This file is empty"),
        (f"- < {PERSON} > /dev/full", 1, "Error: Something can't be read or written (No space left"),
        (f"- -o {photo} < {photo}", 2, "'x.jpg' is the photo itself"),
        ("- <&-", 2, "Standard input or output is closed"),
        (f"- < {PERSON} >&-", 2, "Standard input or output is closed"),
    ):
        command = f"{' '.join(COMMAND)} {arguments}"
        done = subprocess.run(
            ["sh", "-c", command],
            env=ENVIRONMENT,
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert sentence in done.stderr.decode()
        assert b"Traceback" not in done.stderr
        assert not done.stdout
    assert photo.read_bytes() == SMALL


@pytest.mark.slow
def test_where_nobody_reads_any_longer_nothing_new_is_begun(tmp_path):
    fill(tmp_path, *(f"{at}.jpg" for at in range(12)))
    with process(tmp_path) as started:
        assert started.stdout.readline()
        started.stdout.close()
        assert started.wait(60) == 1
        assert b"Traceback" not in started.stderr.read()
    assert 12 < len(tree(tmp_path)) < 20
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_what_was_killed_is_gone_on_with_and_leaves_nothing_behind(tmp_path):
    fill(tmp_path, *(f"{at}.jpg" for at in range(8)))
    with process(tmp_path) as started:
        wait_for(lambda: len(list(tmp_path.glob("*.png"))) >= 2)
        started.kill()
    done = {path.name for path in tmp_path.glob("*.png")}
    assert len(done) < 8
    assert all(is_whole(tmp_path / name) for name in done)
    fill(tmp_path, PART.format("0123456789abcdef"))
    again = run(tmp_path, "--json", text=True)
    assert again.returncode == 0, again.stderr
    rows = [json.loads(line) for line in again.stdout.splitlines()]
    assert {Path(row["result"]).name for row in rows if row["status"] == "skipped"} == done
    assert {row["status"] for row in rows} == {"skipped", "done"}
    assert tree(tmp_path) == {f"{at}{end}" for at in range(8) for end in (".jpg", "-cutout.png")}


@pytest.mark.slow
def test_told_to_end_it_ends_after_the_photo_in_hand(tmp_path):
    fill(tmp_path, *(f"{at}.jpg" for at in range(12)))
    with process(tmp_path) as started:
        wait_for(lambda: list(tmp_path.glob("*.png")))
        started.send_signal(signal.SIGINT)
        out, err = started.communicate(timeout=60)
    assert started.returncode == 130
    assert b"Ending after the photo in hand" in err
    results = list(tmp_path.glob("*.png"))
    assert len(results) == out.count(b" -> ") < 12
    assert all(is_whole(path) for path in results)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_a_watched_folder_goes_on_with_what_arrives_when_it_is_whole(tmp_path):
    folder, photo = tmp_path / "in", PERSON.read_bytes()
    fill(folder, "first.jpg")
    with process("--watch", folder, "-o", tmp_path / "out", "--json") as started:
        lines: list[dict] = []
        reader = threading.Thread(target=lambda: lines.extend(map(json.loads, started.stdout)))
        reader.start()
        wait_for((tmp_path / "out" / "first.png").exists)
        with (folder / "slow.jpg").open("wb") as file:
            file.write(photo[: len(photo) // 2])
            file.flush()
            time.sleep(SETTLED + 2)
            assert not (tmp_path / "out" / "slow.png").exists()
            file.write(photo[len(photo) // 2 :])
        fill(folder, "text.jpg", data=b"no photo")
        wait_for((tmp_path / "out" / "slow.png").exists)
        time.sleep(1.5)
        started.send_signal(signal.SIGINT)
        assert started.wait(60) == 1  # text.jpg
        reader.join()
    assert sorted((Path(line["photo"]).name, line["status"]) for line in lines) == [
        ("first.jpg", "done"),
        ("slow.jpg", "done"),
        ("text.jpg", "failed"),
    ]
    assert pixels(tmp_path / "out" / "slow.png").shape[:2] == pixels(PERSON).shape[:2]


@pytest.mark.slow
def test_a_terminal_has_a_bar_with_count_rate_and_time_left(tmp_path):
    fill(tmp_path, "x.jpg", "y.jpg", "z.jpg")
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    with process(tmp_path, stderr=slave) as started:
        os.close(slave)
        told = b""
        try:
            while part := os.read(master, 4096):
                told += part
        except OSError:  # it has ended
            pass
        assert started.wait(60) == 0
    os.close(master)
    assert re.search(rb"3/3 \[\d\d:\d\d<\d\d:\d\d, .*(s/ photos|photos/s)", told), told


# --- the other commands ---


@pytest.mark.slow
def test_weights_that_are_here_are_told_with_licence_and_hash(isnet_net):
    done = run("weights", "--weights", weights.ISNET, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{weights.ISNET}\n")
    (path,) = re.findall(r"^  file +(.+)$", done.stdout, re.MULTILINE)
    assert hashlib.sha256(Path(path).read_bytes()).hexdigest() in done.stdout


def test_the_page_is_served_by_a_command(start_app):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with start_app("-m", "background_remover", "serve", "--port", str(port)) as url:
        assert url.endswith(f":{port}")
