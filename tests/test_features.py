"""Gradients, large-eps examples, interpolations and their measures, against closed forms and plain versions."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from nofreelunch.attacks.losses import margin
from nofreelunch.data import Split
from nofreelunch.errors import InputError
from nofreelunch.features import (
    edge_map,
    gradient_alignment,
    gradient_pictures,
    hoyer_sparsity,
    input_gradient,
    interpolate,
    large_eps_attack,
    large_eps_examples,
    log_odds,
    nearest_of_each_class,
)
from nofreelunch.threats import L2, THREATS, Linf, Threat


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 4, channels: int = 1, side: int = 6, seed: int = 0) -> Tensor:
    return torch.rand(n, channels, side, side, generator=rng(seed), dtype=torch.float64)


def network(channels: int = 1, side: int = 6, classes: int = 3, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1),
            nn.Tanh(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(4 * side**2, classes),
        ).double()


# --- gradients


def test_input_gradient_is_that_of_the_cross_entropy() -> None:
    model, x, y = network(), images(), torch.tensor([0, 1, 2, 1])
    plain = x.clone().requires_grad_()
    model.eval()
    F.cross_entropy(model(plain), y, reduction="sum").backward()
    model.train()
    torch.testing.assert_close(input_gradient(model, x, y), plain.grad)


def test_input_gradient_leaves_the_model_as_it_was() -> None:
    model, x, y = network(), images(), torch.tensor([0, 1, 2, 1])
    model[0].eval()
    for parameter in model.parameters():
        parameter.grad = None
    with torch.no_grad():
        input_gradient(model, x, y)
    assert model.training
    assert not model[0].training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not x.requires_grad


@pytest.mark.parametrize("scale", [1.0, 30.0, 3000.0])
def test_the_gradient_of_the_log_odds_keeps_its_direction_on_confident_models(scale: float) -> None:
    """In float32 the plain cross-entropy loses the direction where p_y rounds to 1; float64 at scale 1 is the truth."""
    weight = torch.randn(3, 36, generator=rng(1), dtype=torch.float64)

    def model(z: Tensor) -> Tensor:
        logits = z.flatten(1) @ weight.to(z.dtype).T
        return torch.stack([logits[:, 0] + 40, logits[:, 1], logits[:, 1] - 80], 1) * scale

    x, y = images(), torch.zeros(4, dtype=torch.int64)
    expected = (weight[1] - weight[0]).expand(4, 36)
    found = input_gradient(model, x.float(), y, loss=log_odds).flatten(1).double()
    assert F.cosine_similarity(found, expected).min() > 1 - 1e-6


def test_input_gradient_refuses_what_is_no_batch() -> None:
    model, x = network(), images()
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        input_gradient(model, 255 * x, torch.zeros(4, dtype=torch.int64))
    with pytest.raises(InputError, match="label 7"):
        input_gradient(model, x, torch.full((4,), 7))


def test_pictures_of_grey_gradients_are_blue_and_red() -> None:
    grad = torch.zeros(1, 1, 10, 10)
    grad[0, 0, 0, 0], grad[0, 0, 9, 9] = 5.0, -5.0
    picture = gradient_pictures(grad)[0]
    assert picture[:, 0, 0].tolist() == [0.0, 0.0, 1.0]
    assert picture[:, 9, 9].tolist() == [1.0, 0.0, 0.0]
    assert (picture[:, 5, 5] == 1).all()


def test_pictures_of_other_gradients_show_the_sum_of_channels() -> None:
    grad = torch.randn(2, 4, 6, 6, generator=rng())
    torch.testing.assert_close(gradient_pictures(grad), gradient_pictures(grad.sum(1, keepdim=True)))


def test_pictures_of_colour_gradients_are_clipped_at_three_deviations() -> None:
    grad = torch.randn(2, 3, 32, 32, generator=rng(), dtype=torch.float64)
    deviation = grad.flatten(1).std(1, correction=0)
    for one, sigma, picture in zip(grad, deviation, gradient_pictures(grad), strict=True):
        expected = (one.clamp(-3 * sigma, 3 * sigma) + 3 * sigma) / (6 * sigma)
        torch.testing.assert_close(picture, expected)
    torch.testing.assert_close(gradient_pictures(1e-30 * grad), gradient_pictures(grad))


def test_the_picture_of_no_gradient_is_plain() -> None:
    assert (gradient_pictures(torch.zeros(1, 1, 4, 4)) == 1).all()
    assert (gradient_pictures(torch.zeros(1, 3, 4, 4)) == 0.5).all()


# --- measures of gradients


def edge_image(side: int = 20) -> Tensor:
    """Dark left half, bright right half."""
    x = torch.zeros(1, 1, side, side)
    x[..., side // 2 :] = 1
    return x


def test_the_edge_map_of_a_step_is_its_border() -> None:
    edges = edge_map(edge_image())[0]
    assert (edges[:, 9:11] == 4).all()
    assert edges[:, :9].abs().sum() + edges[:, 11:].abs().sum() == 0
    torch.testing.assert_close(edge_map(edge_image().mT)[0], edges.T)


def test_the_edge_map_is_scipys_sobel() -> None:
    x = images(2, 3, 9)
    grey = x.mean(1).numpy()
    expected = [np.hypot(ndimage.sobel(one, 0, mode="nearest"), ndimage.sobel(one, 1, mode="nearest")) for one in grey]
    np.testing.assert_allclose(edge_map(x).numpy(), expected)


def test_coherence_counts_neighbours_right_and_below() -> None:
    grad = (images(1, 2, 7, seed=3) + 0.5)[..., :5]
    total, pairs = 0.0, 0
    centred = grad[0] - grad[0].mean((1, 2), keepdim=True)
    for plane in centred:
        across, down = plane[:, :-1] * plane[:, 1:], plane[:-1] * plane[1:]
        total += across.mean().item() + down.mean().item()
        pairs += 2
    expected = total / pairs / centred.square().mean().item()
    assert gradient_alignment(images(1, 2, 7)[..., :5], grad).coherence.item() == pytest.approx(expected)


def test_a_gradient_on_the_edges_has_all_its_energy_there() -> None:
    x = edge_image()
    measures = gradient_alignment(x, edge_map(x)[:, None] * torch.where(torch.rand(1, 1, 20, 20) > 0.5, 1.0, -1.0))
    assert measures.edge_energy.item() == pytest.approx(1)
    assert measures.edge_cosine.item() == pytest.approx(1)
    away = torch.zeros_like(x)
    away[..., 0] = 1
    assert gradient_alignment(x, away).edge_cosine.item() == 0


def test_noise_has_the_measures_of_noise() -> None:
    x, noise = images(200, 3, 24), torch.randn(200, 3, 24, 24, generator=rng(5))
    measures = gradient_alignment(x, noise)
    assert measures.edge_energy.mean().item() == pytest.approx(0.2, abs=0.005)
    assert measures.coherence.mean().item() == pytest.approx(0, abs=0.01)
    d = 3 * 24**2
    expected = (math.sqrt(d) - math.sqrt(2 * d / math.pi)) / (math.sqrt(d) - 1)  # E|g| / sqrt(E g^2) = sqrt(2 / pi)
    assert measures.sparsity.mean().item() == pytest.approx(expected, abs=0.01)


def test_smooth_gradients_cohere_and_chessboards_do_the_opposite() -> None:
    place = torch.arange(20.0)
    wave = torch.sin(place[:, None] / 20 * 2 * math.pi) * torch.sin(place / 20 * 2 * math.pi)
    chess = 1 - 2 * ((place[:, None] + place) % 2)
    measures = gradient_alignment(images(2, 1, 20).float(), torch.stack([wave, chess])[:, None])
    assert measures.coherence[0] > 0.85
    assert measures.coherence[1].item() == pytest.approx(-1)


def test_alignment_of_a_linear_model_is_the_distance_to_its_boundary() -> None:
    """Etmann et al. 2019: for a binary linear model without bias |<x, g>| / |g| is how far x is from the boundary."""
    weight = torch.randn(36, generator=rng(2), dtype=torch.float64)

    def model(z: Tensor) -> Tensor:
        value = z.flatten(1) @ weight
        return torch.stack([-value, value], 1)

    x, y = images(), torch.tensor([0, 1, 0, 1])
    measures = gradient_alignment(x, input_gradient(model, x, y))
    torch.testing.assert_close(measures.alignment, (x.flatten(1) @ weight).abs() / weight.norm())


def test_hoyer_sparsity_at_its_ends() -> None:
    values = torch.zeros(2, 50, dtype=torch.float64)
    values[0], values[1, 7] = 3.0, -2.0
    assert hoyer_sparsity(values).tolist() == pytest.approx([0.0, 1.0])


@settings(max_examples=25, deadline=None)
@given(st.floats(-1e6, 1e6).filter(lambda c: abs(c) > 1e-6), st.integers(0, 10**6), st.sampled_from([1, 3]))
def test_measures_do_not_depend_on_length_or_sign(factor: float, seed: int, channels: int) -> None:
    x, grad = images(2, channels, seed=seed), images(2, channels, seed=seed + 1) - 0.5
    one, other = gradient_alignment(x, grad), gradient_alignment(x, factor * grad)
    for name, value in vars(one).items():
        torch.testing.assert_close(value, getattr(other, name), rtol=1e-9, atol=1e-12)
    for name in ("edge_cosine", "edge_energy", "sparsity"):
        assert ((getattr(one, name) >= 0) & (getattr(one, name) <= 1 + 1e-12)).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 9), (1, 9, 1), (2, 2, 2)])
def test_images_of_one_row_have_measures_too(shape: tuple[int, int, int]) -> None:
    rng = torch.Generator().manual_seed(0)
    x, grad = torch.rand(4, *shape, generator=rng), torch.randn(4, *shape, generator=rng)
    for values in vars(gradient_alignment(x, grad)).values():
        assert values.isfinite().all()


def test_a_gradient_without_direction_is_refused() -> None:
    x, grad = images(3), images(3, seed=1)
    grad[1] = 0
    with pytest.raises(InputError, match="example 1"):
        gradient_alignment(x, grad)
    with pytest.raises(InputError, match="one shape"):
        gradient_alignment(x, grad[:2])


# --- large eps


def plain_large_eps(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """The authors' loop, written out for one norm at a time."""
    z = x.clone()
    for _ in range(40 if threat.norm == "l2" else 120):
        z.requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(z), y, reduction="sum"), z)
        if threat.norm == "l2":
            step = threat.eps * 1.5 / 40 * grad / grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        else:
            step = threat.eps * 0.003 / 0.25 * grad.sign()
        z = threat.project(z.detach() + step, x)
    return z


@pytest.mark.parametrize("threat", [Linf(0.2), L2(1.5)])
def test_large_eps_examples_are_the_authors_loop(threat: Threat) -> None:
    model, x, y = network(), images(), torch.tensor([0, 1, 2, 1])
    found = large_eps_examples(model, x, y, threat)
    torch.testing.assert_close(found, plain_large_eps(model.eval(), x, y, threat), rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", THREATS)
def test_large_eps_examples_stay_in_the_set_and_climb(norm: str) -> None:
    model, x, y = network(), images().float(), torch.tensor([0, 1, 2, 1])
    threat = THREATS[norm](0.5)
    found = large_eps_examples(model.float(), x, y, threat)
    assert threat.contains(found, x).all()
    assert torch.equal(found, large_eps_examples(model, x, y, threat))
    model.eval()
    with torch.no_grad():
        assert (margin(model(found), y) > margin(model(x), y)).all()


def test_large_eps_goes_on_after_the_first_mistake() -> None:
    """An image that is misclassified from the start still moves as far as it may: it is a picture, not a verdict."""
    model, x = network(), images()
    model.eval()
    wrong = (model(x).argmax(1) + 1) % 3
    moved = (large_eps_examples(model, x, wrong, L2(0.7)) - x).flatten(1).norm(dim=1)
    assert moved.min() > 0.69


def test_without_room_nothing_moves() -> None:
    x = images()
    assert torch.equal(large_eps_examples(network(), x, torch.zeros(4, dtype=torch.int64), Linf(0.0)), x)


def test_the_steps_can_cross_the_ball() -> None:
    for norm, threat in THREATS.items():
        attack = large_eps_attack(threat(1.0))
        assert not attack.random_start
        assert attack.steps * attack.length > 1.4, norm


# --- interpolation


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.integers(0, 10**6))
def test_interpolation_is_straight_even_and_exact_at_its_ends(points: int, seed: int) -> None:
    x, x_adv = images(2, seed=seed).float(), images(2, seed=seed + 1).float()
    path = interpolate(x, x_adv, points)
    assert torch.equal(path[0], x)
    assert torch.equal(path[-1], x_adv)
    assert path.min() >= 0
    assert path.max() <= 1
    torch.testing.assert_close(path.diff(dim=0), ((x_adv - x) / (points - 1)).expand(points - 1, *x.shape))


def test_interpolation_needs_two_points_and_one_shape() -> None:
    x = images()
    assert len(interpolate(x, x)) == 20
    with pytest.raises(InputError, match="points"):
        interpolate(x, x, 1)
    with pytest.raises(InputError, match="one shape and type"):
        interpolate(x, x.half())
    with pytest.raises(InputError, match="one shape"):
        interpolate(x, x[:2])


# --- nearest real images


def split(n: int = 60, classes: int = 3, seed: int = 0) -> Split:
    x = torch.randint(0, 256, (n, 1, 5, 5), generator=rng(seed), dtype=torch.uint8)
    return Split(x, torch.arange(n) % classes, tuple(range(classes)))


def test_neighbours_are_the_nearest_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nofreelunch.features.neighbours._CHUNK", 7)
    real, x = split(), images(8, side=5)
    found = nearest_of_each_class(x, real)
    distances = torch.cdist(
        x.flatten(1), real.images().double().flatten(1), compute_mode="donot_use_mm_for_euclid_dist"
    )
    for k in range(3):
        members = (real.y == k).nonzero().squeeze(1)
        low, place = distances[:, members].min(1)
        torch.testing.assert_close(found.distance[:, k], low, rtol=1e-6, atol=1e-7)
        assert torch.equal(found.index[:, k], members[place])


def test_an_image_of_the_split_is_its_own_neighbour() -> None:
    real = split()
    found = nearest_of_each_class(real.images(slice(0, 9)), real)
    assert torch.equal(found.distance.amin(1), torch.zeros(9, dtype=torch.float64))
    assert torch.equal(found.index.gather(1, found.distance.argmin(1)[:, None]).squeeze(1), torch.arange(9))


def test_a_class_without_images_is_infinitely_far() -> None:
    real = Split(split().x[:4], torch.tensor([0, 0, 2, 2]), (0, 1, 2))
    found = nearest_of_each_class(images(2, side=5).float(), real)
    assert found.distance[:, 1].isinf().all()
    assert (found.index[:, 1] == -1).all()


def test_neighbours_need_one_shape() -> None:
    with pytest.raises(InputError, match="shape"):
        nearest_of_each_class(images(2, side=6), split())
