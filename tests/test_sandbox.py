"""Photos opened in other processes: as in this one, and whatever happens there ends there."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from helpers import PERSON, ROOT, SENTENCES
from PIL import Image, ImageCms, TiffImagePlugin, TiffTags

from background_remover import sandbox
from background_remover.photos import measure_photo, open_photo
from background_remover.sandbox import CANNOT, ENDING, MEMORY, TOO_SLOW, WARM, WORKERS, Sandbox
from utilities import PhotoError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
SOON = 10.0  # seconds; for what takes a fraction of one, on a machine that does something else as well


@pytest.fixture(scope="module")
def decoder() -> Iterator[Sandbox]:
    decoder = Sandbox()
    yield decoder
    decoder.close()


others: set[int] = set()  # that the tests of other files have started


@pytest.fixture(scope="module", autouse=True)
def leave_others_alone() -> None:
    others.update(children())


def children() -> set[int]:
    """The processes that have been started here, and that have not ended."""
    lists = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    return {int(pid) for pids in lists for pid in pids if runs(int(pid))} - others


def runs(pid: int) -> bool:
    """Whether a process has not ended, with all its threads."""
    found = status(pid)
    return not found.get("State", "Z").startswith("Z") or int(found.get("Threads", 0)) > 1


def status(pid: int) -> dict[str, str]:
    """What the system says of a process; nothing of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def kill(pids: set[int]) -> None:
    for pid in pids & children():
        os.kill(pid, signal.SIGKILL)
    assert until(lambda: not pids & children())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def until(condition: Callable[[], object]) -> bool:
    deadline = time.monotonic() + SOON
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> dict[str, Path]:
    """A photo of each kind that reaches another part of `open_photo`."""
    folder = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(0)
    rgb = Image.fromarray(noise.integers(0, 256, (40, 60, 3), np.uint8))
    rgba = Image.fromarray(noise.integers(0, 256, (40, 60, 4), np.uint8))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[274] = 6
    pillow_heif.from_pillow(rgb).save(folder / "a.heic")
    return {
        "heic": folder / "a.heic",
        "jpeg": save(rgb, folder / "a.jpg"),
        "turned": save(rgb, folder / "turned.jpg", exif=exif),
        "profile": save(rgb, folder / "profile.jpg", icc_profile=profile),
        "cmyk": save(rgb.convert("CMYK"), folder / "cmyk.jpg"),
        "alpha": save(rgba, folder / "alpha.png", icc_profile=profile),
        "webp": save(rgba, folder / "a.webp"),
        "palette": save(rgb.quantize(7), folder / "a.gif"),
        "16 bits": save(Image.fromarray(noise.integers(0, 65536, (40, 60), np.uint16)), folder / "16.png"),
        "1 pixel": save(Image.new("L", (1, 1), 9), folder / "1.png"),
        "odd name": save(rgb, folder / "ünï\n \udcff\"'.png"),
        "larger": PERSON,
    }


# --- what comes back ---


def test_every_kind_of_photo_comes_back_as_this_process_opens_it(decoder, photos):
    for kind, path in photos.items():
        photo, truth = decoder.open(str(path)), open_photo(path)
        assert np.array_equal(photo.rgb, truth.rgb), kind
        assert (photo.alpha is None) == (truth.alpha is None), kind
        assert photo.alpha is None or np.array_equal(photo.alpha, truth.alpha), kind
        assert photo.icc == truth.icc, kind
        assert decoder.measure(str(path)) == measure_photo(path), kind
        photo.rgb[0, 0] = 0  # a copy of one's own


def test_one_photo_does_not_become_the_next(decoder, photos):
    first = decoder.open(str(photos["jpeg"]))
    before = first.rgb.copy()
    for path in photos.values():
        decoder.open(str(path))
    assert np.array_equal(first.rgb, before)


@pytest.mark.parametrize("name", SENTENCES)
def test_what_is_no_photo_is_told_in_the_same_sentence(decoder, bad_files, name):
    with pytest.raises(PhotoError) as truth:
        open_photo(bad_files[name])
    with pytest.raises(PhotoError) as told:
        decoder.open(str(bad_files[name]))
    assert str(told.value) == str(truth.value)
    before = children()
    with pytest.raises(PhotoError):
        decoder.open(str(bad_files[name]) + ".gone")
    assert children() == before  # a bad photo costs no process


def test_the_limits_are_those_that_the_decoder_was_given(photos):
    decoder = Sandbox(max_pixels=60 * 40 - 1, max_bytes=3000)
    try:
        for ask in (decoder.open, decoder.measure):
            with pytest.raises(PhotoError, match="megapixels"):
                ask(str(photos["palette"]))
            with pytest.raises(PhotoError, match="MB"):
                ask(str(photos["alpha"]))
        assert decoder.open(str(photos["1 pixel"])).rgb.tolist() == [[[9, 9, 9]]]
    finally:
        decoder.close()


def test_many_at_once_each_get_their_own_photo_from_few_processes(decoder, photos):
    truths = {path: open_photo(path).rgb for path in photos.values()}
    most = 0

    def ask(number: int) -> bool:
        nonlocal most
        path = [*truths][number % len(truths)]
        photo = decoder.open(str(path))
        most = max(most, len(children()))
        return np.array_equal(photo.rgb, truths[path])

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(ask, range(60)))
    assert most <= WORKERS


# --- what takes too long ---


@pytest.fixture
def impatient(monkeypatch) -> Callable[..., None]:
    """A decoder's patience, for this test: in all, and while others wait."""

    def be(seconds: float, while_others_wait: float) -> None:
        monkeypatch.setattr(sandbox, "SECONDS", seconds)
        monkeypatch.setattr(sandbox, "SECONDS_WHILE_OTHERS_WAIT", while_others_wait)

    return be


@pytest.fixture
def stopped(decoder, photos) -> Iterator[set[int]]:
    """The decoder's only process, which has started and then does nothing at all."""
    kill(children())
    decoder.open(str(photos["jpeg"]))
    pids = children()
    assert len(pids) == 1
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield pids
    kill(pids)


def test_a_photo_that_takes_too_long_is_given_up_in_time_and_its_process_ends(decoder, tmp_path, photos, impatient):
    decoder.open(str(photos["larger"]))
    Image.new("L", (8000, 8000), 99).save(tmp_path / "slow.jpg", progressive=True)
    impatient(0.1, 0.1)
    before, start = children(), time.monotonic()
    with pytest.raises(PhotoError) as told:
        decoder.open(str(tmp_path / "slow.jpg"))
    assert str(told.value) == TOO_SLOW
    assert time.monotonic() - start < 2
    assert len(before - children()) == 1


def test_it_gets_less_time_while_others_wait(decoder, stopped, photos, monkeypatch, impatient):
    impatient(60, 0.3)
    monkeypatch.setattr(decoder, "_others_wait", lambda: True)
    start = time.monotonic()
    with pytest.raises(PhotoError, match="too long"):
        decoder.open(str(photos["jpeg"]))
    assert 0.3 < time.monotonic() - start < 3


def test_those_who_wait_for_a_process_count_as_others_and_get_one(decoder, stopped, photos, impatient, monkeypatch):
    monkeypatch.setattr(sandbox, "WORKERS", 1)
    monkeypatch.setattr(sandbox, "LONG", 0.2)
    impatient(60, 1)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(decoder.open, str(photos["jpeg"])) for _ in range(4)]
        told = [str(one.exception(SOON)) for one in asked]
    assert sorted(told) == ["None", "None", "None", TOO_SLOW]


def test_nobody_who_has_left_is_waited_for(decoder, stopped, photos, impatient):
    class LeftError(BaseException):
        pass

    def check() -> None:
        raise LeftError

    impatient(60, 0.2)
    with pytest.raises(LeftError):
        decoder.open(str(photos["jpeg"]), check)
    assert until(lambda: not stopped & children())


def test_the_time_in_which_a_process_starts_is_not_the_photos(monkeypatch, tmp_path, photos, impatient):
    slow = f'sleep 1; exec {sys.executable} "$@"'
    monkeypatch.setattr(sys, "executable", script(tmp_path, slow))
    impatient(60, 0.8)
    monkeypatch.setattr(Sandbox, "_others_wait", lambda _: True)
    decoder = Sandbox()
    try:
        assert decoder.open(str(photos["1 pixel"])).shape == (1, 1)
    finally:
        decoder.close()


# --- what dies ---


def test_processes_that_were_ended_while_they_had_nothing_to_do_are_replaced(decoder, photos):
    decoder.open(str(photos["jpeg"]))
    kill(children())
    assert np.array_equal(decoder.open(str(photos["jpeg"])).rgb, open_photo(photos["jpeg"]).rgb)


def test_one_that_is_ended_at_work_is_told_of_and_the_next_photo_is_right(decoder, stopped, photos):
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(decoder.open, str(photos["jpeg"]))
        time.sleep(0.1)
        for pid in stopped:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(PhotoError) as told:
            asked.result(SOON)
    assert str(told.value) == CANNOT
    assert np.array_equal(decoder.open(str(photos["jpeg"])).rgb, open_photo(photos["jpeg"]).rgb)


# --- memory and descriptors ---


def large_tiff(path: Path, size: tuple[int, int]) -> Path:
    """A photo of four channels whose strips are all the same few bytes of the file."""
    rows = 64
    image = Image.new("RGBA", (size[0], rows), "teal")
    image.save(path, compression="tiff_lzw", strip_size=1 << 30)
    with Image.open(path) as strip:
        (offset,), (count,) = strip.tag_v2[273], strip.tag_v2[279]
    packed = path.read_bytes()[offset : offset + count]
    strips = size[1] // rows
    one = {256: size[0], 257: size[1], 258: (8, 8, 8, 8), 259: 5, 262: 2, 277: 4, 278: rows, 338: 2}
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in (one | {273: (0,) * strips, 279: (len(packed),) * strips}).items():
        tags.tagtype[tag] = TiffTags.LONG
        tags[tag] = value
    path.write_bytes(b"II*\0\x08\0\0\0" + tags.tobytes(8) + packed)  # places count from the end of the tags
    return path


def test_a_photo_that_needs_more_memory_than_there_is_for_one_is_told_so(decoder, tmp_path, photos):
    """With less than MEMORY, which takes seconds to fill; that it is the limit is tested below."""
    kill(children())
    decoder.open(str(photos["jpeg"]))
    (pid,) = children()
    less = int(status(pid)["VmData"].split()[0]) * 1024 + (80 << 20)
    resource.prlimit(pid, resource.RLIMIT_DATA, (less, less))
    with pytest.raises(PhotoError) as told:
        decoder.open(str(large_tiff(tmp_path / "large.tif", (4096, 4096))))
    assert str(told.value) == CANNOT
    assert decoder.open(str(photos["larger"])).shape == (512, 512)
    kill({pid})


def test_what_a_photo_needed_is_given_back(decoder, tmp_path):
    path = large_tiff(tmp_path / "large.tif", (4096, 4096))
    assert decoder.open(str(path)).shape == (4096, 4096)
    assert until(lambda: max(int(status(pid)["VmRSS"].split()[0]) for pid in children()) < 200_000)


def test_neither_photos_nor_processes_that_end_leave_descriptors_or_children(photos, bad_files, impatient):
    before, running = descriptors(), children()
    decoder = Sandbox()
    try:
        for _ in range(50):
            decoder.open(str(photos["jpeg"]))
        for path in bad_files.values():
            with pytest.raises(PhotoError):
                decoder.open(str(path))
        decoder.open(str(photos["jpeg"]))
        with_workers = descriptors()
        for _ in range(2):
            kill(children() - running)
            decoder.open(str(photos["jpeg"]))
        assert descriptors() <= with_workers
    finally:
        decoder.close()
    assert descriptors() == before
    assert until(lambda: children() == running)


def test_a_server_with_a_thousand_connections_opens_photos(photos):
    """Descriptors have large numbers then, which `select` does not take."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 2000:
        pytest.skip("may have too few files open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(2000, limits[0]), limits[1]))
    connections = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    decoder = Sandbox()
    try:
        assert decoder.open(str(photos["1 pixel"])).shape == (1, 1)
    finally:
        decoder.close()
        for connection in connections:
            os.close(connection)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


# --- the end ---


def test_after_the_end_no_child_is_left_and_none_is_started(photos):
    running = children()
    decoder = Sandbox()
    assert len(children() - running) == WARM
    decoder.close()
    assert children() == running
    with pytest.raises(PhotoError) as told:
        decoder.open(str(photos["jpeg"]))
    assert str(told.value) == ENDING
    assert children() == running
    decoder.close()  # again


def test_the_end_ends_what_is_in_hand_and_what_waits(photos, monkeypatch):
    monkeypatch.setattr(sandbox, "WORKERS", WARM)
    running, before = children(), descriptors()
    decoder = Sandbox()
    for pid in children() - running:
        os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(WARM + 3) as pool:
        asked = [pool.submit(decoder.open, str(photos["jpeg"])) for _ in range(WARM + 3)]
        time.sleep(0.2)
        start = time.monotonic()
        decoder.close()
        told = {str(one.exception(SOON)) for one in asked}
    assert told <= {CANNOT, ENDING}
    assert time.monotonic() - start < 2
    assert children() == running
    assert descriptors() == before


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path):
    code = """
        import os, signal, sys
        from background_remover.sandbox import Sandbox
        decoder = Sandbox()
        decoder.open(sys.argv[1])
        print(*[worker._process.pid for worker in decoder._free], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(PERSON)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=60, check=False)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == WARM
    assert until(lambda: not any(map(runs, pids)))


# --- what a process can do that was taken over ---


def script(folder: Path, text: str) -> str:
    """A program."""
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


def test_a_process_knows_no_secrets_and_writes_no_file(monkeypatch, photos):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    running = children()
    decoder = Sandbox()
    try:
        decoder.open(str(photos["jpeg"]))
        decoder.open(str(photos["jpeg"]))
        pids = children() - running
        assert not any(b"hf_secret" in Path(f"/proc/{pid}/environ").read_bytes() for pid in pids)
        limits = [Path(f"/proc/{pid}/limits").read_text().splitlines() for pid in pids]
        values = [{line[:26].strip(): line[26:].split()[0] for line in lines} for lines in limits]
        assert any(one["Max data size"] == str(MEMORY) and one["Max file size"] == "0" for one in values)
    finally:
        decoder.close()


LIES = {
    "no JSON": "answer(b'{')",
    "two answers": "answer(good, good)",
    "no end": "[os.write(1, b'x' * 4096) for _ in iter(int, 1)]",
    "deep": "answer(b'[' * 50_000)",
    "a list": "answer(b'[]')",
    "no arrays": "answer(json.dumps({'values': {}}).encode())",
    "nothing": "answer(b'{}')",
    "another name": "answer(photo(values={'path': '/etc/passwd'}))",
    "outside": "answer(photo(rgb=['pixels', [1 << 20, 1 << 20, 3], 0]))",
    "before the start": "answer(photo(rgb=['pixels', [1, 1, 3], -64]))",
    "less than nothing": "answer(photo(rgb=['pixels', [-1, 1, 3], 0]))",
    "no pixels": "answer(photo(rgb=['pixels', [0, 4, 3], 0]))",
    "two channels": "answer(photo(rgb=['pixels', [4, 4, 2], 0]))",
    "alpha of another photo": "answer(photo(rgb=['pixels', [4, 4, 3], 0], alpha=['pixels', [4, 5], 64]))",
}
LIAR = """
    import json, os, sys, time
    def answer(*lines):
        os.write(1, b"".join(line + b"\\n" for line in lines))
    def photo(values={}, rgb=["uint8", [4, 4, 3], 0], **more):
        return json.dumps({"values": values, "arrays": {"rgb": rgb} | more}).encode()
    good = photo()
    answer(b"{}")
    for line in sys.stdin:
        LIE
"""


@pytest.fixture
def liar(monkeypatch, tmp_path) -> Iterator[Callable[[str], Sandbox]]:
    """A decoder whose processes run something else."""
    decoders: list[Sandbox] = []

    def start(lie: str) -> Sandbox:
        (tmp_path / "liar.py").write_text(textwrap.dedent(LIAR).replace("LIE", lie))
        monkeypatch.setattr(sys, "executable", script(tmp_path, f"exec {sys.executable} {tmp_path}/liar.py $3"))
        decoders.append(Sandbox(max_pixels=1 << 20))
        return decoders[-1]

    yield start
    for decoder in decoders:
        decoder.close()


@pytest.mark.parametrize("lie", LIES)
def test_an_answer_that_can_be_none_ends_the_process_and_is_told_as_any_failure(liar, photos, lie):
    before = children()
    decoder = liar(LIES[lie])
    pids = children() - before
    with pytest.raises(PhotoError) as told:
        decoder.open(str(photos["jpeg"]))
    assert str(told.value) == CANNOT
    assert until(lambda: len(pids & children()) == WARM - 1)


@pytest.mark.parametrize("header", [{"size": [4, 4], "byte_count": -9}, {"size": [4], "byte_count": 9}, {"size": 4}])
def test_a_header_that_can_be_none_is_not_believed(liar, photos, header):
    """Less than nothing would be more memory for others than there is."""
    decoder = liar(f"answer(json.dumps({{'values': {header}, 'arrays': {{}}}}).encode())")
    with pytest.raises(PhotoError, match="memory"):
        decoder.measure(str(photos["jpeg"]))


def test_memory_that_is_shared_can_not_be_taken_away_by_the_other_side(liar, photos):
    """Whoever reads a file in memory beyond its end is ended by the system."""
    cut = "try:\n        os.ftruncate(int(sys.argv[1]), 0)\n    except OSError:\n        pass\n    answer(good)"
    assert liar(cut).open(str(photos["jpeg"])).shape == (4, 4)


def test_where_a_system_can_bound_no_process_photos_are_opened_in_this_one(monkeypatch):
    monkeypatch.setattr(sandbox, "BOUNDED", False)
    monkeypatch.setattr(sandbox, "Worker", None)
    here = Sandbox(max_pixels=10**6)
    assert here.measure(str(PERSON)).size == (512, 512)
    assert np.array_equal(here.open(str(PERSON)).rgb, open_photo(PERSON).rgb)
    with pytest.raises(PhotoError, match="megapixels"):
        Sandbox(max_pixels=1000).open(str(PERSON))
    here.close()
