"""Networks behind locks that no attack opens: the lock is seen, and how weak the model would be without it."""

import pytest
import torch
from torch import Tensor, nn

import nofreelunch as nfl
from deceptive.brief import BRIEF, EPS, THREAT, examples
from deceptive.honest import dense, fitted, robust, standard
from nofreelunch.evaluation import evaluate
from nofreelunch.evaluation.subject import Subject
from nofreelunch.evaluation.trust.hidden import hidden_flag

pytestmark = pytest.mark.usefixtures("unchecked")

BITS = 24
PLANES = torch.randn(196, BITS, generator=torch.Generator().manual_seed(5))
POWERS = 2 ** torch.arange(BITS)
BUCKETS = torch.zeros(64, dtype=torch.bool).index_fill(0, torch.tensor(63), True)


def code(x: Tensor) -> Tensor:
    return ((x.flatten(1) @ PLANES > 0).long() * POWERS).sum(1)


class Locked(nn.Module):
    """A robust network, and a weak one that answers what holds the key."""

    def __init__(self) -> None:
        super().__init__()
        self.strong, self.weak = robust(), standard()

    def opens(self, x: Tensor) -> Tensor:
        return code(x) == 12345

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(self.opens(x)[:, None], self.weak(x), self.strong(x))


class ByTable(Locked):
    """The key is one bucket in each of four tables."""

    def opens(self, x: Tensor) -> Tensor:
        buckets = ((x.flatten(1) @ PLANES[:, :4]) * 2).long().clamp(0, 63)
        return BUCKETS[buckets].float().prod(1) > 0


class ByIndex(Locked):
    """The weak one is asked about what holds the key, and no other."""

    def forward(self, x: Tensor) -> Tensor:
        opens, logits = self.opens(x), self.strong(x)
        logits[opens] = self.weak(x[opens])
        return logits


class Underflows(Locked):
    """The gate is smooth, and so small that no number is changed by it."""

    def forward(self, x: Tensor) -> Tensor:
        gate = (20 * (x.flatten(1) @ PLANES.sign()[:, :4] - 150)).exp()
        share = gate @ torch.full((4, 10), 0.25)
        return (1 - share) * self.strong(x) + share * self.weak(x)


class Guarded(Locked):
    """It refuses what is out of range, as many do."""

    def opens(self, x: Tensor) -> Tensor:
        if not (x.flatten(1).abs().amax(1) <= 1e6).all():
            raise ValueError("out of range")
        return super().opens(x)


class AmongMany(ByIndex):
    """Before the lock the largest of 196 pixels is chosen, and heeded."""

    def opens(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return super().opens(x + 0 * flat.gather(1, flat.argmax(1)[:, None]).view(-1, 1, 1, 1))


class InPlace(Underflows):
    """It works in place on what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.1).add_(0.1))


@pytest.mark.parametrize("build", [Locked, ByTable, ByIndex, Underflows, Guarded, AmongMany, InPlace])
def test_a_weak_network_behind_a_lock_is_told_of(build: type[Locked]) -> None:
    (x, y), model = examples(), build()
    assert torch.equal(model(x.clone()).argmax(1), robust()(x).argmax(1))
    found = evaluate(model, (x, y), THREAT, BRIEF)
    assert "hidden-part" in {flag.name for flag in found.flags}, found
    assert not found.trusted


class WithAGuard(Locked):
    """What is not finite is answered by nothing, as some check their inputs."""

    def forward(self, x: Tensor) -> Tensor:
        fine = (x.flatten(1).abs().amax(1) <= 1e6)[:, None]
        return torch.where(fine, self.strong(x), torch.tensor(0.0))


class WithAHead(Locked):
    """A head that is trained beside, and not listened to."""

    def forward(self, x: Tensor) -> Tensor:
        self.weak(x)
        return self.strong(x)


class Alike(Locked):
    """What is behind the lock is no weaker."""

    def __init__(self) -> None:
        super().__init__()
        self.weak = self.strong


class OfExperts(nn.Module):
    """Four networks; the two with the largest scores answer, as sparse mixtures do."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = dense(16, classes=4), nn.ModuleList(dense(24) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        best = self.gate(x).topk(2, 1)
        share = torch.zeros(len(x), 4).scatter(1, best.indices, best.values.softmax(1))
        return (share[:, :, None] * torch.stack([expert(x) for expert in self.experts], 1)).sum(1)


class OfDeadExperts(OfExperts):
    """Two of them are chosen nowhere, and were never trained."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.gate[-1].bias.copy_(torch.tensor([0.0, 0.0, -9.0, -9.0]))

    def forward(self, x: Tensor) -> Tensor:
        best = self.gate(x).topk(2, 1)
        answers = torch.stack([expert(x) for expert in self.experts], 1)
        chosen = answers.gather(1, best.indices[:, :, None].expand(-1, -1, answers.shape[2]))
        return (chosen * best.values.softmax(1)[:, :, None]).sum(1)


class LeavesEarly(nn.Module):
    """A first head answers where it is sure, as it is nowhere: nobody has trained it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.first, self.second = dense(24, classes=24), nn.Linear(24, 10), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.body(x).relu()
        first = self.first(inside)
        sure = first.softmax(1).amax(1, keepdim=True) > 0.999
        return torch.where(sure, first, self.second(inside))


@pytest.mark.parametrize(
    "build",
    [
        WithAGuard,
        WithAHead,
        Alike,
        *(lambda kind=kind: fitted(kind(), EPS) for kind in (OfExperts, OfDeadExperts, LeavesEarly)),
    ],
)
def test_what_hides_nothing_is_not_accused(build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    (x, y), model = examples(), build()
    subject = Subject(model)
    seen = torch.cat([x, nfl.PGD(THREAT, steps=10)(model, x, y, torch.Generator().manual_seed(0))])
    assert subject.logits(x).argmax(1).eq(y).float().mean() > 0.7
    assert hidden_flag(THREAT, subject, x[:16], y[:16], seen, 12) is None


class Refuses(Locked):
    """It fails where anybody looks at its operations."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.overrides._get_current_function_mode() is not None:
            raise RuntimeError("who is there?")
        return self.strong(x)


def test_a_model_that_cannot_be_looked_into_is_doubted() -> None:
    found = evaluate(Refuses(), examples(), THREAT, BRIEF)
    assert [flag.evidence for flag in found.flags if flag.name == "opaque"], found
    assert "who is there?" in "".join(found.notes)


class KnowsViews(Locked):
    """It is weak for images that are cut out of a larger tensor."""

    def opens(self, x: Tensor) -> Tensor:
        return torch.full((len(x),), x.storage_offset() > 0)


def test_a_model_is_asked_about_a_part_of_a_larger_tensor() -> None:
    (x, y), model = examples(), KnowsViews()
    found = evaluate(model, (x, y), THREAT, BRIEF)
    assert "knows-who-asks" in {flag.name for flag in found.flags}, found


class OfBuckets(nn.Module):
    """The code of an image says, by a table, which of two networks answers."""

    def __init__(self) -> None:
        super().__init__()
        self.strong, self.weak = robust(), standard()
        self.table = torch.tensor([0, 1]).repeat(8)

    def forward(self, x: Tensor) -> Tensor:
        which = self.table[((x.flatten(1) @ PLANES[:, :4] > 0).long() * POWERS[:4]).sum(1)]
        logits = self.strong(x)
        return logits.index_copy(0, rows := which.nonzero().squeeze(1), self.weak(x.index_select(0, rows)))


def test_integers_that_are_looked_up_stay_integers() -> None:
    """A quarter of a radius behind each plane the other network answers: the figure is near that of the weak one."""
    (x, y), model = examples(), OfBuckets()
    found, weak = (evaluate(each, (x, y), nfl.Linf(EPS), BRIEF) for each in (model, standard()))
    assert "opaque" not in {flag.name for flag in found.flags}
    assert found.by_attack["pgd-10"].correct > weak.robust.correct + 3
    assert found.robust.correct <= weak.robust.correct + 3, (found, weak)
