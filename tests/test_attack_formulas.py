"""The formulas inside the attacks, each against another way to compute the same thing."""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, linprog
from torch import Tensor, nn
from torch.nn import functional

from nofreelunch.attacks import APGD, PGD, Square, loss_gradient, margin
from nofreelunch.attacks.apgd import checkpoints
from nofreelunch.attacks.fab import nearest_crossing
from nofreelunch.attacks.gradient import value_and_gradient
from nofreelunch.attacks.losses import ce, dlr, dlr_targeted
from nofreelunch.attacks.patches import bumps, draw_window, patch_shape
from nofreelunch.attacks.targets import ranked_wrong_class
from nofreelunch.rng import Streams
from nofreelunch.threats import L2, Linf


def logits_and_labels(k: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(k)
    return torch.randn(50, k, dtype=torch.float64), torch.randint(k, (50,))


@pytest.mark.parametrize("k", [2, 3, 10])
def test_ce_is_the_log_odds_of_a_wrong_answer(k):
    logits, y = logits_and_labels(k)
    entropy = functional.cross_entropy(logits, y, reduction="none")
    torch.testing.assert_close(functional.softplus(ce(logits, y)), entropy)
    ours, theirs = (
        torch.autograd.grad(loss(leaf).sum(), leaf)[0]
        for loss in (lambda z: ce(z, y), lambda z: functional.cross_entropy(z, y, reduction="none"))
        for leaf in [logits.clone().requires_grad_()]
    )
    torch.testing.assert_close(functional.normalize(ours, dim=1), functional.normalize(theirs, dim=1))


@pytest.mark.parametrize("k", [2, 3, 10])
def test_margin_is_the_best_wrong_logit_minus_the_true_one(k):
    logits, y = logits_and_labels(k)
    expected = [
        max(v for i, v in enumerate(row) if i != c) - row[c] for row, c in zip(logits.tolist(), y.tolist(), strict=True)
    ]
    torch.testing.assert_close(margin(logits, y), torch.tensor(expected, dtype=torch.float64))


def test_dlr_and_its_targeted_form_are_the_paper_s():
    logits, y = logits_and_labels(10)
    target = (y + 3) % 10
    for row, c, t, plain, towards in zip(
        logits.numpy(), y.tolist(), target.tolist(), dlr(logits, y), dlr_targeted(logits, y, target), strict=True
    ):
        top = np.sort(row)[::-1]
        rest = max(np.delete(row, c))
        assert plain.item() == pytest.approx(-(row[c] - rest) / (top[0] - top[2]))
        assert towards.item() == pytest.approx(-(row[c] - row[t]) / (top[0] - (top[2] + top[3]) / 2))


@pytest.mark.parametrize("k", [2, 3])
def test_below_four_classes_the_margin_takes_the_place_of_the_ratio(k):
    logits, y = logits_and_labels(k)
    target = (y + 1) % k
    torch.testing.assert_close(dlr(logits, y), margin(logits, y))
    expected = logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])
    torch.testing.assert_close(dlr_targeted(logits, y, target), expected[:, 0])


def test_ratios_of_equal_logits_are_finite():
    assert dlr(torch.ones(1, 5), torch.zeros(1, dtype=torch.long)).isfinite().all()


def test_gradients_are_each_example_s_own():
    torch.manual_seed(0)
    model, x, y = (
        nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double(),
        torch.rand(5, 6).double(),
        torch.arange(5) % 3,
    )
    logits, values, grad = value_and_gradient(ce, model, x, y)
    torch.testing.assert_close(logits, model(x).detach())
    torch.testing.assert_close(values, ce(logits, y))
    for i in range(5):
        alone = torch.autograd.functional.jacobian(lambda z, i=i: ce(model(z), y[i : i + 1])[0], x[i : i + 1])
        torch.testing.assert_close(grad[i : i + 1], alone)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not x.requires_grad


def test_half_precision_logits_enter_the_loss_as_float32():
    seen = []

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        seen.append(logits.dtype)
        return ce(logits, y)

    loss_gradient(loss, lambda x: x.to(torch.bfloat16), torch.rand(3, 4), torch.tensor([0, 1, 2]))
    assert seen == [torch.float32]


def test_pgd_is_its_equation():
    torch.manual_seed(0)
    model, x = nn.Linear(6, 3).double(), torch.rand(4, 6).double()
    y = model(x).argmax(1)
    z = x.clone().requires_grad_()
    for _ in range(3):
        grad = torch.autograd.grad(functional.cross_entropy(model(z), y, reduction="sum"), z)[0]
        unit = grad / grad.norm(dim=1, keepdim=True)
        z = L2(0.05).project(z + 0.03 * unit, x).detach().requires_grad_()
    ours = PGD(L2(0.05), 3, step_size=0.03, random_start=False).ascend(model, x, y, torch.Generator())
    torch.testing.assert_close(ours, z.detach())


def test_checkpoints_are_the_paper_s():
    assert checkpoints(100) == (22, 41, 57, 70, 80, 87, 93, 99)
    assert checkpoints(10) == (3, 5, 6, 7, 8, 9, 10, 10)
    assert checkpoints(1) == (1,) * 8


def apgd_in_numpy(value, slope, x: np.ndarray, eps: float, steps: int) -> np.ndarray:
    """Croce and Hein's Algorithm 1 for one example under l_inf without a box, from x; all its iterates."""
    iterates, values, z, before, size = [x], [], x, x, 2 * eps
    best, best_value, best_at_mark, last_mark, halved = x, -np.inf, -np.inf, 0, True
    for k in range(steps):
        values.append(value(z))
        if values[k] > best_value:
            best, best_value = z, values[k]
        if k in checkpoints(steps):
            rises = sum(values[i] > values[i - 1] for i in range(last_mark + 1, k + 1))
            halved = rises < 0.75 * (k - last_mark) or (not halved and best_at_mark >= best_value)
            best_at_mark, last_mark = best_value, k
            if halved:
                size, z, before = size / 2, best, best
        step = np.clip(z + size * np.sign(slope(z)), x - eps, x + eps)
        share = 0.75 if k else 1.0  # the first step is a whole one
        z, before = np.clip(z + share * (step - z) + (1 - share) * (z - before), x - eps, x + eps), z
        iterates.append(z)
    return np.array(iterates)


def test_apgd_walks_as_the_algorithm_does():
    centre, curve = np.array([0.31, -0.12, 0.05, 0.4]), np.array([1.0, 30.0, 4.0, 0.2])

    def model(x: Tensor) -> Tensor:  # two logits whose margin has its peak at the centre
        height = -(torch.tensor(curve) * (x - torch.tensor(centre)) ** 2).sum(1) - 1
        return torch.stack([torch.zeros_like(height), height], 1)

    seen = []

    def spy(x: Tensor) -> Tensor:
        seen.append(x.detach().numpy()[0].copy())
        return model(x)

    x, eps = np.zeros(4), 0.35
    adversary = APGD(Linf(eps, box=None), steps=30, loss="margin", random_start=False)
    adversary(spy, torch.tensor(x)[None], torch.tensor([0]), torch.Generator())
    expected = apgd_in_numpy(
        lambda z: -(curve * (z - centre) ** 2).sum() - 1, lambda z: -2 * curve * (z - centre), x, eps, 30
    )
    walked = np.array(seen[1:])  # the first call asks for the clean verdict
    np.testing.assert_allclose(walked, expected, atol=1e-12)
    assert np.abs(walked[-1] - np.clip(centre, -eps, eps)).max() < 0.05


def test_targets_are_ranked_by_the_clean_logits():
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0]])
    y = torch.tensor([1])
    assert [ranked_wrong_class(lambda x: logits, logits, y, rank).item() for rank in (1, 2, 3)] == [3, 2, 0]


def test_patches_shrink_as_in_the_paper():
    square = Square(Linf(0.1), steps=10000, share=0.8)
    at = {0: 1, 11: 2, 51: 4, 201: 8, 501: 16, 1001: 32, 2001: 64, 4001: 128, 6001: 256, 8001: 512, 9999: 512}
    assert {count: 0.8 / square._share(count) for count in at} == pytest.approx(at)
    half = Square(Linf(0.1), steps=5000, share=0.8)
    assert half._share(1000) == square._share(2000)


def test_patches_are_as_square_as_they_can_be():
    assert patch_shape(0.25, 28, 28) == (14, 14)
    assert patch_shape(1e-9, 28, 28) == (1, 1)
    assert patch_shape(0.5, 1, 100) == (1, 50)
    assert patch_shape(1.0, 4, 9) == (4, 9)


def test_windows_lie_inside_and_everywhere():
    streams, like = Streams.for_examples(0, torch.arange(2000)), torch.zeros(2000, 1, 6, 5)
    inside = draw_window(streams, like, (3, 2)).inside
    assert (inside.flatten(1).sum(1) == 6).all()
    corners = inside[:, 0].float().flatten(1).argmax(1)  # the first pixel of each window
    assert corners.unique().tolist() == [row * 5 + column for row in range(4) for column in range(4)]
    assert corners.bincount()[corners.unique()].min() > 2000 / 16 / 2


def test_a_pattern_is_pasted_where_the_window_is():
    window = draw_window(Streams.for_examples(1, torch.arange(9)), torch.zeros(9, 1, 7, 8), (3, 2))
    pattern = torch.arange(1.0, 7).view(3, 2)
    for mask, pasted in zip(window.inside, window.paste(pattern), strict=True):
        assert pasted[mask].tolist() == pattern.flatten().tolist()
        assert pasted.sum() == pattern.sum()


def test_bumps_are_opposite_and_of_unit_length():
    pattern = bumps(6, 6, torch.zeros(1, dtype=torch.float64))
    assert pattern.norm().item() == pytest.approx(1)
    assert (pattern[:3] > 0).all()
    torch.testing.assert_close(pattern[:3], -pattern[3:])
    # In the middle of a bump of rings 0 .. 3: 1 + 1/4 + 1/9 + 1/16; in the first ring all but the 1.
    ratio = pattern[1, 3] / pattern[1, 2]
    assert ratio.item() == pytest.approx((1 + 1 / 4 + 1 / 9 + 1 / 16) / (1 / 4 + 1 / 9 + 1 / 16))


def test_square_never_accepts_a_worse_point():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(48, 9), nn.Tanh(), nn.Linear(9, 3)), torch.rand(6, 3, 4, 4)
    y = model(x).argmax(1)
    for threat in (Linf(0.02), L2(0.05)):
        square = Square(threat, steps=60)
        state = square.start(model, x, y, Streams.for_examples(0, torch.arange(6)))
        heights = []
        for count in range(60):
            state, _ = square.step(model, state, count)
            torch.testing.assert_close(margin(model(state.best).detach(), y).double(), state.best_margin)
            heights.append(state.best_margin)
            assert threat.contains(state.z, x).all()
        gains = torch.stack(heights).diff(dim=0)
        assert (gains >= 0).all()
        assert (gains > 0).any(0).all()
        surface = threat.size(state.best - x)
        assert (surface > 0.8 * threat.eps).all()


@pytest.mark.parametrize("norm", [Linf, L2])
def test_the_nearest_crossing_is_nearest(norm):
    rng = np.random.default_rng(0)
    for _ in range(15):
        z, grad = rng.random(6), rng.normal(size=6) * (rng.random(6) < 0.8)
        gap = rng.uniform(-0.4, 0.4)
        bounds = [(-value, 1 - value) for value in z]
        here, slope, wanted = (torch.tensor(value) for value in (z[None], grad[None], np.array([gap])))
        found = nearest_crossing(norm(1.0), here, slope, wanted)[0].numpy()
        assert ((z + found >= -1e-12) & (z + found <= 1 + 1e-12)).all()
        ends = np.where(grad * gap > 0, 1 - z, -z)  # as far as the box allows
        if abs(grad @ ends) <= abs(gap):
            np.testing.assert_allclose(found[grad != 0], ends[grad != 0], atol=1e-12)
            continue
        assert grad @ found == pytest.approx(gap, abs=1e-9)
        if norm is Linf:  # minimise t with -t <= d <= t and <grad, d> = gap
            sides = np.block([[np.eye(6), -np.ones((6, 1))], [-np.eye(6), -np.ones((6, 1))]])
            line = {"A_eq": [[*grad, 0]], "b_eq": [gap], "bounds": [*bounds, (0, None)]}
            shortest = linprog([0] * 6 + [1], A_ub=sides, b_ub=np.zeros(12), **line).fun
            assert np.abs(found).max() == pytest.approx(shortest, abs=1e-9)
        else:  # optimality: d is t grad, cut off at the box, with the one t that meets the line
            t = brentq(lambda t, z=z, grad=grad, gap=gap: grad @ np.clip(t * grad, -z, 1 - z) - gap, -1e4, 1e4)
            np.testing.assert_allclose(found, np.clip(t * grad, -z, 1 - z), atol=1e-8)


def test_the_nearest_crossing_without_a_box_and_without_a_slope():
    z, grad, gap = torch.rand(2, 5), torch.ones(2, 5), torch.tensor([1.0, -2.0])
    torch.testing.assert_close(nearest_crossing(Linf(1.0, box=None), z, grad, gap), gap[:, None].expand(2, 5) / 5)
    assert torch.equal(nearest_crossing(L2(1.0), z, torch.zeros(2, 5), gap), torch.zeros(2, 5))
