"""Cutouts against exact composites, and their framing against closed forms."""

import io

import cv2
import numpy as np
import pytest
from helpers import EXAMPLES, PERSON
from PIL import Image, ImageCms

from background_remover import Cutout, Finish, Photo, PhotoError, fastpng
from background_remover.compositing import composite
from background_remover.matting import estimate_foreground, touch_up
from background_remover.photos import open_photo
from background_remover.shadows import Shadow

PHOTO = np.random.default_rng(7).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_a_touched_up_cutout_has_the_brushs_alpha_and_its_own_colours(remover, person):
    cutout = remover(person)
    remove = np.zeros(cutout.photo.shape, bool)
    remove[100:200, 100:200] = True
    touched = cutout.touched_up(~np.ones_like(remove), remove)
    assert np.array_equal(touched.alpha, touch_up(person, cutout.alpha, ~np.ones_like(remove), remove))
    assert (touched.alpha[remove] < cutout.alpha[remove]).any()
    changed = touched.alpha != cutout.alpha
    assert np.array_equal(touched.foreground[changed], estimate_foreground(person, touched.alpha)[changed])


def test_a_matte_from_elsewhere_cuts_too(remover, person):
    cutout = remover(person)
    again = Cutout.from_matte(cutout.photo, cutout.alpha)
    assert np.array_equal(again.pixels(), cutout.pixels())


def test_refined_a_matte_has_no_haze_far_from_the_subject_and_keeps_what_is_near():
    matte = np.zeros((400, 500), np.uint8)
    matte[100:300, 150:350] = 255
    matte = cv2.GaussianBlur(matte, (0, 0), 3)
    matte[20:60, 420:480] = 28  # haze, unsure enough to be solved for
    matte[302:306, 200:300] = np.maximum(matte[302:306, 200:300], 28)
    photo = np.where(matte[..., None] > 127, 200, 60).astype(np.uint8) + np.zeros(3, np.uint8)
    alpha = Cutout.from_matte(Photo(photo), matte, refine=True).alpha
    assert alpha[20:60, 420:480].max() == 0
    assert alpha[110:290, 160:340].min() == 255
    assert np.array_equal(Cutout.from_matte(Photo(photo), alpha).cleaned().alpha, alpha)
    assert Cutout.from_matte(Photo(photo), matte).alpha[40, 450] == 28  # unrefined it is the network's


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


@pytest.mark.slow
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


def test_a_preview_is_the_mean_of_what_it_stands_for():
    cutout = block(slice(20, 100), slice(40, 120))
    assert cutout.preview(160) is cutout
    small = cutout.preview(80)
    assert small.photo.shape == small.alpha.shape == (60, 80)
    assert np.abs(small.photo.rgb - cutout.photo.rgb.reshape(60, 2, 80, 2, 3).mean((1, 3))).max() <= 0.51
    assert (small.alpha[10:50, 20:60] == 255).all()


# --- enlarging ---


def disc(height: int = 554, width: int = 512) -> Cutout:
    """A dark disc on a light ground, cut out with hard edges."""
    y, x = np.mgrid[:height, :width]
    inside = ((x - width / 2 + 0.5) / (width / 2 - 10)) ** 2 + ((y - height / 2 + 0.5) / (height / 2 - 10)) ** 2 < 1
    photo = np.full((height, width, 3), 20, np.uint8)
    photo[~inside] = (200, 180, 90)
    return Cutout(Photo(photo), np.where(inside, 255, 0).astype(np.uint8), photo)


@pytest.mark.parametrize(
    "side", [300, 600, 1000, 1600, *(pytest.param(side, marks=pytest.mark.slow) for side in (2400, 5000))]
)
def test_an_enlarged_subject_has_no_holes_and_no_other_colours(side):
    framed = disc().framed(size=(side, side))
    _, _, parts, _ = cv2.connectedComponentsWithStats((framed.alpha < 128).view(np.uint8))
    assert len(parts) == 2, "the subject and one background around it"
    assert (framed.foreground[framed.alpha > 0] == 20).all()
    rows, columns = np.nonzero(framed.alpha)
    middle = framed.alpha[int(rows.mean()), columns.min() : columns.max() + 1]
    edge = 4 * side // 500 + 2
    assert (middle[edge:-edge] == 255).all()


def test_a_photos_cutout_stays_solid_and_in_range_at_three_times_its_size(remover, person):
    cutout = remover(person)
    box = cutout.framed(0)
    large = box.framed(0, (3 * box.alpha.shape[1], 3 * box.alpha.shape[0]))
    solid = cv2.erode((box.alpha == 255).view(np.uint8), np.ones((5, 5), np.uint8)).repeat(3, 0).repeat(3, 1) > 0
    assert large.alpha.shape == solid.shape
    assert solid.any()
    assert large.alpha[solid].min() == 255
    around = np.ones((5, 5), np.uint8)
    low, high = (change(box.foreground, around).repeat(3, 0).repeat(3, 1) for change in (cv2.erode, cv2.dilate))
    assert (large.foreground >= low)[solid].all()
    assert (large.foreground <= high)[solid].all()
    smaller = large.preview(max(box.alpha.shape))  # and it is the same picture
    assert np.abs(smaller.foreground.astype(int) - box.foreground)[box.alpha == 255].mean() < 3


# --- values ---


def test_photos_cutouts_and_finishes_can_be_compared_and_kept_in_sets():
    cutout = disc()
    for thing, other in ((cutout, disc()), (cutout.photo, disc().photo), (Finish(background_image=PHOTO), Finish())):
        assert thing == thing  # noqa: PLR0124
        assert thing != other
        assert len({thing, other, thing}) == 2


def test_a_composite_needs_a_background():
    with pytest.raises(PhotoError, match=r"take \.image"):
        disc().composite(None)


@pytest.mark.parametrize("path", ["beach.jpg", "/photos/beach.png", "./a.webp"])
def test_a_path_in_words_is_told_from_a_colour(path):
    with pytest.raises(PhotoError, match=r"as a pathlib\.Path"):
        disc().composite(path)


@pytest.mark.parametrize(
    ("margin", "size"),
    [(None, None), ("0.1", None), (0.1, (300.5, 300)), (0.1, (300.0, 300.0)), (0.1, ("300", 300)), (0.1, (None, 3))],
)
def test_margins_and_canvases_of_other_types_are_refused_as_well(margin, size):
    with pytest.raises(PhotoError, match="can't be made"):
        disc().framed(margin, size)


@pytest.mark.parametrize("quality", [80.5, "80", 0, 101])
@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_qualities_of_other_types_are_refused_as_well(tmp_path, quality, suffix):
    with pytest.raises(PhotoError, match="whole number from 1 to 100"):
        disc().save(tmp_path / f"a{suffix}", quality=quality)
    assert not list(tmp_path.iterdir())


# --- Finish ---


@pytest.mark.parametrize(
    ("finish", "sentence"),
    [
        (Finish(format="svg"), "not a format to save in"),
        (Finish(format="png/../x"), "not a format to save in"),
        (Finish(quality=80.5), "whole number"),
        (Finish(background="no-such-colour"), "not a colour"),
        (Finish(background="blur", blur=0.5), "blur"),
        (Finish(background="blur", blur=None), "blur"),
        (Finish(crop=True, margin=None), "margin"),
        (Finish(width=5001), "5000"),
        (Finish(width=-1), "1 to 5000"),
        (Finish(height=99.5), "without fractions"),
        (Finish(background_image=b"no image"), "not a photo"),
    ],
)
def test_a_finish_that_no_cutout_can_have_says_so_before_there_is_one(finish, sentence):
    with pytest.raises(PhotoError, match=sentence):
        finish.check()


@pytest.mark.parametrize("background", [None, 7, ("white",)])
def test_a_background_of_another_type_is_told(background):
    with pytest.raises(PhotoError, match="give one"):
        Finish(background=background).check()


def test_a_touch_changes_colours_only_where_it_changes_alpha(remover, person):
    cutout = Cutout.from_matte(Photo(person), remover(person).alpha, foreground=False)
    remove = np.zeros(person.shape[:2], bool)
    remove[100:200, 100:200] = True
    touched = cutout.touched_up(~np.ones_like(remove), remove)
    same = touched.alpha == cutout.alpha
    assert (~same).any()
    assert np.array_equal(touched.foreground[same], cutout.foreground[same])


def test_what_was_transparent_in_the_photo_stays_so_through_frames_and_strokes():
    cutout = disc()
    own = np.full(cutout.alpha.shape, 255, np.uint8)
    own[:, :256] = 0
    part = Cutout.from_matte(Photo(cutout.photo.rgb, own), cutout.alpha)
    for framed in (part.framed(0.1, (200, 200)), part.preview(150)):
        everything = np.ones(framed.alpha.shape, bool)
        touched = framed.touched_up(everything, ~everything)
        assert touched.alpha.max() == 255
        assert (touched.alpha <= framed.photo.alpha).all()


def test_a_framed_photo_of_partial_alpha_looks_as_it_did_and_goes_on_where_it_ends():
    """Composited over grey once and not twice, and beyond its edge no greyer than at it."""
    rgb = np.full((100, 120, 3), (200, 40, 40), np.uint8)
    own = np.full((100, 120), 128, np.uint8)
    subject = np.zeros((100, 120), np.uint8)
    subject[70:, 40:80] = 128
    cutout = Cutout(Photo(rgb, own), subject, rgb)
    seen = cutout.photo.opaque()[0, 0].astype(int)
    for framed in (
        cutout.framed(0.5),
        cutout.framed(0.5, (50, 50)),
        cutout.framed(0.5, (300, 300)),
        cutout.preview(60),
    ):
        assert np.abs(framed.photo.opaque().astype(int) - seen).max() <= 1


def test_what_a_finish_does_not_use_need_not_make_sense():
    Finish(blur=7, margin=None).check()
    Finish(background="no-such-colour", background_image=PHOTO).check()


@pytest.mark.parametrize(
    ("finish", "frame", "background"),
    [
        (Finish(), None, None),
        (Finish(background="#30a060"), None, ("#30a060",)),
        (Finish(background="blur", blur=0.1), None, ("blur", 0.1)),
        (Finish(background="red", background_image=PHOTO), None, (PHOTO,)),
        (Finish(crop=True, margin=0.2), (0.2,), None),
        (Finish(width=90), (0.05, (90, 90)), None),
        (Finish(height=90), (0.05, (90, 90)), None),
        (Finish(width=90, height=50, margin=0.3, background="white"), (0.3, (90, 50)), ("white",)),
    ],
)
def test_a_finish_is_what_the_cutout_makes_of_the_same_words(tmp_path, finish, frame, background):
    cutout = disc()
    truth = cutout.framed(*frame) if frame else cutout
    pixels = truth.pixels(*background) if background else truth.pixels()
    assert np.array_equal(finish.pixels(finish.frame(cutout)), pixels)
    finish.save(cutout, tmp_path / f"a{finish.suffix}")
    with Image.open(tmp_path / "a.png") as saved:
        assert np.array_equal(np.asarray(saved), pixels)


def test_a_finish_has_its_format_and_quality(tmp_path):
    for finish in (Finish(format="jpg", quality=60), Finish(format="webp", quality=60), Finish(format="webp")):
        finish.save(disc(), tmp_path / f"a{finish.suffix}")
        disc().save(tmp_path / f"b{finish.suffix}", quality=finish.quality)
        assert (tmp_path / f"a{finish.suffix}").read_bytes() == (tmp_path / f"b{finish.suffix}").read_bytes()


@pytest.mark.parametrize("chosen", [{}, {"background": "#30a060"}, {"background": "blur"}, {"shadow": Shadow("drop")}])
@pytest.mark.parametrize("deep", [False, True])
def test_a_png_that_is_painted_a_few_rows_at_a_time_is_the_one_of_the_whole(monkeypatch, chosen, deep):
    wide = np.random.default_rng(3).integers(0, 65536, (41, 60, 3), dtype=np.uint16)
    photo = open_photo(wide if deep else (wide >> 8).astype(np.uint8))
    alpha = np.zeros(photo.shape, np.uint8)
    alpha[8:35, 10:50] = np.random.default_rng(4).choice(np.array([0, 90, 255], np.uint8), (27, 40))
    cutout = Cutout.from_matte(photo, alpha)
    monkeypatch.setattr(fastpng, "STRIPE_BYTES", 3000)  # 3 to 16 rows
    painted, buffer = cutout.pixels(**chosen, deep=deep), io.BytesIO()
    cutout.save(buffer, **chosen, suffix=".png")
    assert buffer.getvalue() == fastpng.encode_png(painted, dpi=photo.dpi)
    if not deep:
        with Image.open(buffer) as saved:
            assert np.array_equal(np.asarray(saved), painted)
