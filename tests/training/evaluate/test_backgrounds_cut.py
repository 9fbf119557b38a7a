import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.images.preprocessing import Preprocessing
from tests.training.evaluate.cases import Colours, extractor_of
from training.evaluate.backgrounds_cut import binarised, composed, cut, inpainted, object_share

SIZE = 16


def planted(
    grey: int, square: slice, colour: tuple[int, int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    image = np.full((SIZE, SIZE, 3), grey, np.uint8)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[square, square] = 255
    image[mask > 0] = colour
    return image, mask


def test_exact_pixels_of_a_planted_pair() -> None:
    front = cut(*planted(100, slice(3, 8), (200, 0, 0)), resize=SIZE, size=SIZE)
    back = cut(*planted(50, slice(9, 14), (0, 200, 0)), resize=SIZE, size=SIZE)
    swapped = composed(front.view_SS3, front.matte_SS, back.background_SS3)
    expected = np.full((SIZE, SIZE, 3), 50, np.uint8)
    expected[3:8, 3:8] = (200, 0, 0)
    hole = np.zeros((SIZE, SIZE), np.bool_)
    hole[8:15, 8:15] = True
    assert np.array_equal(swapped[~hole], expected[~hole])
    # OpenCV adds the gradient's direction to Telea's mean, 1.4 levels at most, and a half.
    assert np.abs(swapped[hole].astype(int) - 50).max() <= 2, "nothing of the object stays"


def test_composed_is_rounded() -> None:
    generator = np.random.default_rng(0)
    front, back = generator.integers(0, 256, (2, 5, 9, 9, 3), dtype=np.uint8)
    matte = generator.integers(0, 256, (5, 9, 9), dtype=np.uint8)
    share = matte[..., None] / 255
    exact = share * front + (1 - share) * back
    assert np.abs(composed(front, matte, back) - exact).max() <= 0.5
    on_all = composed(front[:, None], matte[:, None], back[None])
    assert np.array_equal(on_all[2, 4], composed(front[2], matte[2], back[4]))


@pytest.mark.parametrize("shape", [(90, 120), (41, 30), (28, 28)])
def test_a_cut_lies_on_the_test_time_view(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    mask = np.zeros((56, 56), np.uint8)
    mask[10:40, 20:40] = 255
    parts = cut(image, mask, resize=28, size=24)
    view_of = extractor_of(Colours(), Preprocessing(view_size=24, resize=28)).view
    assert np.array_equal(parts.view_SS3, view_of(image))
    # The map is of the whole image, whatever its aspect: stretched to it, it is cut as the image.
    whole = cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_NEAREST)
    seen = view_of(np.repeat(whole[..., None], 3, axis=2))[..., 0]
    # One pixel at the edge, where the one is sharper.
    clear = cv2.erode(seen, np.ones((3, 3))) == cv2.dilate(seen, np.ones((3, 3)))
    assert clear.mean() > 0.5
    assert np.array_equal(parts.matte_SS[clear], seen[clear])
    outside = cv2.dilate(parts.matte_SS, np.ones((3, 3))) == 0
    assert np.array_equal(parts.background_SS3[outside], parts.view_SS3[outside])
    assert object_share(mask, *shape) == pytest.approx(parts.matte_SS.mean() / 255, abs=0.03)


def spread(image: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    """Mean over some pixels of the standard deviation in 5 x 5 pixels around."""
    grey = image.mean(axis=2)
    mean, square = (cv2.blur(values, (5, 5)) for values in (grey, grey**2))
    return float(np.sqrt(np.clip(square - mean**2, 0, None))[where].mean())


@pytest.mark.parametrize("scale", [1, 3])
def test_no_silhouette_is_left(scale: int) -> None:
    """Inside the object's shape the picture is as rough as outside, and of the same colours."""
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 40, (96 // scale, 96 // scale, 3)).astype(np.float32)
    ramp = np.linspace(60, 190, 96)[None, :, None]
    texture = np.clip(cv2.resize(noise, (96, 96)) + ramp, 0, 255).astype(np.uint8)
    hole = cv2.circle(np.zeros((96, 96), np.uint8), (50, 46), 24, 1, -1) > 0
    image = texture.copy()
    image[hole] = (255, 0, 0)
    inside = cv2.erode(hole.astype(np.uint8), np.ones((7, 7))) > 0
    filled = inpainted(image, hole)
    assert np.array_equal(filled[~hole], texture[~hole])
    usual = spread(texture, ~hole)
    # Of one square's texture: its own roughness is not quite that of the rest.
    assert spread(filled, inside) == pytest.approx(usual, rel=0.35)
    telea = cv2.inpaint(image, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA).astype(np.uint8)
    assert spread(telea, inside) < 0.6 * usual, "what the texture is for"
    # The object was 125 levels away from the mean of its surroundings, and of another colour.
    assert np.abs(filled[inside].mean(axis=0) - texture[~hole].mean(axis=0)).max() < 25
    assert np.array_equal(inpainted(image, hole), filled)


def test_holes_that_leave_nothing_to_fill_or_to_fill_from() -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 15, 3), dtype=np.uint8)
    none = np.zeros((12, 15), np.bool_)
    assert np.array_equal(inpainted(image, none), image)
    assert np.array_equal(inpainted(image, ~none), image)
    corner = none.copy()
    corner[0, 0] = True
    assert np.array_equal(inpainted(image, ~corner)[0, 0], image[0, 0])


def test_maps_are_split_by_otsu() -> None:
    levels = np.array([[10, 20, 30], [200, 210, 30], [220, 15, 25]], np.uint8)
    assert binarised(levels).tolist() == [[0, 0, 0], [255, 255, 0], [255, 0, 0]]
    assert binarised(np.zeros((4, 4), np.uint8)).max() == 0
