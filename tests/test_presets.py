"""Presets against the rules behind them, and the check of a file against a slow one of its own, in plain numpy."""

from __future__ import annotations

import contextlib
import io
from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from helpers import DATA, EXAMPLES, PHOTOS, encoded
from PIL import Image

from background_remover import Cutout, Finish, Photo, PhotoError
from background_remover.compositing import composite
from background_remover.encoding import save_pixels
from background_remover.framing import Frame
from background_remover.presets import AMAZON, EXACT_WHITE, INSTAGRAM, PRESETS, Preset, Rule, check, enlargement
from background_remover.profiles import Cicp, cicp_profile

SIDE = 256  # pixels: small, since the slow check looks at each of them
RULE = replace(AMAZON, least_longer=200, most_longer=400, most_bytes=200_000, ratio=(1.0, 1.0), typical=())


def subject(name: str = "person.jpg", side: int = SIDE) -> np.ndarray:
    """A real photo's middle, side x side x 3, nowhere near white."""
    with Image.open(EXAMPLES / name) as photo:
        short = min(photo.size)
        left, top = (photo.width - short) // 2, (photo.height - short) // 2
        square = photo.convert("RGB").crop((left, top, left + short, top + short)).resize((side, side))
    return np.asarray(square) // 2 + 40


def ellipse(side: int, share: float, ratio: float = 0.7, centre: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    """A matte, side x side: as high as that share of the frame, a pixel soft."""
    y, x = np.mgrid[:side, :side] + 0.5
    high, wide = share * side / 2, ratio * share * side / 2
    far = np.hypot((y - centre[1] * side) / high, (x - centre[0] * side) / wide)
    return np.rint(255 * np.clip((1 - far) * wide + 0.5, 0, 1)).astype(np.uint8)


def on_white(name: str = "person.jpg", share: float = 0.9, **shape: object) -> np.ndarray:
    return composite(subject(name), ellipse(SIDE, share, **shape), (255, 255, 255))  # type: ignore[arg-type]


def jpeg(pixels: np.ndarray, quality: int = 95, **options: object) -> bytes:
    return encoded(Image.fromarray(pixels), "JPEG", quality=quality, **options)


def png(pixels: np.ndarray) -> bytes:
    return encoded(Image.fromarray(pixels), "PNG")


def broken(data: bytes, rule: Rule = RULE) -> set[str]:
    """The parts of a rule that a file breaks."""
    return {finding.field for finding in check(data, rule) if not finding.ok}


# --- the same by another hand: Pillow, numpy and a queue ---


def flood(mask: np.ndarray, starts: list[tuple[int, int]], corners: bool) -> np.ndarray:
    reached = np.zeros_like(mask)
    queue = deque(place for place in starts if mask[place])
    for place in queue:
        reached[place] = True
    while queue:
        y, x = queue.popleft()
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                place = y + dy, x + dx
                if (dy and dx and not corners) or not (0 <= place[0] < mask.shape[0] and 0 <= place[1] < mask.shape[1]):
                    continue
                if mask[place] and not reached[place]:
                    reached[place] = True
                    queue.append(place)
    return reached


def broken_by_hand(data: bytes, rule: Rule) -> set[str]:
    with Image.open(io.BytesIO(data)) as image:
        form, pages = image.format, getattr(image, "n_frames", 1)
        rgba = np.asarray(image.convert("RGBA")).astype(int)
    height, width = rgba.shape[:2]
    failed = {
        "formats": form not in rule.formats,
        "still": pages > 1,
        "least_longer": max(height, width) < rule.least_longer,
        "most_longer": max(height, width) > rule.most_longer,
        "ratio": not rule.ratio[0] <= width / height <= rule.ratio[1],
        "most_bytes": len(data) > rule.most_bytes,
    }
    alpha = rgba[..., 3:] / 255
    rgb = np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(int)
    off = np.abs(rgb - np.array(rule.background)).max(axis=2)
    edge = [(y, x) for y in range(height) for x in range(width) if y in (0, height - 1) or x in (0, width - 1)]
    behind = flood(off <= 16, edge, corners=False)
    if np.mean([behind[place] for place in edge]) < 0.5:
        failed["background"] = True
    else:
        subject = subject_by_hand(behind)
        near = [subject[max(0, y - 16) : y + 17, max(0, x - 16) : x + 17].any() for y, x in np.argwhere(off > 0)]
        rows, columns = np.nonzero(subject)
        failed["background"] = (alpha < 1).any() or not all(near)
        failed["whole"] = 0 in rows or 0 in columns or height - 1 in rows or width - 1 in columns
        failed["least_share"] = max((np.ptp(rows) + 1) / height, (np.ptp(columns) + 1) / width) < rule.least_share
    return {part for part, fails in failed.items() if fails}


def subject_by_hand(behind: np.ndarray) -> np.ndarray:
    left, parts = ~behind, []
    while left.any():
        parts.append(flood(left, [tuple(np.argwhere(left)[0])], corners=True))
        left &= ~parts[-1]
    largest = max(part.sum() for part in parts)
    return np.any([part for part in parts if part.sum() >= 0.002 * largest], axis=0)


def keeping() -> dict[str, bytes]:
    """Ten files that keep to RULE."""
    grey = np.asarray(Image.fromarray(on_white("cat.jpg")).convert("L"))
    ring = composite(subject("coffee.jpg"), ellipse(SIDE, 0.9) - ellipse(SIDE, 0.4), (255, 255, 255))
    two = np.maximum(ellipse(SIDE, 0.9, 0.3, (0.3, 0.5)), ellipse(SIDE, 0.5, 0.5, (0.7, 0.5)))
    sideways = Image.Exif()
    sideways[0x0112] = 6
    return {
        "a JPEG": jpeg(on_white()),
        "a JPEG with halved colours": jpeg(on_white("cat.jpg"), 80, subsampling=2),
        "a coarse JPEG": jpeg(on_white("coffee.jpg"), EXACT_WHITE, subsampling=2),
        "a progressive JPEG": jpeg(on_white("dandelion.jpg"), progressive=True),
        "a grey JPEG": jpeg(grey),
        "a CMYK JPEG": encoded(Image.fromarray(on_white()).convert("CMYK"), "JPEG", quality=95),
        "a JPEG on its side": jpeg(on_white("person.jpg", 0.88, ratio=0.6), exif=sideways),
        "a hole": png(ring),
        "a wide one of two parts": png(composite(subject("cat.jpg"), two, (255, 255, 255)).transpose(1, 0, 2).copy()),
        "an opaque alpha": png(np.dstack((on_white(), np.full((SIDE, SIDE), 255, np.uint8)))),
    }


def breaking() -> dict[str, tuple[str, bytes]]:
    """Ten files, each of which breaks one part of RULE, which is named."""
    white = on_white()
    matte = ellipse(SIDE, 0.9)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    vignette = 255 - np.clip(300 * (np.hypot(x, y) - 0.5), 0, 60)
    speck = white.copy()
    speck[4:7, 4:7] = 90
    wide = np.full((SIDE, 300, 3), 255, np.uint8)
    wide[:, 22 : 22 + SIDE] = white
    large = np.full((440, 440, 3), 255, np.uint8)
    large[20:420, 20:420] = np.asarray(Image.fromarray(subject()).resize((400, 400)))
    small = np.full((150, 150, 3), 255, np.uint8)
    small[5:145, 20:130] = subject()[:140, :110]
    noise = np.random.default_rng(1).integers(0, 200, (SIDE, SIDE, 3), dtype=np.uint8)
    noisy = png(np.where(matte[..., np.newaxis] > 128, noise, np.uint8(255)))
    see_through = np.dstack((subject(), matte))
    return {
        "off-white": ("background", jpeg(composite(subject(), matte, (254, 254, 254)))),
        "a vignette": ("background", png(composite(subject(), matte, np.dstack([vignette] * 3).astype(np.uint8)))),
        "a speck": ("background", png(speck)),
        "transparent": ("background", png(see_through)),
        "on a photo": ("background", jpeg(subject())),
        "too small a subject": ("least_share", jpeg(on_white(share=0.8))),
        "cut off": ("whole", jpeg(on_white(centre=(0.5, 0.58)))),
        "too few pixels": ("least_longer", jpeg(small)),
        "not a square": ("ratio", jpeg(wide)),
        "a WebP": ("formats", encoded(Image.fromarray(white), "WEBP", lossless=True)),
        "too many pixels": ("most_longer", jpeg(large)),
        "too many bytes": ("most_bytes", noisy + bytes(max(0, 200_001 - len(noisy)))),
    }


@pytest.mark.parametrize(("name", "data"), keeping().items(), ids=keeping().keys())
def test_a_file_that_keeps_to_the_rule_passes_both_checks(name, data):
    assert broken(data) == broken_by_hand(data, RULE) == set()


@pytest.mark.parametrize(("part", "data"), breaking().values(), ids=breaking().keys())
def test_a_file_that_breaks_one_part_fails_in_that_alone_in_both_checks(part, data):
    assert broken(data) == broken_by_hand(data, RULE) == {part}


# --- what the check says ---


def says(data: bytes, field: str, rule: Rule | Preset = RULE) -> str:
    (text,) = (finding.text for finding in check(data, rule) if finding.field == field)
    return text


def test_the_sentences_say_what_was_asked_for_and_what_the_picture_has():
    good, off_white = jpeg(on_white()), jpeg(np.minimum(on_white(), 254))
    assert says(good, "background") == "The background is exactly white."
    assert says(good, "formats") == "The format is JPEG."
    assert says(good, "whole") == "All of the subject is within the frame."
    assert says(off_white, "background").startswith("100 % of the background is not exactly 255, 255, 255: it has ")
    assert says(jpeg(on_white(share=0.62)), "least_share") == (
        "The subject takes 62.5 % of the frame: at least 85 % are asked for."
    )
    assert says(good, "least_longer", AMAZON) == "256 × 256 pixels: at least 1000 on the longer side are asked for."
    assert says(good, "most_bytes", replace(RULE, most_bytes=1500)).endswith(" kB: at most 2 kB are asked for.")
    assert says(jpeg(subject()), "background") == (
        "Only 0 % of the frame's edge is white: all of the background is to be 255, 255, 255."
    )
    assert says(encoded(Image.fromarray(on_white()), "WEBP"), "formats") == (
        "The format is WebP: JPEG, PNG, TIFF or GIF is asked for."
    )


def test_a_share_just_below_what_is_asked_for_does_not_read_as_if_it_were_that():
    white = np.full((1000, 1000, 3), 255, np.uint8)
    white[50:899, 300:700] = 60
    rule = replace(AMAZON, least_share=0.8491)
    sentence = "The subject takes 84.9 % of the frame: at least 84.91 % are asked for."
    assert says(png(white), "least_share", rule) == sentence
    assert "least_share" in broken(png(white), rule)


def test_the_format_is_that_of_the_content_and_a_path_will_do(tmp_path):
    (tmp_path / "shop.jpg").write_bytes(encoded(Image.fromarray(on_white()), "WEBP", lossless=True))
    assert {finding.field for finding in check(tmp_path / "shop.jpg", RULE) if not finding.ok} == {"formats"}


@pytest.mark.parametrize("name", ["GIF", "PNG"])
def test_what_moves_is_told_by_its_frames(name):
    still, moved = (Image.fromarray(pixels) for pixels in (on_white(), on_white("cat.jpg")))
    assert "still" not in broken(encoded(still, name))
    assert "still" in broken(encoded(still, name, save_all=True, append_images=[moved]))


def test_whoever_was_not_read_first_hand_is_said_to_be():
    verified = {finding.field: finding.verified for finding in check(jpeg(on_white()), PRESETS["amazon"])}
    assert [verified[field] for field in ("background", "whole", "least_share", "least_longer")] == [True] * 2 + [
        False
    ] * 2


def test_only_a_picture_of_its_background_alone_has_no_subject():
    data = png(np.full((SIDE, SIDE, 3), 255, np.uint8))
    assert broken(data) == {"least_share"}
    assert says(data, "least_share").startswith("The subject takes 0 % of the frame")


def test_white_at_the_outline_is_background_that_is_not_white():
    """From the file alone nobody can tell a white shirt from a tint: the sentence names both."""
    shirt = on_white()
    shirt[100:200, 60:200] = 250
    shirt[150, :60] = 250
    assert "parts of the subject" in says(png(shirt), "background")


def test_a_soft_shadow_is_not_lost_in_the_band_about_the_subject():
    light = np.full((SIDE, SIDE, 3), 255, np.uint8)
    light[200:] = np.linspace(225, 255, SIDE - 200).astype(np.uint8)[:, np.newaxis, np.newaxis]
    soft = composite(subject(), ellipse(SIDE, 0.88, centre=(0.5, 0.47)), light)
    assert "background" in broken(png(soft))


def test_a_hard_frame_around_the_picture_is_not_taken_for_a_subject():
    framed = on_white()
    framed[:2] = framed[-2:] = framed[:, :2] = framed[:, -2:] = 0
    assert "background" in broken(png(framed))
    half = on_white()
    half[:, : SIDE // 8] = 200
    assert "whole" in broken(png(half))


def test_another_colour_can_be_asked_for():
    blue = composite(subject(), ellipse(SIDE, 0.9), (240, 248, 255))
    assert broken(png(blue), replace(RULE, background=(240, 248, 255))) == set()
    assert broken(png(blue)) == {"background"}


def test_what_other_shops_ask_for_is_judged_too():
    """Proportions with a least and a most, the shorter side, and a subject that is too large."""
    tall, wide, flat = (
        jpeg(np.zeros((height, width, 3), np.uint8)) for height, width in ((400, 319), (191, 100), (320, 612))
    )
    assert broken(tall, INSTAGRAM) == {"least_shorter", "ratio"}
    assert broken(wide, INSTAGRAM) == {"least_shorter", "ratio"}
    assert broken(flat, INSTAGRAM) == {"ratio"}
    assert broken(jpeg(np.zeros((1350, 1080, 3), np.uint8)), INSTAGRAM) == set()
    assert says(flat, "ratio", INSTAGRAM) == "612 × 320 pixels: a width of 0.8 to 1.91 times the height is asked for."
    assert broken(jpeg(on_white()), replace(RULE, most_share=0.8)) == {"most_share"}


def test_what_is_no_photo_is_refused(bad_files):
    for path in bad_files.values():
        with pytest.raises(PhotoError):
            check(path.read_bytes(), RULE)
    with pytest.raises(PhotoError):
        check("nowhere.jpg", RULE)


def test_damaged_bytes_raise_nothing_else():
    whole = {name: encoded(Image.fromarray(on_white()), name) for name in ("JPEG", "PNG", "WEBP", "GIF")}
    draw = np.random.default_rng(3)
    for data in whole.values():
        for _ in range(40):
            bad = bytearray(data[: draw.integers(1, len(data))] if draw.random() < 0.3 else data)
            for place in draw.integers(0, len(bad), 5):
                bad[place] = draw.integers(256)
            with contextlib.suppress(PhotoError):
                assert all(finding.text.endswith(".") for finding in check(bytes(bad), RULE))


# --- the presets ---


def cut_out(name: str) -> Cutout:
    """A real photo with a matte that is painted: an ellipse with a soft edge."""
    with Image.open(EXAMPLES / name) as photo:
        pixels = np.asarray(photo.convert("RGB")) // 2 + 40
    height, width = pixels.shape[:2]
    y, x = np.mgrid[:height, :width]
    far = np.hypot((y - height / 2) / (height / 2.2), (x - width / 2) / (width / 3))
    alpha = np.rint(255 * np.clip((1 - far) * 40 + 0.5, 0, 1)).astype(np.uint8)
    return Cutout(Photo(pixels), alpha, pixels)


@pytest.mark.parametrize("name", ["person.jpg", "cat.jpg", "dandelion.jpg"])
@pytest.mark.parametrize("key", PRESETS)
def test_a_picture_made_with_a_preset_keeps_to_its_rule(key, name):
    preset, target = PRESETS[key], io.BytesIO()
    preset.finish().check()
    preset.finish().save(cut_out(name), target)
    findings = check(target.getvalue(), preset)
    assert [finding.text for finding in findings if not finding.ok] == []
    with Image.open(io.BytesIO(target.getvalue())) as image:
        assert image.size == (preset.width, preset.height)
    if name == "person.jpg":  # the longer side of its box, and the margin's share of it twice
        shop = replace(AMAZON, least_share=0.0, ratio=None)
        share = float(says(target.getvalue(), "least_share", shop).split()[3])
        longest = 100 / (1 + 2 * preset.margin)
        assert longest - 15 < share < longest + 1.5


@pytest.mark.parametrize("name", sorted(set(PHOTOS) - {"dandelion.jpg"}))  # which has parts as light as white
def test_what_the_network_cut_out_is_ready_for_amazon(name):
    """Its mattes have haze about the subject, which `Finish.clean` takes away."""
    target = io.BytesIO()
    PRESETS["amazon"].finish().save(Cutout.open(EXAMPLES / name, DATA / "mattes" / f"{name}.png"), target)
    assert [finding.text for finding in check(target.getvalue(), AMAZON) if not finding.ok] == []


def test_each_rule_says_where_and_when_it_was_read():
    names = set(Rule.__dataclass_fields__)
    for preset in PRESETS.values():
        rule = preset.rule
        assert rule.source
        assert all(source.startswith(("https://", "http://travel.state.gov/")) for source in rule.source)
        assert rule.read == "2026-11-26"
        assert set(rule.typical) <= names
        assert rule.verified == (not rule.typical)
        assert rule.background or rule.least_share is rule.most_share is None  # there is no share without it
        assert not rule.whole or rule.background
    assert {key for key, preset in PRESETS.items() if not preset.rule.verified} == {"amazon", "etsy"}


def test_the_quality_of_each_preset_keeps_white_white():
    """A JPEG's steps can fall so that no whole number of them makes white."""
    exact = set()
    for quality in range(1, 101):
        target = io.BytesIO()
        save_pixels(np.full((16, 16, 3), 255, np.uint8), target, None, quality, None, ".jpg")
        with Image.open(io.BytesIO(target.getvalue())) as image:
            exact |= {quality} if np.asarray(image).min() == 255 else set()
    assert exact >= set(range(EXACT_WHITE, 101))
    assert EXACT_WHITE - 1 not in exact
    assert all(preset.quality in exact for preset in PRESETS.values())


@pytest.mark.parametrize("quality", [None, 100, 95, 85, EXACT_WHITE])
def test_white_is_exact_beyond_the_blocks_that_hold_the_subject(quality):
    cutout, target = cut_out("cat.jpg"), io.BytesIO()
    cutout.save(target, "white", quality=quality, suffix=".jpg")
    with Image.open(io.BytesIO(target.getvalue())) as image:
        pixels = np.asarray(image)
    height, width = cutout.alpha.shape
    held = np.pad(cutout.alpha, ((0, -height % 8), (0, -width % 8)))
    blocks = held.reshape(held.shape[0] // 8, 8, -1, 8).any(axis=(1, 3)).repeat(8, 0).repeat(8, 1)[:height, :width]
    assert 0.2 < blocks.mean() < 0.8
    assert (pixels[~blocks] == 255).all()


def test_white_is_exact_in_the_colours_of_the_photo():
    """White has the same numbers in every RGB profile that a photo can bring."""
    wide = cicp_profile(Cicp(9, 1))
    cutout, target = cut_out("person.jpg"), io.BytesIO()
    tagged = Cutout(replace(cutout.photo, icc=wide), cutout.alpha, cutout.foreground)
    PRESETS["amazon"].finish().save(tagged, target)
    assert says(target.getvalue(), "background", AMAZON) == "The background is exactly white."


def test_haze_fades_and_nothing_else():
    cutout = cut_out("cat.jpg")
    hazy = replace(cutout, alpha=np.maximum(cutout.alpha, 20))
    before, after = (replace(PRESETS["ebay"], clean=clean).finish().frame(hazy).alpha for clean in (False, True))
    subject = before >= 32
    top = np.flatnonzero(subject.any(axis=1))[0]
    assert np.array_equal(after[subject], before[subject])
    assert np.array_equal(after[top - 3 : top].max(axis=1), before[top - 3 : top].max(axis=1))
    assert before[top - 12].max() == 20
    assert not after[: top - 12].any()


# --- how far a subject is enlarged ---


@pytest.mark.parametrize(
    ("side", "margin", "times"), [(0, 0.1, 1), (100, 0, 1), (310, 0, 3.1), (50, 0, 0.5), (300, 0.25, 2)]
)
def test_the_enlargement_is_that_of_the_subjects_box(side, margin, times):
    alpha = np.zeros((200, 300), np.uint8)
    alpha[50:110, 100:200] = 255
    photo = np.zeros((200, 300, 3), np.uint8)
    cutout, finish = Cutout(Photo(photo), alpha, photo), Finish(crop=True, margin=margin, width=side)
    assert enlargement(cutout, finish) == pytest.approx(times)
    columns = np.nonzero((finish.frame(cutout).alpha >= 128).any(axis=0))[0]
    assert np.ptp(columns) + 1 == pytest.approx(100 * times, abs=1)


def test_each_frame_knows_its_scale():
    assert Frame.within(50, (100, 200)).scale == 0.25
    assert Frame.within(500, (100, 200)).scale == 1
    assert Frame.at(0, 0, 2.5, (10, 10), (100, 100)).scale == 2.5
