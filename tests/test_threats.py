"""Laws that every threat keeps, on ordinary and on nasty inputs."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deceptive.brief import BRIEF
from nofreelunch.attacks import APGD, ATTACKS, FAB, Square
from nofreelunch.cli.values import Norm
from nofreelunch.errors import InputError, parse_number
from nofreelunch.evaluation import evaluate
from nofreelunch.rng import Streams
from nofreelunch.threats import L2, THREATS, Linf, Threat, from_plain, threat

SHAPES = [(1,), (7,), (1, 4, 4), (3, 2, 5)]
KINDS = ["normal", "zeros", "ties", "huge", "tiny", "sparse", "mixed"]

every_threat = pytest.mark.parametrize("make", THREATS.values(), ids=THREATS.keys())
batches = given(
    shape=st.sampled_from(SHAPES),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    eps=st.sampled_from([0.0, 1e-6, 1e-4, 0.03, 0.3, 1.0]),
    box=st.sampled_from([None, (0.0, 1.0), (-0.5, 0.5)]),
    seed=st.integers(0, 2**31),
)
some = settings(max_examples=60, deadline=None)


def draw(kind: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """A batch of 3 gradients or perturbations of some kind."""
    rng = torch.Generator().manual_seed(seed)
    g = torch.randn(3, *shape, generator=rng, dtype=dtype)
    small, large = (1e-30, 1e30) if dtype == torch.float32 else (1e-100, 1e100)
    coin = torch.rand(g.shape, generator=rng) < 0.5
    return {
        "normal": g,
        "zeros": torch.zeros_like(g),
        "ties": g.sign(),
        "huge": g * large,
        "tiny": g * small,
        "sparse": g * coin,
        "mixed": torch.where(coin, g * small, g * large),
    }[kind]


def inside(box: tuple[float, float] | None, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Inputs in the box, some coordinates on its faces."""
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(seed + 1), dtype=dtype)
    x = (x * 1.5 - 0.25).clamp(0, 1)
    return x if box is None else (x * (box[1] - box[0]) + box[0]).clamp(*box)


def inner(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() * b.double()).flatten(1).sum(1)


@every_threat
@batches
@some
def test_steepest_has_unit_size_and_attains_the_dual(make, shape, kind, dtype, eps, box, seed):
    set_, grad = make(eps, box=box), draw(kind, shape, dtype, seed)
    direction = set_.steepest(grad)
    assert direction.dtype == dtype
    assert (set_.size(direction) <= 1 + 1e-6).all()
    torch.testing.assert_close(inner(grad, direction), set_.dual(grad).double(), rtol=1e-5, atol=0)


@every_threat
@batches
@some
def test_nothing_of_unit_size_beats_the_dual(make, shape, kind, dtype, eps, box, seed):
    grad = draw(kind, shape, dtype, seed)
    unit = make(1.0, box=None)
    other = unit.draw(grad, Streams.of(torch.Generator().manual_seed(seed), len(grad)))
    assert (inner(grad, other) <= unit.dual(grad).double() * (1 + 1e-6)).all()


@every_threat
@batches
@some
def test_projection_lands_inside_exactly(make, shape, kind, dtype, eps, box, seed):
    set_, x = make(eps, box=box), inside(box, shape, dtype, seed)
    z = set_.project(x + draw(kind, shape, dtype, seed), x)
    assert z.dtype == dtype
    assert (set_.size(z.double() - x.double()) <= eps).all()  # no tolerance
    if box is not None:
        assert ((z >= box[0]) & (z <= box[1])).all()
    assert set_.contains(z, x).all()


@every_threat
@batches
@some
def test_projection_is_the_nearest_point_of_ball_and_box(make, shape, kind, dtype, eps, box, seed):
    set_, x = make(eps, box=box), inside(box, shape, torch.float64, seed)
    z = x + draw(kind if kind in ("normal", "ties", "sparse") else "normal", shape, torch.float64, seed)
    nearest = set_.project(z, x)
    # The variational inequality characterises the projection onto a convex set: <z - p, q - p> <= 0 for all q in it.
    for count in range(5):
        q = set_.random_start(x, torch.Generator().manual_seed(seed + count))
        assert (inner(z - nearest, q - nearest) <= 1e-9).all()
    assert (inner(z - nearest, x - nearest) <= 1e-9).all()


@every_threat
@batches
@some
def test_projection_leaves_inside_points_alone(make, shape, kind, dtype, eps, box, seed):
    set_, x = make(eps, box=box), inside(box, shape, dtype, seed)
    z = set_.random_start(x, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(set_.project(z, x), z, rtol=0, atol=1e-6)
    assert torch.equal(set_.project(x, x), x)


@every_threat
@batches
@some
def test_clipping_is_into_the_box_and_a_spread_is_a_size(make, shape, kind, dtype, eps, box, seed):
    ball, x = make(eps, box), inside(box, shape, dtype, seed)
    assert torch.equal(ball.clip(x), x)
    z = x + draw(kind, shape, dtype, seed)
    assert torch.equal(ball.clip(z), z if box is None else z.clamp(*box))
    even = torch.full((1, *shape), 0.25, dtype=torch.float64)
    assert ball.spread(0.25, x) == pytest.approx(ball.size(even).item())


@every_threat
def test_radius_zero_is_the_input_itself(make):
    x = torch.rand(5, 3, 4, 4)
    assert torch.equal(make(0.0).project(torch.rand(5, 3, 4, 4), x), x)
    assert torch.equal(make(0.0).random_start(x, torch.Generator()), x)


@every_threat
def test_random_starts_are_inside_differ_and_do_not_depend_on_the_batch(make):
    x, streams = torch.rand(50, 1, 6, 6), Streams.for_examples(3, torch.arange(50))
    z = make(0.2).random_start(x, streams.take(slice(None)))
    assert make(0.2).contains(z, x).all()
    assert len({tuple(row.tolist()) for row in (z - x).flatten(1)}) == 50
    assert torch.equal(make(0.2).random_start(x[7:9], streams.take(slice(7, 9))), z[7:9])


def test_draws_are_uniform_in_the_ball():
    # Under a uniform law on a ball in d dimensions (size / eps)^d is uniform on [0, 1].
    like = torch.zeros(20000, 3, dtype=torch.float64)
    for set_ in (Linf(0.4, box=None), L2(0.4, box=None)):
        delta = set_.draw(like, Streams.for_examples(0, torch.arange(len(like))))
        level = np.sort((set_.size(delta) / 0.4).numpy() ** 3)
        gap = np.abs(level - (np.arange(len(level)) + 0.5) / len(level)).max()
        assert gap < 1.63 / math.sqrt(len(level))  # Kolmogorov's test at 1%
        assert delta.mean(0).abs().max() < 0.01


def test_l2_projection_meets_its_optimality_conditions():
    # d_i = min(t |delta_i|, room_i) with one t <= 1, found here by bisection.
    rng = np.random.default_rng(0)
    for _ in range(30):
        x, delta, eps = rng.random(40), rng.normal(size=40), rng.uniform(0.1, 3)
        room, low, high = np.where(delta > 0, 1 - x, x), 0.0, 1.0
        for _ in range(100):
            t = (low + high) / 2
            low, high = (t, high) if np.linalg.norm(np.minimum(t * abs(delta), room)) < eps else (low, t)
        expected = x + np.sign(delta) * np.minimum(high * abs(delta), room)
        found = L2(eps).project(torch.tensor(x + delta)[None], torch.tensor(x)[None])[0]
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_l2_steepest_survives_gradients_whose_squares_vanish_or_overflow():
    for scale in (1e-44, 1e-38, 1e-30, 1e30, 1e38):
        direction = L2(1.0).steepest(torch.tensor([[3.0, 0.0, 4.0]]) * (scale if scale < 1e38 else 0.5e38))
        assert direction.norm().item() == pytest.approx(1, rel=1e-6)
    torch.testing.assert_close(L2(1.0).steepest(torch.tensor([[3e-30, 0.0, 4e-30]])), torch.tensor([[0.6, 0.0, 0.8]]))


def test_contains_has_no_tolerance():
    x = torch.zeros(1, 2, dtype=torch.float64)
    z = torch.full_like(x, 0.25)
    assert Linf(0.25).contains(z, x).all()
    assert not Linf(0.25).contains(torch.nextafter(z, z + 1), x).any()
    assert not Linf(0.25).contains(torch.nextafter(x, x - 1), x).any()  # out of the box by the smallest number
    assert not Linf(0.25).contains(torch.full_like(x, torch.nan), x).any()


@pytest.mark.parametrize("norm", ["linf", "Linf", "inf", "l_inf", "L_inf", math.inf])
def test_spellings_of_linf(norm):
    assert threat(norm, "8/255") == Linf(8 / 255)


@pytest.mark.parametrize("norm", ["l2", "L2", "2", "l_2", 2, 2.0])
def test_spellings_of_l2(norm):
    assert threat(norm, 0.5) == L2(0.5)


@pytest.mark.parametrize("norm", ["l3", "linf2", "", "two", 1])
def test_unknown_norms_list_the_known_ones(norm):
    with pytest.raises(InputError, match="known: l2, linf"):
        threat(norm, 0.1)


def test_eps_of_the_0_to_255_scale_is_refused_with_the_fix():
    with pytest.raises(InputError, match=r"eps=8: for images in \[0, 1\] did you mean 8/255 = 0.03137\?"):
        Linf(8)
    assert Linf(1).eps == 1.0
    assert L2(80).eps == 80.0  # a long way is possible in many dimensions
    assert Linf(8, box=None).eps == 8.0


@every_threat
@pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf, -math.inf])
def test_impossible_radii_are_refused(make, eps):
    with pytest.raises(InputError, match="eps"):
        make(eps)


@pytest.mark.parametrize("box", [(1.0, 0.0), (0.0, 0.0), (math.nan, 1.0)])
def test_impossible_boxes_are_refused(box):
    with pytest.raises(InputError, match="box"):
        L2(0.1, box=box)


def test_fractions_are_parsed():
    assert parse_number("8/255") == 8 / 255
    assert parse_number("0.3") == 0.3
    assert parse_number(1) == 1.0
    for text in ("8/0", "a", "1/2/3", "", "inf", "nan", "1e20000000"):
        with pytest.raises(InputError, match="is not a number"):
            parse_number(text)


def test_threats_are_values():
    assert Linf(0.3) == Linf(0.3) != L2(0.3)
    assert len({Linf(0.3), Linf(0.3), Linf(0.2)}) == 2
    assert isinstance(Linf(0.3), Threat)


@pytest.mark.parametrize("make", [Linf, L2])
@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
@pytest.mark.parametrize("eps", [1e-45, 1e-39, 1e-30])
def test_radii_that_float32_hardly_knows_are_projected_on(make, box, eps):
    ball, x = make(eps, box), torch.tensor([[0.0, 0.5], [1e-38, 1.0]])
    assert ball.contains(ball.project(x + 0.25, x), x).all()


@every_threat
def test_no_coordinate_moves_by_more_than_the_radius(make: type[Threat]) -> None:
    """What interval bounds count on."""
    assert (make(1.0).size(torch.eye(5, dtype=torch.float64)) >= 1).all()


def test_a_further_norm_is_one_class_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sup(Linf):
        norm = "sup"
        symbol = "sup"

    monkeypatch.setitem(THREATS, "sup", Sup)
    ball = threat("sup", "1/10")
    assert isinstance(ball, Sup)
    assert from_plain(ball.to_plain()) == ball
    x, y = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 2
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 2))
    for attack in (ATTACKS["pgd-10"](ball), APGD(ball, 10), FAB(ball, 5), Square(ball, 50)):
        z = attack(network, x, y, torch.Generator().manual_seed(0))
        assert ball.contains(z, x).all()
    found, same = (evaluate(network, (x, y), each, BRIEF, seed=0) for each in (ball, Linf(0.1)))
    assert found.robust.rate == same.robust.rate


def test_commands_know_every_norm() -> None:
    assert set(get_args(Norm)) == set(THREATS)
