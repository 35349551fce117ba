"""To and from the network's size, against the model card's formulas."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import card_matte

from utilities import PhotoError, enlarge, postprocess_image, preprocess_image, shrink

RNG = np.random.default_rng(1)
PHOTO = RNG.integers(0, 256, (60, 90, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (60, 90), dtype=np.uint8)


def card_input(photo: np.ndarray, size: list[int]) -> torch.Tensor:
    tensor = torch.tensor(photo, dtype=torch.float32).permute(2, 0, 1)
    tensor = F.interpolate(torch.unsqueeze(tensor, 0), size=size, mode="bilinear").type(torch.uint8)
    return (torch.divide(tensor, 255.0) - 0.5) / 1.0


# --- preprocess_image ---


@pytest.mark.parametrize("shape", [(60, 90), (1, 1), (1500, 700), (1024, 1024)])
@pytest.mark.parametrize("size", [[1024, 1024], [256, 320]])
def test_preprocess_is_the_cards_bit_for_bit(shape, size):
    photo = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert torch.equal(preprocess_image(photo, size), card_input(photo, size))


@pytest.mark.parametrize(
    "same",
    [
        pytest.param(lambda rgb: np.dstack((rgb, ALPHA)), id="RGBA"),
        pytest.param(lambda rgb: rgb.astype(np.uint16) * 257, id="uint16"),
        pytest.param(lambda rgb: rgb.astype(np.uint16), id="uint16 holding 8 bits"),
        pytest.param(lambda rgb: rgb.astype(np.int64), id="int64"),
        pytest.param(lambda rgb: rgb / 255, id="float64 in 0..1"),
        pytest.param(lambda rgb: (rgb / 255).astype(np.float32), id="float32 in 0..1"),
        pytest.param(lambda rgb: rgb.astype(np.float32), id="float32 in 0..255"),
        pytest.param(lambda rgb: rgb[:, ::-1][:, ::-1], id="not contiguous"),
    ],
)
def test_preprocess_gives_the_photos_result_for_other_arrays_of_it(same):
    assert torch.equal(preprocess_image(same(PHOTO), [64, 48]), card_input(PHOTO, [64, 48]))


def test_preprocess_takes_grey_as_three_equal_channels():
    grey = PHOTO[..., 0]
    truth = card_input(np.dstack((grey, grey, grey)), [64, 48])
    for array in (grey, grey[..., None], np.dstack((grey, ALPHA)), grey.astype(np.uint16) * 257, grey / 255):
        assert torch.equal(preprocess_image(array, [64, 48]), truth)
    assert torch.equal(preprocess_image(grey > 127, [64, 48]), preprocess_image((grey > 127) * np.uint8(255), [64, 48]))


@pytest.mark.parametrize("array", [np.zeros(5), np.zeros((4, 4, 5)), np.zeros((2, 4, 4, 3)), np.array([["a"]])])
def test_preprocess_refuses_what_is_no_photo(array):
    with pytest.raises(PhotoError, match="H x W"):
        preprocess_image(array, [64, 64])


# --- postprocess_image ---


@pytest.mark.parametrize("size", [[60, 90], [1, 1], [2000, 37]])
def test_postprocess_is_the_cards_bit_for_bit(size):
    result = torch.rand(1, 1, 128, 128)
    big = torch.squeeze(F.interpolate(result, size=size, mode="bilinear"), 0)
    if big.max() > big.min():
        big = (big - big.min()) / (big.max() - big.min())
        truth = np.squeeze((big * 255).permute(1, 2, 0).numpy().astype(np.uint8))
        assert np.array_equal(postprocess_image(result, size), truth)
    untouched = result.clone()
    postprocess_image(result, [128, 128])
    assert torch.equal(result, untouched)


@pytest.mark.parametrize(
    "result",
    [
        torch.zeros(1, 1, 64, 64),
        torch.ones(1, 1, 64, 64),
        torch.full((1, 1, 64, 64), 0.5),
        0.1 * torch.rand(1, 1, 64, 64),
    ],
)
def test_a_constant_or_empty_map_gives_zeros(result):
    matte = postprocess_image(result, [50, 70])
    assert matte.shape == (50, 70)
    assert matte.dtype == np.uint8
    assert not matte.any()


@pytest.mark.slow
def test_the_two_around_the_network_are_the_cards_usage(seeded_net):
    image = preprocess_image(PHOTO, [1024, 1024])
    with torch.no_grad():
        matte = postprocess_image(seeded_net(image)[0][0], PHOTO.shape[:2])
    assert matte.max() == 255
    assert np.array_equal(matte, card_matte(seeded_net, PHOTO))


# --- the fast ways against the exact ones ---


@pytest.mark.parametrize("shape", [(1, 1), (60, 90), (1500, 700), (3000, 4000)])
def test_shrink_is_the_cards_resize_to_the_nearest_byte(shape):
    photo = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
    exact = F.interpolate(torch.tensor(photo).permute(2, 0, 1)[None].float(), size=(256, 256), mode="bilinear")
    assert np.abs(shrink(photo, 256) - exact[0].permute(1, 2, 0).numpy()).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (60, 90), (300, 200)])
def test_enlarge_is_the_cards_way_back_to_the_nearest_byte(size):
    matte = (torch.rand(1, 1, 64, 64) * 200 + 20).to(torch.uint8)
    matte[0, 0, 0, :2] = torch.tensor([0, 230])
    truth = F.interpolate(matte.float(), size=size, mode="bilinear")[0, 0] * (255 / 230)
    assert np.abs(enlarge(matte[0, 0].numpy(), size) - truth.numpy()).max() <= 1.5
    assert not enlarge(np.full((64, 64), 200, np.uint8), size).any()
