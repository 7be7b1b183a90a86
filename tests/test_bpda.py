"""A model made differentiable answers as it did, whatever operation hides its gradient, and has one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nofreelunch.evaluation.remedies.wrappers import BPDA
from nofreelunch.evaluation.subject import Subject

X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
W = torch.randn(64, 10, generator=torch.Generator().manual_seed(1))
TABLE = torch.randn(10, 10, generator=torch.Generator().manual_seed(2))


def scores(h: Tensor) -> Tensor:
    return h.flatten(1) @ W


def chained(x: Tensor) -> Tensor:
    h = x - 0.3
    h.clamp_(0, 1).mul_(2)
    return scores(h)


def through_data(x: Tensor) -> Tensor:
    h = x * 1
    h.data.clamp_(0.4, 0.6)
    return scores(h)


def detached_in_place(x: Tensor) -> Tensor:
    h = x * 1
    h.detach().mul_(3)
    return scores(h)


def one_hot_in_place(x: Tensor) -> Tensor:
    hot = torch.zeros(len(x), 10)
    hot.scatter_(1, scores(x).argmax(1)[:, None], 1.0)
    return hot @ TABLE


def class_that_is_none(x: Tensor) -> Tensor:
    return scores(x) * (1 + (scores(x).argmax(1) == 10)[:, None])


def written_where(x: Tensor) -> Tensor:
    h = torch.zeros_like(x)
    h[x > 0.5] = 1.0
    return scores(h)


def added_in_place(x: Tensor) -> Tensor:
    h = torch.zeros_like(x)
    h += x > 0.5
    return scores(h)


def copied(x: Tensor) -> Tensor:
    return scores(torch.empty_like(x).copy_(x > 0.5))


def by_name(x: Tensor) -> Tensor:
    return scores(torch.mul(input=torch.ones_like(x), other=(x > 0.5)))


def rounded_into(x: Tensor) -> Tensor:
    h = torch.empty_like(x)
    torch.round(x * 8, out=h)
    return scores(h)


def rounded_in_place(x: Tensor) -> Tensor:
    h = x * 8
    h.round_()
    return scores(h)


def sign_in_place(x: Tensor) -> Tensor:
    h = x - 0.5
    h.sign_()
    return scores(h)


def a_step_inside(x: Tensor) -> Tensor:
    z = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        scores(z).logsumexp(1).sum().backward()
    assert z.grad is not None
    return scores(x - 0.01 * z.grad.sign())


def wants_no_gradient(x: Tensor) -> Tensor:
    x.requires_grad_(False)
    return scores(x)


def bytes_of(x: Tensor) -> Tensor:
    return (x * 255).to(torch.uint8)


HIDING: tuple[Callable[[Tensor], Tensor], ...] = (
    chained,
    through_data,
    detached_in_place,
    one_hot_in_place,
    class_that_is_none,
    written_where,
    added_in_place,
    copied,
    by_name,
    rounded_into,
    rounded_in_place,
    sign_in_place,
    a_step_inside,
    wants_no_gradient,
    lambda x: TABLE.double()[scores(x).argmax(1)].float(),
    lambda x: TABLE.half()[scores(x).argmax(1)].float(),
    lambda x: scores(torch.ones_like(x).where(x > 0.5, torch.zeros_like(x))),
    lambda x: scores(torch.where(x > 0.5, 1.0, 0.0)),
    lambda x: scores(torch.zeros_like(x).masked_fill(x > 0.5, 1.0)),
    lambda x: scores(torch.searchsorted(torch.linspace(0, 1, 9), x).float()),
    lambda x: scores(torch.cat([x > 0.5], 0).float()),
    lambda x: scores(torch.stack([x > 0.25, x > 0.5]).sum(0).float()),
    lambda x: scores(((x > 0.3) & (x < 0.6)) * 1.0),
    lambda x: scores(((x > 0.3) + (x > 0.5)) * 1.0),
    lambda x: scores((bytes_of(x) + bytes_of(x)) * torch.tensor(1 / 255)),
    lambda x: scores((-bytes_of(x)) * torch.tensor(1 / 255)),
    lambda x: scores((bytes_of(x) & 240).float()),
    lambda x: scores((bytes_of(x) >> 4).float()),
    lambda x: scores((bytes_of(x) // 32) * torch.tensor(0.1)),
)


@pytest.mark.parametrize("model", HIDING)
def test_a_model_made_differentiable_answers_as_it_did_and_has_a_gradient(model: Callable[[Tensor], Tensor]) -> None:
    subject, z = Subject(model), X.clone().requires_grad_()
    logits = BPDA(subject)(z)
    torch.testing.assert_close(logits.detach(), subject.logits(X))
    (slope,) = torch.autograd.grad((logits * torch.arange(10)).sum(), z)
    assert (slope.flatten(1).abs().amax(1) > 0).all()


def test_hard_labels_wider_than_the_scores_are_no_failure() -> None:
    def model(x: Tensor) -> Tensor:
        hot = torch.zeros(len(x), 12).scatter(1, scores(x).argmax(1, keepdim=True), 1.0)
        return scores(x) + hot[:, :10]

    torch.testing.assert_close(BPDA(Subject(model))(X), Subject(model).logits(X))
