"""The pipeline with the real IS-Net weights, against the model card's formulas and exact composites."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA, EXAMPLES, PERSON, PHOTOS, ROOT, card_matte, iou, pixels
from PIL import Image, ImageCms

from matting import estimate_foreground, refine, touch_up
from pipeline import Cutout, Outcome
from utilities import Photo, PhotoError, composite


@pytest.mark.parametrize("name", PHOTOS)
def test_mattes_of_the_examples_are_the_stored_ones_of_upstreams_code(remover, name):
    """data/mattes holds what upstream's own network and formulas gave, in fp32, with the same weights.

    The resize to the nearest byte instead of the next lower one alone is half a level of 255.
    """
    truth = np.asarray(Image.open(DATA / "mattes" / f"{name}.png")).astype(int)
    cutout = remover(EXAMPLES / name)
    assert cutout.found
    assert cutout.alpha.shape == truth.shape
    assert iou(cutout.alpha, truth) > 0.99
    assert np.abs(cutout.alpha - truth).mean() < 1


def test_the_person_is_what_the_cards_formulas_give(remover, isnet_net, person):
    truth = card_matte(isnet_net, person)
    cutout = remover(EXAMPLES / "person.jpg")
    assert iou(cutout.alpha, truth) > 0.99
    assert cutout.matte.mode == "L"
    assert np.array_equal(np.asarray(cutout.matte), cutout.alpha)


def test_opaque_pixels_are_the_photos_and_hidden_ones_are_zero(remover, person):
    rgba = np.asarray(remover(person).image)
    opaque, hidden = rgba[..., 3] == 255, rgba[..., 3] == 0
    assert opaque.any()
    assert hidden.any()
    assert np.array_equal(rgba[opaque][:, :3], person[opaque])
    assert not rgba[hidden].any()


def test_partial_pixels_lose_the_old_background_unless_told_not_to(remover, person):
    pasted, clean = remover(person, foreground=False), remover(person)
    assert np.array_equal(pasted.alpha, clean.alpha)
    assert np.array_equal(pasted.foreground, person)
    assert np.array_equal(clean.foreground, estimate_foreground(person, clean.alpha))
    partial = (clean.alpha > 0) & (clean.alpha < 255)
    assert np.abs(clean.foreground.astype(int) - person)[partial].mean() > 3


def test_the_matte_is_the_networks_unless_refinement_is_asked_for(remover, person):
    plain, refined = remover(person), remover(person, refine=True)
    assert np.array_equal(refined.alpha, refine(person, plain.alpha))
    assert not np.array_equal(refined.alpha, plain.alpha)
    assert np.array_equal(refined.foreground, estimate_foreground(person, refined.alpha))
    again = Cutout.from_matte(plain.photo, plain.alpha, refine=True)
    assert np.array_equal(again.pixels(), refined.pixels())


def test_a_touched_up_cutout_has_the_brushs_alpha_and_its_own_colours(remover, person):
    cutout = remover(person)
    remove = np.zeros(cutout.photo.size, bool)
    remove[100:200, 100:200] = True
    touched = cutout.touched_up(~np.ones_like(remove), remove)
    assert np.array_equal(touched.alpha, touch_up(person, cutout.alpha, ~np.ones_like(remove), remove))
    assert (touched.alpha[remove] < cutout.alpha[remove]).any()
    assert np.array_equal(touched.foreground, estimate_foreground(person, touched.alpha))


def test_refinement_keeps_to_the_photos_own_alpha(remover, person):
    own = np.full(person.shape[:2], 255, np.uint8)
    own[:, :200] = 90
    refined = remover(np.dstack([person, own]), refine=True)
    assert (refined.alpha <= own).all()


def test_a_matte_from_elsewhere_cuts_too(remover, person):
    cutout = remover(person)
    again = Cutout.from_matte(cutout.photo, cutout.alpha)
    assert np.array_equal(again.pixels(), cutout.pixels())


def test_path_bytes_image_and_array_give_the_same_cutout(remover, person):
    path = EXAMPLES / "person.jpg"
    first = remover(path).alpha
    for source in (str(path), path.read_bytes(), Image.open(path), person):
        assert np.array_equal(remover(source).alpha, first)


@pytest.mark.parametrize("background", ["#30a060", (48, 160, 96), "rgb(48, 160, 96)"])
def test_a_colour_background_is_the_exact_blend(remover, person, background):
    cutout = remover(person)
    placed = cutout.composite(background)
    assert placed.mode == "RGB"
    assert np.array_equal(np.asarray(placed), composite(cutout.foreground, cutout.alpha, (48, 160, 96)))


def test_image_and_blur_backgrounds_keep_the_subject_and_change_the_rest(remover, person):
    cutout = remover(person)
    for background in ("blur", EXAMPLES / "coffee.jpg", (EXAMPLES / "coffee.jpg").read_bytes()):
        placed = np.asarray(cutout.composite(background))
        assert placed.shape == person.shape
        assert np.array_equal(placed[cutout.alpha == 255], person[cutout.alpha == 255])
        assert np.abs(placed.astype(int) - person)[cutout.alpha == 0].mean() > 3


@pytest.mark.parametrize("background", ["no-such-colour", b"not an image", 7])
def test_other_backgrounds_are_refused(remover, person, background):
    with pytest.raises(PhotoError):
        remover(person).composite(background)


@pytest.mark.parametrize(
    "photo",
    [
        pytest.param(np.zeros((300, 400, 3), np.uint8), id="black"),
        pytest.param(np.full((300, 400), 255, np.uint8), id="white"),
        pytest.param(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8), id="noise"),
        pytest.param(np.tile(np.linspace(0, 255, 400).astype(np.uint8), (300, 1)), id="gradient"),
        pytest.param(np.zeros((1, 1, 3), np.uint8), id="one pixel"),
    ],
)
def test_where_nothing_is_in_the_foreground_it_says_so(remover, photo):
    cutout = remover(photo)
    assert not cutout.found
    assert not cutout.alpha.any()
    assert cutout.image.getextrema() == ((0, 0),) * 4


def test_a_photo_lying_on_its_side_comes_back_upright(remover, person, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.rot90(person)).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(remover(tmp_path / "turned.png").alpha, remover(person).alpha)


def test_the_photos_own_alpha_limits_the_matte(remover, person):
    own = np.full(person.shape[:2], 255, np.uint8)
    own[:, :256] = 100
    own[:100] = 0
    alpha = remover(np.dstack((person, own))).alpha
    assert (alpha <= own).all()
    assert alpha[300:, 256:].mean() > 128


@pytest.mark.parametrize("shape", [(1500, 37), (40, 2500)])
def test_extreme_shapes_keep_their_size(remover, shape):
    photo = np.full((*shape, 3), 240, np.uint8)
    photo[shape[0] // 4 : -shape[0] // 4, shape[1] // 4 : -shape[1] // 4] = (200, 30, 30)
    assert remover(photo).alpha.shape == shape


def test_colours_and_images_are_brought_into_the_photos_colour_space(person):
    """In a profile with red and blue exchanged, sRGB's pure red is the number (0, 0, 255)."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exchanged = srgb.replace(b"rXYZ", b"tmp!", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"tmp!", b"bXYZ", 1)
    cutout = Cutout.from_matte(Photo(person, icc=exchanged), np.zeros(person.shape[:2], np.uint8))
    red = Image.new("RGB", (64, 64), "red")
    for background in ("red", red):
        placed = cutout.composite(background)
        assert placed.info["icc_profile"] == exchanged
        assert np.abs(np.asarray(placed)[0, 0].astype(int) - (0, 0, 255)).max() <= 1
    assert cutout.image.info["icc_profile"] == exchanged


def test_a_cutout_opens_again_from_its_files(remover, tmp_path):
    cutout = remover(PERSON)
    cutout.save(tmp_path / "cutout.png")
    cutout.matte.save(tmp_path / "matte.png")
    assert np.array_equal(Cutout.open(PERSON, tmp_path / "matte.png").pixels(), cutout.pixels())
    again = Cutout.open(tmp_path / "cutout.png")
    assert np.array_equal(again.pixels(), cutout.pixels())
    assert np.array_equal(again.pixels("#30a060"), cutout.pixels("#30a060"))


def test_what_does_not_make_a_cutout_is_told(tmp_path):
    with pytest.raises(PhotoError, match="no transparency"):
        Cutout.open(PERSON)
    with pytest.raises(PhotoError, match="512 × 512 pixels and the matte 600 × 400"):
        Cutout.open(PERSON, EXAMPLES / "coffee.jpg")
    with pytest.raises(PhotoError, match="not a photo"):
        Cutout.open(PERSON, b"no matte at all")


def test_each_of_several_photos_has_its_result_or_its_reason(remover, tmp_path):
    (tmp_path / "text.jpg").write_text("not a photo")
    photos = [PERSON, tmp_path / "text.jpg", PERSON, tmp_path / "missing.jpg", EXAMPLES / "cat.jpg"]
    saved = []

    def save(cutout: Cutout, path: Path) -> None:
        saved.append(path.name)
        if path.name == "cat.webp":
            raise RuntimeError("the disk is full at /secret/path")
        cutout.save(path)

    outcomes = remover.each(photos, tmp_path, save, ".webp")
    first = next(outcomes)
    assert first == Outcome("person.jpg", tmp_path / "person.webp")
    assert saved == ["person.webp"]  # the rest waits until it is asked for
    outcomes = [first, *outcomes]
    assert [outcome.name for outcome in outcomes] == [photo.name for photo in photos]
    assert [outcome.path and outcome.path.name for outcome in outcomes] == [
        *("person.webp", None, "person-2.webp", None, None)
    ]
    for index, reason in (
        (1, "not a photo"),
        (3, "no file 'missing.jpg'"),
        (4, "Something went wrong"),
    ):
        assert reason in outcomes[index].reason
        assert "/" not in outcomes[index].reason
    assert np.array_equal(pixels(tmp_path / "person-2.webp"), remover(PERSON).pixels())


def block(rows: slice, columns: slice, shape: tuple[int, int] = (120, 160)) -> Cutout:
    """A cutout of noise whose subject is one rectangle, with faint residue and a speck elsewhere."""
    photo = np.random.default_rng(3).integers(0, 256, (*shape, 3), dtype=np.uint8)
    alpha = np.full(shape, 31, np.uint8)
    alpha[5, 150] = 255
    alpha[rows, columns] = 255
    return Cutout(Photo(photo), alpha, photo)


def test_framing_cuts_to_the_subject_and_leaves_its_pixels_alone():
    cutout = block(slice(30, 70), slice(40, 100))
    framed = cutout.framed(margin=0.1)
    assert np.array_equal(framed.pixels(), cutout.pixels()[24:76, 34:106])
    assert np.array_equal(framed.photo.rgb, cutout.photo.rgb[24:76, 34:106])
    assert np.array_equal(cutout.framed(margin=0).pixels(), cutout.pixels()[30:70, 40:100])


def test_where_the_photo_ends_the_margin_is_transparent():
    cutout = block(slice(80, 120), slice(0, 60))
    framed = cutout.framed(margin=0.5)
    assert framed.alpha.shape == (40 + 60, 60 + 60)
    assert np.array_equal(framed.pixels()[:70, 30:], cutout.pixels()[50:, :90])
    assert not framed.alpha[70:].any()
    assert not framed.alpha[:, :30].any()
    assert framed.composite("blur").size == (120, 100)


@pytest.mark.parametrize("size", [(300, 300), (90, 40), (500, 80), (33, 400), (1, 7)])
@pytest.mark.parametrize("margin", [0, 0.1])
def test_on_a_canvas_the_subject_is_centred_and_as_large_as_its_margin_lets_it_be(size, margin):
    framed = block(slice(30, 70), slice(40, 100)).framed(margin, size)
    assert framed.matte.size == framed.image.size == framed.composite("blur").size == size
    room = round(60 * margin)
    scale = min(size[0] / (60 + 2 * room), size[1] / (40 + 2 * room))
    rows, columns = np.nonzero(framed.alpha >= 128)
    if min(size) > 1:
        for at, length, count in ((columns, 60, size[0]), (rows, 40, size[1])):
            assert abs(at.min() - (count - length * scale) / 2) <= max(1, scale)
            assert abs(count - 1 - at.max() - (count - length * scale) / 2) <= max(1, scale)


def test_scaling_mixes_no_hidden_colour_into_the_subject():
    """Red stripes of one pixel with green between them, at half the size: red still, at half the alpha."""
    photo = np.zeros((80, 80, 3), np.uint8)
    photo[:, ::2], photo[:, 1::2] = (200, 0, 0), (0, 255, 0)
    alpha = np.zeros((80, 80), np.uint8)
    alpha[:, ::2] = 200
    alpha[:, 79] = 200  # the box is the whole photo
    small = Cutout(Photo(photo), alpha, photo).framed(0, (40, 40)).pixels()
    assert (small[:, :-1] == (200, 0, 0, 100)).all()


def test_opaque_pixels_of_a_smaller_canvas_are_the_photos_means():
    cutout = block(slice(20, 100), slice(40, 120))
    small = cutout.framed(0, (40, 40)).pixels()
    means = cutout.photo.rgb[20:100, 40:120].reshape(40, 2, 40, 2, 3).mean((1, 3))
    assert (small[..., 3] == 255).all()
    assert np.abs(small[..., :3] - means).max() <= 0.51


def test_without_a_subject_the_whole_photo_is_framed():
    photo = np.full((50, 100, 3), 99, np.uint8)
    empty = Cutout(Photo(photo), np.full((50, 100), 20, np.uint8), photo)
    assert np.array_equal(empty.framed().pixels(), empty.pixels())
    assert empty.framed(size=(60, 60)).alpha[15:45].min() == 20
    assert not empty.framed(size=(60, 60)).alpha[:15].any()


@pytest.mark.parametrize(
    ("margin", "size"), [(-0.1, None), (1.1, None), (float("nan"), None), (0.1, (0, 10)), (0.1, (10, 5001))]
)
def test_other_frames_are_refused(margin, size):
    with pytest.raises(PhotoError, match="can't be made"):
        block(slice(30, 70), slice(40, 100)).framed(margin, size)


def test_a_frame_keeps_to_the_pixel_limit():
    photo = np.zeros((9000, 9000, 1), np.uint8).repeat(3, 2)
    with pytest.raises(PhotoError, match="megapixels"):
        Cutout(Photo(photo), np.full((9000, 9000), 255, np.uint8), photo).framed(0.1)


def test_a_framed_cutout_is_saved_with_blur_and_quality(remover, person, tmp_path):
    framed = remover(person).framed(size=(300, 200))
    for name, quality in (("a.png", None), ("a.jpg", 70), ("a.webp", 70)):
        framed.save(tmp_path / name, "blur", blur=0.1, quality=quality)
        with Image.open(tmp_path / name) as saved:
            truth = framed.pixels("blur", 0.1).astype(int)
            assert np.abs(np.asarray(saved) - truth).mean() < (6 if quality else 0.001)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_saved_files_open_to_the_image(remover, person, tmp_path, suffix):
    cutout = remover(person)
    cutout.save(tmp_path / f"cutout{suffix}")
    with Image.open(tmp_path / f"cutout{suffix}") as saved:
        assert np.array_equal(np.asarray(saved), np.asarray(cutout.image))


def test_it_says_which_weights_and_what_device(remover):
    assert remover.weights.name == "isnet-general-use"
    assert "Apache-2.0" in remover.weights.licence
    assert str(remover.engine)


def test_twelve_megapixels_need_little_memory_and_more_threads_hardly_more(tmp_path):
    """1.7 GB for a photo of 12 megapixels, everything counted, in a process of its own, and 2 GB for six in turns."""
    photo = Image.open(EXAMPLES / "person.jpg").resize((4000, 3000))
    photo.save(tmp_path / "big.jpg")
    code = f"""
import re, threading
from pathlib import Path
from pipeline import BackgroundRemover
remover = BackgroundRemover.from_pretrained("isnet-general-use")
def run():
    remover({str(tmp_path / "big.jpg")!r}).save({str(tmp_path / "big.png")!r})
for thread in [threading.Thread(target=run) for _ in range(6)]:
    thread.start()
    thread.join()
    print(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])  # of this program alone, in kB
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    peaks = [int(line) for line in done.stdout.splitlines()]
    assert peaks[0] < 1_700_000
    assert peaks[5] < 2_000_000


def test_one_remover_serves_threads_alike(remover, person):
    with ThreadPoolExecutor(3) as pool:
        alphas = [cutout.alpha for cutout in pool.map(remover, [person] * 3)]
    assert all(np.array_equal(alpha, alphas[0]) for alpha in alphas)


def test_a_preview_is_the_mean_of_what_it_stands_for():
    cutout = block(slice(20, 100), slice(40, 120))
    assert cutout.preview(160) is cutout
    small = cutout.preview(80)
    assert small.photo.size == small.alpha.shape == (60, 80)
    assert np.abs(small.photo.rgb - cutout.photo.rgb.reshape(60, 2, 80, 2, 3).mean((1, 3))).max() <= 0.51
    assert (small.alpha[10:50, 20:60] == 255).all()
