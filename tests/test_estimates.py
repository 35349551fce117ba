"""What a catalogue would take."""

import pytest
import standins
from helpers import encoded
from PIL import Image
from test_batch import command, fill

from background_remover import Finish, estimates
from background_remover.cutters import Order


@pytest.mark.slow
def test_a_plan_says_how_many_and_what_it_would_take_and_writes_nothing(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(6):
        image = Image.new("RGB", (64, 64), (40 * number, 0, 0))
        (tmp_path / "in" / f"{number}.jpg").write_bytes(encoded(image, "JPEG"))
    before = {*tmp_path.rglob("*")}
    done = command(tmp_path / "in", tmp_path / "out", "--plan")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("6 photos, 6 of them to be done")
    assert "this machine" in done.stdout
    assert "measured rate" in done.stdout
    assert "16 GPUs" in done.stdout
    assert "estimated" in done.stdout
    assert {*tmp_path.rglob("*")} == before


def test_estimates_follow_from_what_was_measured(tmp_path):
    names = fill(tmp_path / "in", 40)
    order = Order(Finish(), way="now", load=standins.copying)
    found = estimates.estimate(str(tmp_path / "in"), str(tmp_path / "out"), order)
    sizes = [(tmp_path / "in" / name).stat().st_size for name in names]
    assert (found.photos, found.pending, found.input_is_known) == (40, 40, True)
    assert found.input_bytes == pytest.approx(sum(sizes))
    assert found.seconds == pytest.approx(40 / found.rate)
    assert found.on_gpus[4] == pytest.approx(found.on_gpus[1] / 4)
    results = [len(standins.result(tmp_path / "in" / name)) for name in names]
    assert found.output_bytes == pytest.approx(sum(results), rel=0.1)
