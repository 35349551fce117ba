"""Photos cut out in a process that may hang, die or take all memory: what that costs, and who is blamed."""

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
import standins
from helpers import EXAMPLES, PERSON, ROOT, encoded
from PIL import Image
from standins import LANES, children, job, photo, result, runs, until

from background_remover import cutters, weights
from background_remover.cutout import Finish
from background_remover.cutters import CANT_START, CLOSED, KILLS, TOO_HUNGRY, TOO_SLOW, Cutter, Job, Order, WorkerError
from background_remover.manifest import SCHEMA

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc"),
]
SECONDS = 1.5  # that a photo may take here
REASONS = {
    "sleep": TOO_SLOW.format(SECONDS),
    "hold_the_interpreter": TOO_SLOW.format(SECONDS),
    "take_all_memory": TOO_HUNGRY,
    "kill": KILLS,
    "break_the_device": KILLS,
}


@pytest.fixture
def start() -> Iterator[Callable[..., Cutter]]:
    """Starts cutters, with a network that copies; at the end there is no process of theirs."""
    before, started = children(), []

    def start(load: Callable = standins.copying, **order: object) -> Cutter:
        started.append(Cutter(Order(**{"finish": Finish(), "load": load, "seconds": SECONDS} | order)))
        return started[-1]

    yield start
    for cutter in started:
        cutter.close()
    assert children() == before


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def check(jobs: list[Job], made: list[tuple[dict, bytes]], bad: dict[int, str]) -> None:
    """Each job has its row and its result, but for the bad ones, by their place, which have a reason."""
    assert [row["id"] for row, _ in made] == [one.id for one in jobs]
    failed = {at: row["reason"] for at, (row, _) in enumerate(made) if row["status"] == "failed"}
    assert failed == bad
    for at, (row, data) in enumerate(made):
        assert (row["status"], data) == (("failed", b"") if at in bad else ("done", result(jobs[at].data)))


# --- what comes back ---


def test_results_are_those_of_the_library_byte_for_byte(remover, start, tmp_path):
    blank = encoded(Image.new("RGB", (64, 48), "teal"), "PNG")
    finish = Finish(background="#ff8800", crop=True, format="webp")
    paths = [PERSON, EXAMPLES / "coffee.jpg"]
    jobs = [job(at, source=str(path), data=None, output=f"in/{at}.webp") for at, path in enumerate(paths)]
    cutter = start(None, finish=finish, results=str(tmp_path), weights=weights.ISNET, seconds=120)
    made = cutter.cut([*jobs, job(9, data=blank)])
    for one, path, (row, data) in zip(jobs, paths, made, strict=False):
        truth = result(path, remover, finish)
        assert (row["status"], data) == ("done", b"")
        assert (tmp_path / one.output).read_bytes() == truth
        assert row["sha256"] == hashlib.sha256(truth).hexdigest()
    assert made[-1][0]["status"] == "no subject"
    assert {row["weights"] for row, _ in made} == {remover.weights.name}
    assert {row["licence"] for row, _ in made} == {remover.weights.licence}


def test_results_come_back_as_bytes_where_there_is_no_folder(start):
    jobs = [job(number) for number in range(20)]
    made = start(way="w").cut(jobs)
    check(jobs, made, {})
    for one, (row, data) in zip(jobs, made, strict=True):
        assert (row["source"], row["output"], row["version"], row["way"]) == (one.source, one.output, one.version, "w")
        assert (row["width"], row["height"], row["output_bytes"]) == (24, 16, len(data))
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        stages = [row[f"{stage}_seconds"] for stage in ("open", "network", "matte", "save")]
        assert 0 < sum(stages) <= row["seconds"] * 1.01 < SECONDS
    assert pa.Table.from_pylist([row for row, _ in made], SCHEMA).num_rows == 20


def test_photos_of_many_bytes_go_there_while_others_come_back(start):
    """More than a pipe holds, both ways at once."""
    jobs = [job(number, data=photo(number, size=(1500, 1000))) for number in range(2 * LANES)]
    assert min(len(one.data) for one in jobs) > 3_000_000
    check(jobs, start(seconds=60).cut(jobs), {})


def test_many_threads_may_ask_at_once_and_each_has_its_own(start):
    cutter = start()
    lists = [[job(100 * thread + number) for number in range(7)] for thread in range(6)]
    with ThreadPoolExecutor(len(lists)) as pool:
        for jobs, made in zip(lists, pool.map(cutter.cut, lists), strict=True):
            check(jobs, made, {})
    assert cutter.cut([]) == []


def test_what_is_printed_there_is_no_answer_and_none_of_this_programs_output(start, capfd):
    jobs = [job(0), job(1, "print_much"), job(2)]
    check(jobs, start().cut(jobs), {})
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("x" * 79) == 2000


def test_no_module_of_the_folder_that_it_is_started_in_is_run(start, tmp_path, monkeypatch):
    for name in ("json", "torch", "cv2", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("import os; os._exit(9)")
    monkeypatch.chdir(tmp_path)
    check([job(0)], start().cut([job(0)]), {})


def test_it_has_its_share_of_the_cores_and_no_key_of_rays(start, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    before = children()
    start(threads=3)
    (pid,) = children() - before
    known = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert b"OMP_NUM_THREADS=3" in known
    assert not any(b"secret" in one for one in known)


# --- what dies ---


@pytest.mark.parametrize("deed", REASONS)
def test_a_bad_photo_fails_and_all_that_were_in_hand_with_it_are_done(start, monkeypatch, deed):
    monkeypatch.setattr(cutters, "MEMORY", 800_000_000)
    monkeypatch.setattr(cutters, "PHOTO_MEMORY", 100_000_000)
    jobs = [job(number, "be_slow") for number in range(8)]
    jobs[4] = job(4, deed)
    check(jobs, start().cut(jobs), {4: REASONS[deed]})


def test_of_bad_photos_in_hand_at_once_each_has_its_own_reason(start):
    jobs = [job(number) for number in range(6)]
    jobs[:3] = job(0, "sleep"), job(1, "crash"), job(2, "leave")
    check(jobs, start().cut(jobs), {0: REASONS["sleep"], 1: KILLS, 2: KILLS})


def test_bad_photos_alone_fail_one_after_the_other(start):
    jobs = [job(0, "kill"), job(1, "run_out_of_memory")]
    check(jobs, start(standins.one_by_one).cut(jobs), {0: KILLS, 1: KILLS})


def test_a_photo_at_which_something_odd_is_raised_costs_no_process(start):
    cutter = start()
    before = children()
    jobs = [job(number, "raise_something_odd" if number == 2 else "") for number in range(6)]
    check(jobs, cutter.cut(jobs), {2: "Something went wrong with this photo: try it again on its own."})
    assert children() == before


def test_nobody_is_blamed_where_the_process_is_ended_from_outside(start):
    others = children()
    cutter = start()
    jobs = [job(number, "be_slow") for number in range(40)]

    def end_many_times() -> int:
        ended = 0
        while ended < 3 and not asked.done():
            if len(cutter._in_hand) == LANES:  # and not one alone, which would be blamed with good reason
                for pid in children() - others:
                    os.kill(pid, signal.SIGKILL)
                ended += 1
                assert until(lambda: len(cutter._in_hand) != LANES)
            time.sleep(0.05)
        return ended

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(cutter.cut, jobs)
        assert end_many_times() == 3
        check(jobs, asked.result(60), {})


def test_a_process_that_takes_nothing_more_does_not_hold_up_who_supervises_it(start):
    """Photos of more bytes than a pipe holds, to one that reads no more."""
    jobs = [job(number, data=photo(number, size=(700, 500))) for number in range(LANES)]
    jobs[0] = job(0, "hold_the_interpreter")
    check(jobs, start(seconds=2).cut(jobs), {0: TOO_SLOW.format(2)})


def test_neither_processes_that_end_nor_cutters_leave_anything(start):
    before = descriptors(), threading.active_count(), children()
    cutter = start()
    cutter.cut([job(0)])
    with_one = descriptors(), threading.active_count()
    for number in range(4):
        for pid in children() - before[2]:
            os.kill(pid, signal.SIGKILL)
        check([job(number)], cutter.cut([job(number)]), {})
    assert until(lambda: descriptors() <= with_one[0] and threading.active_count() <= with_one[1])
    cutter.close()
    assert until(lambda: descriptors() <= before[0] and (threading.active_count(), children()) == before[1:])


# --- what can't start ---


def test_what_is_wrong_with_the_weights_is_told_at_once(start, tmp_path):
    with pytest.raises(WorkerError, match=r"^The weights are gone: put them back\.$"):
        start(standins.while_it_is_there, weights=str(tmp_path / "gone"))


def test_one_that_ends_while_it_starts_is_started_again(start, tmp_path):
    cutter = start(standins.at_the_third_try, weights=str(tmp_path / "tries"))
    check([job(0)], cutter.cut([job(0)]), {})
    assert (tmp_path / "tries").read_bytes() == b"..."


def test_one_that_ends_whenever_it_starts_is_given_up(start):
    with pytest.raises(WorkerError) as told:
        start(standins.never)
    assert str(told.value) == CANT_START


def test_one_that_takes_too_long_to_start_is_given_up(start, monkeypatch):
    monkeypatch.setattr(cutters, "STARTING", 0.3)
    with pytest.raises(WorkerError, match="too long to load"):
        start()


def test_all_that_wait_are_told_if_it_can_not_start_again(start, tmp_path):
    (tmp_path / "weights").touch()
    cutter = start(standins.while_it_is_there, weights=str(tmp_path / "weights"))
    (tmp_path / "weights").unlink()
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(cutter.cut, [job(0), job(1, "kill"), *map(job, range(2, 30))]) for _ in range(2)]
        assert {str(one.exception(60)) for one in asked} == {"The weights are gone: put them back."}
    with pytest.raises(WorkerError, match="gone"):
        cutter.cut([job(0)])


# --- the end ---


def test_the_end_ends_what_is_in_hand_and_what_waits(start):
    before = children()
    cutter = start(seconds=60)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(cutter.cut, [job(number, "sleep") for number in range(9)])
        assert until(lambda: len(cutter._in_hand) == LANES)
        cutter.close()
        assert children() == before
        assert str(asked.exception(standins.SOON)) == CLOSED
    with pytest.raises(WorkerError, match=CLOSED):
        cutter.cut([job(0)])
    cutter.close()  # again


@pytest.mark.parametrize("deed", ["sleep", "hold_the_interpreter"])
def test_the_process_ends_with_the_one_that_started_it(deed):
    code = """
        import os, sys, threading
        sys.path[:0] = [sys.argv[1], sys.argv[2]]
        import standins
        from background_remover.cutout import Finish
        from background_remover.cutters import Cutter, Order
        cutter = Cutter(Order(Finish(), load=standins.copying))
        jobs = [standins.job(number, sys.argv[3]) for number in range(standins.LANES)]
        threading.Thread(target=cutter.cut, args=(jobs,), daemon=True).start()
        standins.until(lambda: len(cutter._in_hand) == len(jobs))
        print(*standins.children(), flush=True)
        input()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(ROOT), str(ROOT / "tests"), deed]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        (pid,) = map(int, parent.stdout.readline().split())
        time.sleep(0.5)  # so that they are in hand there, too
        assert runs(pid)
        parent.kill()
    assert until(lambda: not runs(pid), 2)


# --- what a process can say that was taken over ---

LIES = {
    "nothing": "say(b'')",
    "no JSON": "say(b'{')",
    "an error of its own": "os._exit(1)",
    "no end": "[os.write(1, b'x' * 4096) for _ in iter(int, 1)]",
    "less than it says": "answer(bytes=1 << 30)",
    "more than can be": "answer(bytes=1 << 60)",
    "less than nothing": "answer(bytes=-1)",
    "a size that is none": "answer(bytes='many')",
    "deep": "say(b'[' * 8000)",
    "a list": "say(b'[]')",
    "another key": "answer(key=key + 1)",
    "a key that is none": "answer(key=[])",
    "no key": "answer(key=None)",
    "too many digits": "say(b'{\"key\": ' + b'9' * 8000 + b'}')",
    "a number that is too large": "answer(width=1 << 40)",
    "a number that is none": "answer(seconds='long')",
    "another id": "answer(id='../../etc/passwd')",
    "another source": "answer(source='other')",
    "another output": "answer(output='other.png')",
    "another way": "answer(way='other')",
    "weights": "answer(weights='other')",
    "too little": "answer(width=...)",
    "a status that is none": "answer(status='fine')",
    "no text": "answer(reason='\\ud800')",
    "a picture of a photo that has none": "answer(status='refused')",
    "no picture": "say(json.dumps(good | {'bytes': None}).encode())",
}
LIAR = """
    import json, os, pickle, sys
    class Job(tuple):
        __new__ = lambda kind, *parts: tuple.__new__(kind, parts)
    class Reader(pickle.Unpickler):
        find_class = lambda *_: Job
    def say(line, data=b""):
        os.write(1, line + b"\\n" + data)
    def answer(**other):
        line = {name: value for name, value in (good | other).items() if value is not ...}
        say(json.dumps(line).encode(), b"data")
    names = NAMES
    comes = os.fdopen(0, "rb")
    Reader(comes).load()
    say(b'{"lanes": 1, "weights": "w", "licence": "l"}')
    while True:
        key, _ = Reader(comes).load()
        good = dict.fromkeys(names) | {"key": key, "status": "done", "width": 3, "bytes": 4}
        LIE
"""


@pytest.fixture
def liar(monkeypatch, tmp_path, start) -> Callable[..., Cutter]:
    """A cutter whose processes run something else."""

    def lie(text: str, **order: object) -> Cutter:
        names = [name for name in SCHEMA.names if name not in cutters.OWN]
        code = textwrap.dedent(LIAR).replace("LIE", text).replace("NAMES", repr(names))
        (tmp_path / "liar.py").write_text(code)
        program = tmp_path / "program"
        program.write_text(f"#!/bin/sh\nexec {sys.executable} {tmp_path}/liar.py\n")
        program.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(program))
        return start(way="w", **order)

    return lie


def test_what_can_be_is_believed(liar):
    ((row, data),) = liar("answer()").cut([job(7)])
    assert data == b"data"
    assert (row["id"], row["source"], row["output"], row["way"]) == ("7", "photos/7.png", "7.png", "w")
    assert (row["status"], row["width"], row["weights"], row["licence"]) == ("done", 3, "w", "l")


@pytest.mark.parametrize("lie", LIES)
def test_what_can_not_be_ends_the_process_and_is_no_row(liar, lie):
    made = liar(LIES[lie]).cut([job(7), job(8)])
    slow = lie in ("less than it says",)
    for number, (row, data) in zip((7, 8), made, strict=True):
        reason = TOO_SLOW.format(SECONDS) if slow else KILLS
        own = {"id": str(number), "source": f"photos/{number}.png", "version": "1-1", "way": "w"}
        assert row == dict.fromkeys(SCHEMA.names) | own | {"status": "failed", "reason": reason}
        assert data == b""


def test_a_picture_is_not_taken_where_results_are_files(liar, tmp_path):
    assert liar("answer()", results=str(tmp_path)).cut([job(7)])[0][0]["reason"] == KILLS


def test_what_it_has_started_does_not_keep_it(liar):
    """Its pipes stay open then, though it has ended."""
    made = liar("os.fork() or __import__('time').sleep(30)\n    os._exit(1)").cut([job(7)])
    assert made[0][0]["reason"] == KILLS
