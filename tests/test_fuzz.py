"""The fuzzer's own slice of what it tries; `make fuzz` tries more."""

import re
import subprocess
import sys

import fuzz
import pytest
from helpers import ROOT

from utilities import PhotoError


@pytest.mark.slow
def test_a_seeded_slice_of_the_fuzzer_finds_nothing():
    command = [sys.executable, "tests/fuzz.py", "--seconds", "240", "--cases", "40", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^all +{40 * len(fuzz.KINDS)} =", done.stdout, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_odd_but_sound_file_opens():
    files = fuzz.sound_files()
    assert len(files) > 1000
    for what in files:
        fuzz.use_sound_file(what)


def refuse_without_memory(_):
    raise PhotoError("This is damaged.") from MemoryError()


@pytest.mark.parametrize(
    ("use", "seconds", "reason"),
    [
        (lambda _: fuzz.open_photo("/tmp/gone/a.py"), 9, "no sentence"),
        (refuse_without_memory, 9, "MemoryError"),
        (lambda _: [] + 1, 9, "TypeError"),
        (lambda _: 1, 0, r"took 0\.0 s"),
    ],
)
def test_the_fuzzer_sees_what_fails(use, seconds, reason, monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS", seconds)
    monkeypatch.setitem(fuzz.KINDS, "noise", fuzz.Kind(lambda rng: b"", use))
    with pytest.raises((AssertionError, MemoryError, TypeError)) as caught:
        fuzz.run_case("noise", 1, 1)
    assert re.search(reason, f"{caught.type.__name__}: {caught.value}")


def test_the_fuzzer_counts_what_was_submitted_and_names_what_failed(capsys):
    outcomes = {"PNG:0": "succeeded", "PNG:1": "refused", "JPEG:0": "the process died (-11)"}
    assert fuzz.report(outcomes) == 1
    table = capsys.readouterr().out
    assert re.search(r"^PNG +2 = +1 \+ +1 \+ +0$", table, re.MULTILINE)
    assert re.search(r"^all +3 = +1 \+ +1 \+ +1$", table, re.MULTILINE)
    assert "JPEG:0: the process died (-11)" in table
