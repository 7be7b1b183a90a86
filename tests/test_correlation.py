"""Correlation of pixels with the label, against numpy's own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nofreelunch as nfl
from nofreelunch.features import feature_label_correlation, top_correlated


def some(n: int = 40, d: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.where(np.arange(n) % 3 == 0, 1, -1)
    return np.clip(0.5 + 0.2 * y[:, None] * rng.uniform(-1, 1, d) + rng.normal(0, 0.3, (n, d)), 0, 1), y


def test_the_digits_agree_with_numpy() -> None:
    split = nfl.load_data("mnist-5v7").test
    ours = feature_label_correlation(split)
    assert ours.shape == (1, 28, 28)
    x = split.images().flatten(1).double().numpy()
    changing = np.ptp(x, axis=0) > 0
    theirs = np.corrcoef(x[:, changing].T, split.y)[-1, :-1]
    np.testing.assert_allclose(ours.reshape(-1)[changing], theirs, atol=1e-6)
    assert (ours.reshape(-1)[~changing] == 0).all()
    assert not changing.all()


def test_a_perfect_pixel_a_constant_one_and_a_tensor() -> None:
    y = torch.tensor([0, 1, 0, 1, 1])
    x = torch.stack([0.1 + 0.3 * y, 0.9 - 0.3 * y, torch.full((5,), 0.1)], 1)
    np.testing.assert_allclose(feature_label_correlation((x, y)), [1, -1, 0], atol=1e-7)
    assert feature_label_correlation((x.reshape(5, 1, 3, 1), y)).shape == (1, 3, 1)


def test_the_top_ones_come_first_and_of_equals_the_first() -> None:
    x, y = some()
    order = top_correlated((x, y), 7)
    size = np.abs(feature_label_correlation((x, y)))[order]
    assert (np.diff(size) <= 0).all()
    assert sorted(order) == list(range(7))
    np.testing.assert_array_equal(top_correlated((x, y), 3), order[:3])
    np.testing.assert_array_equal(top_correlated((np.hstack([x[:, :1]] * 4), y), 4), [0, 1, 2, 3])


@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-5, 5))
@settings(max_examples=30, deadline=None)
def test_scale_shift_and_order_do_not_matter_and_labels_turn_the_sign(seed: int, scale: float, shift: float) -> None:
    x, y = some(seed=seed)
    ours = feature_label_correlation((x, y))
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(y))
    np.testing.assert_allclose(feature_label_correlation((scale * x[rows] + shift, y[rows])), ours, atol=1e-9)
    np.testing.assert_allclose(feature_label_correlation((x, -y)), -ours, atol=1e-12)
    np.testing.assert_allclose(feature_label_correlation((x, 3 * y + 1)), ours, atol=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((3, 2)), [0, 1, 2], "two values, got 3; choose two classes"),
        (np.ones((3, 2)), [1, 1, 1], "two values, got 1"),
        (np.ones((3, 2)), [0, 1], "shapes"),
        (np.ones(3), [0, 1, 1], "shapes"),
        (np.full((3, 2), np.nan), [0, 1, 1], "finite"),
    ],
)
def test_wrong_input_is_one_sentence(x: np.ndarray, y: list, message: str) -> None:
    with pytest.raises(nfl.InputError, match=message):
        feature_label_correlation((x, y))


@pytest.mark.parametrize("k", [0, 8, -1])
def test_k_is_a_number_of_pixels(k: int) -> None:
    with pytest.raises(nfl.InputError, match="k must be"):
        top_correlated(some(), k)
