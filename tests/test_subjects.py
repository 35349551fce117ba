"""Which subjects a photo has, and which of them boxes and points pick."""

from functools import partial

import cv2
import numpy as np
import pytest
from helpers import EXAMPLES, PERSON, ROOT, iou

from background_remover import BackgroundRemover, Cutout, Photo
from background_remover.photos import Pixels, open_photo
from background_remover.subjects import MAX_POINTS, _Parts, find_subjects, pick, read_box, read_points
from utilities import PhotoError

SHAPE = 300, 400  # height, width
LEFT, RIGHT = (40, 60, 140, 260), (240, 100, 360, 240)  # boxes of two subjects


def drawn(*boxes: tuple[int, int, int, int], soft: int = 5) -> Pixels:
    """A matte with an ellipse in each box, whose edges are soft."""
    alpha = np.zeros(SHAPE, np.uint8)
    for left, top, right, bottom in boxes:
        centre = (left + right) // 2, (top + bottom) // 2
        cv2.ellipse(alpha, centre, ((right - left) // 2, (bottom - top) // 2), 0, 0, 360, 255, -1)
    return np.asarray(cv2.GaussianBlur(alpha, (soft, soft), 0), np.uint8)


def never(_: tuple[int, int, int, int]) -> Pixels:
    raise AssertionError("the network was asked")


BOTH = drawn(LEFT, RIGHT)


# --- which there are ---


def test_subjects_are_listed_with_box_share_and_confidence_the_largest_first():
    alpha = drawn(RIGHT) // 2 + drawn(RIGHT) // 8 + drawn(LEFT)
    first, second = find_subjects(alpha)
    assert np.abs(np.subtract(first.box, LEFT)).max() <= 2
    assert np.abs(np.subtract(second.box, RIGHT)).max() <= 12  # where it is fainter its edge lies further in
    assert first.share == pytest.approx(np.pi / 4 * 100 * 200 / (300 * 400), abs=0.005)
    assert first.confidence > 0.97
    assert second.confidence == pytest.approx(0.62, abs=0.02)


def test_boxes_are_in_the_pixels_of_a_large_photo():
    large = cv2.resize(BOTH, (4000, 3000), interpolation=cv2.INTER_CUBIC)
    for subject, box in zip(find_subjects(large), (LEFT, RIGHT), strict=True):
        assert np.abs(np.subtract(subject.box, np.multiply(box, 10))).max() <= 24


def test_specks_are_no_subjects_and_nothing_has_none():
    alpha = BOTH.copy()
    alpha[5:7, 5:7] = 255
    assert len(find_subjects(alpha)) == 2
    assert find_subjects(np.zeros(SHAPE, np.uint8)) == find_subjects(np.full(SHAPE, 60, np.uint8)) == []
    (whole,) = find_subjects(np.full(SHAPE, 255, np.uint8))
    assert (whole.box, whole.share, whole.confidence) == ((0, 0, 400, 300), 1.0, 1.0)


def test_the_place_of_a_subject_is_well_inside_it_and_picks_it():
    ring = drawn((40, 40, 200, 200))
    ring[80:160, 60:180] = 0  # whose middle is not its own
    for alpha in (BOTH, ring):
        for subject in find_subjects(alpha):
            x, y = subject.place
            assert alpha[y - 5 : y + 6, x - 5 : x + 6].min() > 200
            (picked,) = find_subjects(pick(alpha, partial(at, alpha), None, [(x, y, True)]))
            assert np.abs(np.subtract(picked.box, subject.box)).max() <= 1


def test_hundreds_of_dots_are_listed_at_once():
    alpha = np.zeros((1024, 1024), np.uint8)
    for y in range(12, 1000, 24):
        for x in range(12, 1000, 24):
            cv2.circle(alpha, (x, y), 9, 255, -1)
    whole = _Parts(alpha)
    found = find_subjects(alpha)
    assert len(found) == len(range(12, 1000, 24)) ** 2
    assert all(alpha[subject.place[1], subject.place[0]] == 255 for subject in found)
    looked_at = sum(whole.cores[whole.inside(number)].size for number in whole.by_area())
    assert looked_at < alpha.size  # and not as often all of the picture


# --- boxes ---


@pytest.mark.parametrize(("box", "other"), [(LEFT, RIGHT), (RIGHT, LEFT)])
@pytest.mark.parametrize("drawn_by", [0, -4, 6], ids=["exactly", "too small", "too large"])
def test_a_box_picks_what_is_in_it_down_to_the_softest_edge(box, other, drawn_by):
    given = tuple(np.add(box, (-drawn_by, -drawn_by, drawn_by, drawn_by)).tolist())
    picked = pick(BOTH, (lambda region: at(BOTH, region)) if drawn_by else never, given)
    left, top, right, bottom = np.add(other, (-5, -5, 5, 5))
    truth = BOTH.copy()
    truth[top:bottom, left:right] = 0
    assert np.array_equal(picked, truth)


def at(alpha: Pixels, region: tuple[int, int, int, int]) -> Pixels:
    left, top, right, bottom = region
    return alpha[top:bottom, left:right]


def test_who_reaches_into_the_box_is_background_and_who_fills_it_is_cut_at_its_edge():
    beside = drawn(LEFT, (148, 80, 390, 280))
    picked = pick(beside, lambda region: at(beside, region), (40, 60, 190, 260))
    assert np.array_equal(picked, drawn(LEFT))
    one = drawn((40, 100, 360, 200))  # two who are one part
    half = pick(one, lambda region: at(one, region), (40, 100, 200, 200))
    assert np.array_equal(half[:, :200], one[:, :200] * (half[:, :200] > 0))
    assert half[150, 60:195].all()
    assert not half[:, 200:].any()


def test_a_box_where_nothing_was_found_is_looked_at_by_itself():
    asked = []

    def look(region: tuple[int, int, int, int]) -> Pixels:
        asked.append(region)
        return at(BOTH, region)

    assert np.array_equal(pick(drawn(LEFT), look, RIGHT), drawn(RIGHT))
    (region,) = asked
    assert region == (170, 30, 400, 300)  # with half of its longer side around, as far as the photo reaches


def test_a_second_look_that_finds_less_is_not_believed():
    blind = pick(
        BOTH, lambda region: np.zeros((region[3] - region[1], region[2] - region[0]), np.uint8), (0, 0, 180, 300)
    )
    assert np.array_equal(blind, pick(BOTH, never, LEFT))


def test_the_whole_photo_as_a_box_changes_nothing_and_asks_nothing():
    assert np.array_equal(pick(drawn(LEFT), never, (0, 0, 400, 300)), drawn(LEFT))


# --- points ---


@pytest.mark.parametrize(
    ("points", "left"),
    [
        ([(90, 160, True)], [LEFT]),
        ([(300, 170, True)], [RIGHT]),
        ([(300, 170, False)], [LEFT]),
        ([(90, 160, True), (300, 170, True)], [LEFT, RIGHT]),
        ([(90, 160, True), (300, 170, True), (301, 171, False)], [LEFT]),
        ([(144, 160, True)], [LEFT]),  # beside it
        ([(200, 20, False)], [LEFT, RIGHT]),  # on nothing
    ],
)
def test_points_keep_the_parts_they_are_on_or_take_them_away(points, left):
    assert np.array_equal(pick(BOTH, never, None, points), drawn(*left))


def test_a_point_on_nothing_is_looked_at_by_itself_in_larger_surroundings_if_need_be():
    asked = []

    def look(region: tuple[int, int, int, int]) -> Pixels:
        asked.append(region)
        return at(BOTH, region)

    picked = pick(drawn(LEFT), look, None, [(300, 170, True)])
    assert np.array_equal(picked, drawn(RIGHT))
    assert asked == [(250, 120, 350, 220), (200, 70, 400, 270)]
    nothing = pick(drawn(LEFT), lambda region: np.zeros_like(at(BOTH, region)), None, [(300, 170, True)])
    assert not nothing.any()


def test_a_small_subject_at_a_point_is_looked_at_once_more_for_its_edges():
    small, sharp = drawn((100, 100, 140, 150)), drawn((100, 100, 140, 150), soft=1)
    assert np.array_equal(pick(small + drawn(RIGHT), lambda region: at(sharp, region), None, [(120, 120, True)]), sharp)


def test_points_choose_among_what_is_in_a_box():
    assert np.array_equal(pick(BOTH, never, (0, 0, 400, 300), [(300, 170, True)]), drawn(RIGHT))


# --- as they are given ---


@pytest.mark.parametrize(
    "given", ["40,20,300,280", [40, 20, 300, 280], (40.4, 20.9, 299.2, 279.5), np.array([40, 20, 300, 280])]
)
def test_boxes_are_read_from_texts_and_sequences(given):
    assert read_box(given, SHAPE) == (40, 20, 300, 280)


def test_a_box_ends_where_the_photo_does_and_none_is_none():
    assert read_box("-50,-50,9999,9999", SHAPE) == (0, 0, 400, 300)
    assert read_box(None, SHAPE) is read_box("", SHAPE) is read_box("  ", SHAPE) is None


@pytest.mark.parametrize(
    "given",
    ["1,2,3", "a,b,c,d", "1,2,3,4,5", "nan,0,1,1", "0,0,1e400,1", [1, 2, [3], 4], 5, [10**400, 0, 1, 1], {"a": 1},
     "300,20,40,280", "40,280,300,20", "500,0,600,50", "40,20,40,280", [None] * 4],
)  # fmt: skip
def test_what_is_no_box_is_refused_in_a_sentence(given):
    with pytest.raises(PhotoError, match=r"^[A-Z].*: choose another\.$|^A box is .*\.$"):
        read_box(given, SHAPE)


@pytest.mark.parametrize(
    "given", ["120,80 300,200,0", [(120, 80), (300, 200, False)], np.array([[120, 80, 1], [300, 200, 0]])]
)
def test_points_are_read_from_texts_and_sequences(given):
    assert read_points(given, SHAPE) == ((120, 80, True), (300, 200, False))


def test_no_points_are_none():
    assert read_points(None, SHAPE) == read_points("", SHAPE) == read_points([], SHAPE) == ()


@pytest.mark.parametrize(
    "given",
    [
        "120",
        "120,80;300,200",
        "1,2,3,4",
        "400,10",
        "10,300",
        "-1,5",
        [5],
        5,
        "x,y",
        " ".join(["1,1"] * (MAX_POINTS + 1)),
    ],
)
def test_what_are_no_points_is_refused_in_a_sentence(given):
    with pytest.raises(PhotoError, match=r"^[A-Z][^:]*(: [a-z ]+)?\.$|^A point is .*\.$"):
        read_points(given, SHAPE)


# --- with the network ---


def subject_of(name: str) -> tuple[Pixels, Pixels]:
    """Colours and alpha of an example's subject, cropped to it."""
    photo = open_photo(EXAMPLES / name)
    matte = open_photo(ROOT / "tests" / "data" / "mattes" / f"{name}.png").rgb[..., 0]
    alpha = cv2.resize(np.ascontiguousarray(matte), photo.shape[::-1], interpolation=cv2.INTER_LINEAR)
    cropped = Cutout.from_matte(photo, np.asarray(alpha, np.uint8)).framed(0)
    return cropped.foreground, cropped.alpha


def put(photo: Pixels, name: str, left: int, width: int) -> tuple[Pixels, Pixels]:
    """A photo with an example's subject on it, so wide and standing near the bottom; and the subject's alpha there."""
    colours, alpha = (
        cv2.resize(pixels, (width, round(width * pixels.shape[0] / pixels.shape[1])), interpolation=cv2.INTER_AREA)
        for pixels in subject_of(name)
    )
    whole = np.zeros(photo.shape[:2], np.uint8)
    top = photo.shape[0] - 40 - alpha.shape[0]
    whole[top:-40, left : left + width] = alpha
    under = photo.copy()
    under[top:-40, left : left + width] = colours
    share = whole[..., np.newaxis] / 255
    return np.rint(share * under + (1 - share) * photo).astype(np.uint8), whole


@pytest.fixture(scope="module")
def scene() -> tuple[Pixels, dict[str, Pixels]]:
    """Two subjects on a plain background, and the alpha of each."""
    photo = np.full((900, 1300, 3), (150, 160, 175), np.uint8)
    photo, car = put(photo, "car.jpg", 80, 520)
    photo, gamepad = put(photo, "gamepad.jpg", 760, 420)
    return photo, {"car": car, "gamepad": gamepad}


def box_of(alpha: Pixels) -> tuple[int, int, int, int]:
    left, top, width, height = cv2.boundingRect((alpha > 127).astype(np.uint8))
    return left, top, left + width, top + height


def test_each_of_two_subjects_can_be_had(remover: BackgroundRemover, scene):
    photo, alphas = scene
    assert len(remover.subjects(photo)) == 2
    for alpha in alphas.values():
        assert iou(remover(photo, box=box_of(alpha)).alpha, alpha) > 0.95
        rows, columns = np.nonzero(cv2.erode(alpha, np.ones((31, 31), np.uint8)) > 200)
        point = int(columns[len(columns) // 2]), int(rows[len(rows) // 2])
        assert iou(remover(photo, points=[point]).alpha, alpha) > 0.95
        rest = remover(photo, points=[(*point, False)]).alpha
        (other,) = (truth for truth in alphas.values() if truth is not alpha)
        assert iou(rest, other) > 0.95


def test_a_subject_of_three_percent_beside_a_large_one_is_found_by_its_box(remover: BackgroundRemover):
    photo, _ = put(np.full((1200, 1800, 3), (120, 130, 120), np.uint8), "dog.jpg", 60, 900)
    photo, alpha = put(photo, "chameleon.jpg", 1250, 380)
    assert 0.01 < (alpha > 127).mean() < 0.05
    assert iou(remover(photo, box=box_of(alpha)).alpha, alpha) > max(0.9, 0.05 + iou(remover(photo).alpha, alpha))


def test_a_picked_subject_can_be_refined_and_keeps_the_photos_alpha(remover: BackgroundRemover, scene):
    photo, alphas = scene
    own = np.full(photo.shape[:2], 255, np.uint8)
    own[:, :300] = 100
    cutout = remover(Photo(photo, own), box=box_of(alphas["car"]), refine=True)
    assert iou(np.where(own == 255, cutout.alpha, 0), np.where(own == 255, alphas["car"], 0)) > 0.95
    assert cutout.alpha[:, :300].max() == 100


def test_boxes_and_points_beside_the_photo_are_refused_before_the_network_is_asked(remover, monkeypatch):
    monkeypatch.setattr(remover, "engine", never)
    with pytest.raises(PhotoError, match="holds nothing of the photo"):
        remover(PERSON, box=(9000, 0, 9100, 50))
    with pytest.raises(PhotoError, match="outside the photo"):
        remover(PERSON, points="9000,5")
