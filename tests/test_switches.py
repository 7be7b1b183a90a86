"""Models that switch by a number which is no mask: it is driven to its ends, and the attack goes on from behind."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from deceptive.brief import BRIEF
from nofreelunch.evaluation import evaluate
from nofreelunch.evaluation.remedies.switches import BehindSwitch, behind_switches, switches
from nofreelunch.evaluation.subject import Subject
from nofreelunch.threats import L2, Linf
from test_decisions import EPS, SIZE, Parts, direction, inputs, lost

pytestmark = pytest.mark.usefixtures("unchecked")
THREAT = Linf(EPS)
ROWS = 256


class Switching(Parts):
    """The weak network answers where a linear number of the example is below a bound."""

    def __init__(self, bound: float) -> None:
        super().__init__(lambda x: x @ direction() < bound)
        self.bound = bound

    def depth(self, x: Tensor) -> Tensor:
        """How far below the bound; positive behind the switch."""
        return self.bound - x @ direction()


class ByList(Switching):
    """The number is read out of torch."""

    def forward(self, x: Tensor) -> Tensor:
        rows, logits = [row for row, depth in enumerate(self.depth(x).tolist()) if depth > 0], self.strong(x)
        return logits.index_copy(0, torch.tensor(rows), self.weak(x[rows])) if rows else logits


class OneByOne(Switching):
    """Each example is handed on by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(
            [self.weak(row) if float(self.depth(row).detach()) > 0 else self.strong(row) for row in x.split(1)]
        )


class Blended(Switching):
    """A mixture, whose weights turn round within a hundredth of the radius."""

    def forward(self, x: Tensor) -> Tensor:
        share = torch.sigmoid(self.depth(x) / (EPS / 100))[:, None]
        return share * self.weak(x) + (1 - share) * self.strong(x)


class ByIndex(Switching):
    """The number becomes an index."""

    def forward(self, x: Tensor) -> Tensor:
        both = torch.stack([self.strong(x), self.weak(x)], 1)
        return both[torch.arange(len(x)), torch.bucketize(self.depth(x), torch.zeros(1))]


class Softly(Switching):
    """A softmax of two scores, at a low temperature."""

    def forward(self, x: Tensor) -> Tensor:
        shares = (torch.stack([self.depth(x), -self.depth(x)], 1) / (EPS / 50)).softmax(1)
        return shares[:, :1] * self.weak(x) + shares[:, 1:] * self.strong(x)


class ByTable(Switching):
    """No number per example by itself: a row of scores, of which any may decide."""

    def forward(self, x: Tensor) -> Tensor:
        scores = (x @ torch.stack([-direction(), direction()], 1)) + torch.tensor([self.bound, -1e3])
        return torch.where((scores > 0).any(1)[:, None], self.weak(x), self.strong(x))


class OneByOneLater(OneByOne):
    """A harmless number of the whole batch, and then one example after the other."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + x.mean(1, keepdim=True))


class Mapped(Switching):
    """Written for one example, and mapped."""

    def forward(self, x: Tensor) -> Tensor:
        def one(row: Tensor) -> Tensor:
            behind = self.bound - (row * way).sum() > 0
            return torch.where(behind, self.weak(row[None])[0], self.strong(row[None])[0])

        way = direction()
        return torch.vmap(one)(x)


class InChunks(Blended):
    """A few examples at a time, as where memory is short."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.index_select(input=x, dim=0, index=torch.arange(len(x)))  # every argument by its name
        return torch.cat([super(InChunks, self).forward(part) for part in x.split(8)])


class AmongMany(Blended):
    """Behind four hundred others in a table, and eighty that stand alone."""

    def depth(self, x: Tensor) -> Tensor:
        table = x[:, :20] @ torch.linspace(-1, 1, 400).sin().view(20, 20)
        ways = torch.randn(80, SIZE, generator=torch.Generator().manual_seed(5))
        rows = torch.stack([table[:, 0].square(), *(x @ way for way in ways)], 1)
        return super().depth(x) + 0 * rows.mean(1)


class WithoutDraws(Blended):
    """A program would draw the direction anew each time, without the seed."""

    def __init__(self, bound: float) -> None:
        super().__init__(bound)
        self.way = direction()

    def depth(self, x: Tensor) -> Tensor:
        return self.bound - x @ self.way


class Scripted(Blended):
    """A program, inside which nobody sees."""

    def __init__(self, bound: float) -> None:
        super().__init__(bound)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", (FutureWarning, DeprecationWarning))
            self.program = torch.jit.trace(WithoutDraws(bound), inputs(4))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.program(x)
        return logits


KINDS = (AmongMany, Scripted, ByList, OneByOne, Blended, ByIndex, Softly, ByTable, OneByOneLater, Mapped, InChunks)


def at_hand(kind: type[Switching]) -> tuple[Switching, Tensor, Tensor]:
    """A model no example of which is behind the switch by itself, and all can get there, with its examples."""
    x = 0.1 + 0.8 * inputs(40)
    number = x @ direction()
    x = x - 0.9 * (number - number.mean())[:, None] * direction() / SIZE
    model = kind(float((x @ direction()).min()) - 0.3)
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_is_found_and_so_is_what_can_be_reached_behind_it(kind: type[Switching]) -> None:
    """Exactly: a linear program knows."""
    model, x, y = at_hand(kind)
    found = switches(Subject(model), THREAT, x[:16], ROWS)
    assert found[0].alone == issubclass(kind, (OneByOne, InChunks))
    broken = torch.zeros(len(x), dtype=torch.bool)
    for rank in (1, 2):
        attack = BehindSwitch(THREAT, 40, switches=found[0], target_rank=rank)
        z = attack(model, x, y, torch.Generator().manual_seed(0))
        assert THREAT.contains(z, x).all()
        broken |= model(z).argmax(1) != y
    truth = lost(model, x, y, 1, model.bound)
    assert 5 < truth.sum() < 35
    assert (truth & ~broken).sum() <= 1


@pytest.mark.parametrize("kind", [ByList, Softly])
def test_evaluate_looks_behind_switches(kind: type[Switching]) -> None:
    model, x, y = at_hand(kind)
    found = evaluate(model, (x, y), THREAT, BRIEF)
    truth = ~(lost(model, x, y, 1, model.bound) | lost(model, x, y, 0, model.bound))
    assert found.robust.correct <= truth.sum() + 1, found
    assert found.by_attack["remedy: switches"].correct <= found.by_attack["pgd-10"].correct - 5, found
    assert not found.trusted


def test_a_count_of_numbers_is_a_switch_too() -> None:
    """None of them decides: five of eight must be large."""
    x = 0.1 + 0.8 * inputs(40)
    bound = float(x.view(40, 8, -1).mean(2).amax()) - EPS / 2

    class ByVotes(Parts):
        def votes(self, x: Tensor) -> list[int]:
            return [sum(float(part) > bound for part in row) for row in x.view(len(x), 8, -1).mean(2).detach()]

        def forward(self, x: Tensor) -> Tensor:
            many = [votes >= 5 for votes in self.votes(x)]
            return torch.where(torch.tensor(many)[:, None], self.weak(x), self.strong(x))

    x = x + (bound - EPS / 2 - x.view(40, 8, -1).mean(2)).repeat_interleave(SIZE // 8, 1)  # each half a radius below
    model = ByVotes(lambda x: x)
    assert max(model.votes(x)) == 0
    found = switches(Subject(model), Linf(EPS, None), x[:16], ROWS)
    assert min(model.votes(found[0].end(x, torch.zeros(40, dtype=torch.long)))) >= 5


def test_a_number_has_one_place_whatever_the_batch() -> None:
    """Weights, too, are tables of so many rows as a batch may have."""

    class Weighted(ByList):
        def depth(self, x: Tensor) -> Tensor:
            scale = (self.weak[1].weight[:, :4].exp() * 0).sum() + 1  # three rows: as many as the smallest batch
            return super().depth(x) * scale

    model, x, _ = at_hand(Weighted)
    for n in (1, 2, 3, 16, 40):
        found = switches(Subject(model), THREAT, x[:16], ROWS)[0]
        number = found.read(x[:n], torch.zeros(n, dtype=torch.long))[1]
        torch.testing.assert_close(number.detach(), found.ways[0][1] * (x @ direction())[:n])


def test_in_another_ball_too() -> None:
    model, x, y = at_hand(ByList)
    _, attack = behind_switches(switches(Subject(model), L2(0.4), x, ROWS), (12, 20), ROWS)
    z = attack(model, x, y, torch.Generator().manual_seed(0))
    assert L2(0.4).contains(z, x).all()
    assert ((model.depth(z) > 0) & (model(z).argmax(1) != y)).sum() >= 5


class Normalising(nn.Module):
    """Honest: it computes mean, deviation and length of each example, and switches by none of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(SIZE, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 0.1)
        return self.body(x) / (1 + x.norm(dim=1, keepdim=True))


def test_a_smooth_network_has_no_switch() -> None:
    assert switches(Subject(Normalising()), THREAT, inputs(16), ROWS) == []
    assert switches(Subject(nn.Linear(SIZE, 3)), Linf(0.3), inputs(16), ROWS) == []


class Experts(nn.Module):
    """Honest, though its scores jump: the two of four alike experts that score highest answer together."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.router, self.body = nn.Linear(SIZE, 4), nn.Linear(SIZE, 3)
        self.experts = nn.ModuleList(nn.Linear(SIZE, 3) for _ in range(4))
        with torch.no_grad():
            for expert in self.experts:
                expert.weight.mul_(0.05)

    def forward(self, x: Tensor) -> Tensor:
        best, places = self.router(x).topk(2, 1)
        shares = torch.zeros(len(x), 4).scatter(1, places, best.softmax(1))
        answers = torch.stack([expert(x) for expert in self.experts], 1)
        return self.body(x) + (shares[:, :, None] * answers).sum(1)


def test_routed_experts_are_not_slandered() -> None:
    model, x = Experts(), inputs(40)
    found = evaluate(model, (x, model(x).argmax(1)), THREAT, BRIEF)
    assert found.trusted, found


def test_what_leaves_torch_is_flagged() -> None:
    """A number that NumPy computes of the whole example has no slope to climb."""

    class InNumpy(Switching):
        def forward(self, x: Tensor) -> Tensor:
            depth = self.bound - x.detach().numpy() @ direction().numpy()
            share = torch.from_numpy((depth > 0).astype("float32"))[:, None]
            return share * self.weak(x) + (1 - share) * self.strong(x)

    model, x, y = at_hand(InNumpy)
    found = evaluate(model, (x, y), THREAT, BRIEF)
    assert "leaves-torch" in [flag.name for flag in found.flags]
    honest = evaluate(Normalising(), (x, Normalising()(x).argmax(1)), THREAT, BRIEF)
    assert honest.trusted, honest
