"""Local contrast: differences to the mean of a window by a plain loop, and products of channels."""

import numpy as np
import pytest
import torch

from models.build import build_model
from models.contrast import LocalContrast
from models.forms import FORMS


def test_contrast_is_the_difference_to_the_mean_of_what_is_there() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 9, 11)).astype(np.float32)
    image[:, 2:4, 3:6] = 0.0
    out = LocalContrast(5, [(0, 1)], gain=2.0)(torch.from_numpy(image)[None])[0].numpy()
    assert out.shape == (5, 9, 11)
    np.testing.assert_array_equal(out[:2], image)
    for c in range(2):
        for row in range(9):
            for col in range(11):
                near = image[c, max(row - 2, 0) : row + 3, max(col - 2, 0) : col + 3]
                there = near[near != 0]
                value = image[c, row, col]
                wanted = 2.0 * (value - there.mean()) if value else 0.0
                assert out[2 + c, row, col] == pytest.approx(wanted, abs=1e-5)
    np.testing.assert_allclose(out[4], out[2] * image[1], atol=1e-6)


def test_downslope_motion_has_a_positive_product_whichever_way_the_slope_faces() -> None:
    velocity = torch.zeros(2, 1, 32, 32) + 0.01
    sensitivity = torch.ones(2, 1, 32, 32) * torch.tensor([0.6, -0.6]).view(2, 1, 1, 1)
    velocity[:, :, 12:18, 12:18] += 0.8 * sensitivity[:, :, 12:18, 12:18]
    product = LocalContrast(21, [(0, 1)])(torch.cat([velocity, sensitivity], 1))[:, 4]
    assert (product[:, 13:17, 13:17] > 0.3).all()


def test_products_of_channels_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="contrast_products"):
        build_model(FORMS["slopewatch-s2"], 3, 2)
