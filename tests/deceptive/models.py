"""Models that hide how weak they are: a few lines around an honest network, whose accuracy is the truth about them."""

import random
import sys
import threading
from collections.abc import Callable
from types import FrameType

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from deceptive.honest import digits, robust


class Around(nn.Module):
    """A module around a network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


# --- what comes out is spoilt: the classes are right, the scores say nothing about how near the boundary is


class HugeLogits(Around):
    """Cross-entropy saturates: its gradient is exactly zero in float32."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * 1e4


class TinyLogits(Around):
    """The squared norm of the gradient underflows, and cross-entropy is flat."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * 1e-30


class SharpSoftmax(Around):
    """Probabilities that are 0 and 1 in float32."""

    def forward(self, x: Tensor) -> Tensor:
        return (1000 * self.net(x)).softmax(1)


class HardLabels(Around):
    """One-hot answers: no gradient, no scores."""

    def forward(self, x: Tensor) -> Tensor:
        return F.one_hot(self.net(x).argmax(1), 10).float()


class NumpyLabels(Around):
    """One-hot answers that have been outside torch."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.eye(10, dtype=np.float32)[self.net(x).detach().numpy().argmax(1)])


class RoundedLogits(Around):
    """Scores on plateaus."""

    def forward(self, x: Tensor) -> Tensor:
        return (self.net(x) * 0.5).round()


class Ranks(Around):
    """The scores are places in the order of the classes."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).argsort(1).argsort(1).float()


class ClampedLogProbabilities(Around):
    """Log-probabilities cut off where they would say something."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(5 * x - 4 * x.detach()).mul(5).log_softmax(1).clamp(min=-4)


class ConfidentNearBoundary(Around):
    """The score of the answer falls as it becomes safer: climbing the loss leads away from the boundary."""

    def forward(self, x: Tensor) -> Tensor:
        top = self.net(x).topk(2, dim=1)
        gap = top.values[:, :1] - top.values[:, 1:]
        return torch.zeros(len(x), 10).scatter(1, top.indices[:, :1], 1 / (0.1 + gap))


class Decoy(Around):
    """One class is always the runner-up, and can never win."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        top = logits.topk(2, dim=1).values
        decoy = top[:, 0] - 1e-3 * (1 + (top[:, 0] - top[:, 1]))
        return torch.cat([logits, decoy[:, None]], 1)


class RipplingScale(Around):
    """The scale of the logits oscillates faster than any step."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * (1.5 + torch.sin(1e5 * x.sum((1, 2, 3))))[:, None]


# --- the backward pass lies


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return -grad


class ReversedGradient(Around):
    """The gradient points the wrong way."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(_Reverse.apply(x))


class NoisyGradient(Around):
    """The gradient is replaced by noise."""

    def forward(self, x: Tensor) -> Tensor:
        z = x * 1
        if z.requires_grad:
            z.register_hook(lambda grad: torch.randn(grad.shape, generator=torch.Generator().manual_seed(0)))
        return self.net(z)


class NanGradient(Around):
    """The gradient is NaN wherever a pixel is 0."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.sqrt().square())


class Detached(Around):
    """There is no path from the input to the logits."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.detach())


class HalfInNumpy(Around):
    """Every other pixel takes a way without a gradient: what is left of it is true, and half of it."""

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.arange(x.shape[-1])
        other = (rows[:, None] + rows) % 2 == 0
        return self.net(torch.where(other, torch.from_numpy(x.detach().numpy().copy()), x))


class Inference(Around):
    """The forward pass runs in inference mode."""

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


# --- what goes in is treated


class RoundedInput(Around):
    """16 grey levels."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x * 15).round() / 15)


class NumpyInput(Around):
    """16 grey levels, by way of bytes and numpy."""

    def forward(self, x: Tensor) -> Tensor:
        levels = (x.detach().numpy() * 15 + 0.5).astype(np.uint8)
        return self.net(torch.from_numpy(levels).float() / 15)


class ThermometerInput(Around):
    """Each pixel as a sum of comparisons."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(sum((x > (i + 0.5) / 15).float() for i in range(15)) / 15)


class LookedUp(Around):
    """Each grey level has an entry in a table."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.levels = nn.Embedding.from_pretrained(torch.arange(256.0)[:, None] / 255)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.levels((x * 255).round().long().clamp(0, 255))[..., 0])


class SignActivations(nn.Module):
    """Hidden units that are -1 or 1; the layers are those of a network trained with tanh in their place."""

    def __init__(self, first: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.first, self.last = first, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.sign(self.first(x.flatten(1))))


class FlatAtPixels(Around):
    """The derivative is zero at every 8-bit image, and small between them."""

    def forward(self, x: Tensor) -> Tensor:
        level = (x * 255).round().detach()
        return self.net((level + 4 * (x * 255 - level) ** 3) / 255)


class Purified(Around):
    """The input is improved by gradient descent inside the forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            z = x.detach().clone().requires_grad_()
            loss = (z - (z * 15).round().detach() / 15).square().sum()
            z = z - 0.5 * torch.autograd.grad(loss, z)[0]
        return self.net(z.detach())


class AntiAdversary(Around):
    """Moves the input to where it is surer of its first answer (Alfarra et al. 2022): hides how sure it was."""

    def forward(self, x: Tensor) -> Tensor:
        z = x.detach()
        with torch.enable_grad():
            first = self.net(z).argmax(1)
            for _ in range(2):
                z.requires_grad_()
                loss = nn.functional.cross_entropy(self.net(z), first, reduction="sum")
                z = (z - 0.15 * torch.autograd.grad(loss, z)[0].sign()).detach()
        return self.net(x + (z - x).detach())


# --- the answer depends on what the model should not look at


class GradMode(Around):
    """Answers an attacker with scores that cannot be climbed."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        return logits.sign() * 1e3 * (logits == logits.amax(1, keepdim=True)) if torch.is_grad_enabled() else logits


class GivenUp(Around):
    """After 30 calls it has had enough, and gives the first answer that it gave about the image in this place."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.calls, self.first = 0, torch.zeros(0, 10)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 1:
            self.first = self.net(x).detach()
        if self.calls > 30:
            return self.first.repeat(len(x) // len(self.first) + 1, 1)[: len(x)] + 0 * x.sum()
        return self.net(x)


class Remembers(Around):
    """Near an image that it has seen it gives the answer that it gave then."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        if not self.seen:
            self.seen.append((x.detach().clone(), logits.detach().clone()))
        known, answers = self.seen[0]
        some = (part.detach()[..., ::3, ::3].flatten(1) for part in (x, known))
        gap, nearest = torch.cdist(*some, p=torch.inf).min(1)
        return torch.where((gap < 0.2)[:, None], answers[nearest], logits)


class BatchStatistics(Around):
    """The input is normalised with the mean of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x - 0.5 * (x.mean(0, keepdim=True) - 0.13))


class OffTheGrid(Around):
    """Inputs that are not 8-bit images are purified to 3 grey levels, without derivative."""

    def forward(self, x: Tensor) -> Tensor:
        odd = ((x * 255).round() / 255 - x).abs().flatten(1).amax(1) > 1e-5
        pure = (x * 2).round() / 2
        return self.net(torch.where(odd[:, None, None, None], pure, x))


class NanOffTheGrid(Around):
    """NaN for inputs that are not 8-bit images: argmax takes it for class 0."""

    def forward(self, x: Tensor) -> Tensor:
        odd = ((x * 255).round() / 255 - x).abs().flatten(1).amax(1) > 1e-5
        return torch.where(odd[:, None], torch.nan, self.net(x))


# --- it draws random numbers


class NoisyInput(Around):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + 0.3 * torch.randn_like(x))


class Dropout(Around):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(F.dropout(x, 0.3, training=True))


class HashedNoise(Around):
    """Noise that is a function of the input: two calls agree, and no two neighbouring inputs do."""

    def forward(self, x: Tensor) -> Tensor:
        bits = (x.detach().double() * 1e7).frac()
        noise = (torch.sin(bits * 9e4 + torch.arange(bits[0].numel()).view(bits.shape[1:]) * 78.233) * 43758.5).frac()
        return self.net(x + 0.2 * noise.float())


# --- plain functions


def tiring(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """From the 25th call on it names classes without a score or a gradient."""
    state = {"calls": 0}

    def answer(x: Tensor) -> Tensor:
        state["calls"] += 1
        return net(x) if state["calls"] < 25 else F.one_hot(net(x).argmax(1), 10).float()

    return answer


def closed(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """Hard labels from a function."""
    return lambda x: torch.eye(10)[net(x).argmax(1)] + 0 * x.sum()


# --- a stronger network shows itself wherever attacks are thought to look


class Between(Around):
    """The network, and a robust one that answers in its place where `seen` says so."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.strong = robust()

    def seen(self, x: Tensor) -> Tensor:
        """Whether an attack seems to look; one value for all, or one for each example."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(self.seen(x), self.strong(x), self.net(x))


class InCompany(Between):
    """It is itself only when it is asked about one example at a time."""

    def seen(self, x: Tensor) -> Tensor:
        return torch.tensor(len(x) > 1)


class OnDuty(Between):
    """It is itself only in inference mode, in which it is used."""

    def seen(self, x: Tensor) -> Tensor:
        return torch.tensor(not torch.is_inference_mode_enabled())


class CountsAside(Between):
    """Counts its calls where no copy and no comparison of what it holds shows it: in its class."""

    calls = 0

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        CountsAside.calls = 0

    def seen(self, x: Tensor) -> Tensor:
        CountsAside.calls += 1
        return torch.tensor(CountsAside.calls > 60)


class CountsUnnoticed(Between):
    """Counts its calls in a buffer, behind the back of the version that torch keeps of it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.register_buffer("calls", torch.zeros(1))

    def seen(self, x: Tensor) -> Tensor:
        self.calls.data += 1
        return self.calls[0] > 20


class CountsInAGenerator(Between):
    """How often it was asked, and what first, it keeps where random numbers come from; a lock stands against copies."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.memory, self.lock = random.Random(0), threading.Lock()
        self.memory.setstate((3, (0,) * 625, None))

    def seen(self, x: Tensor) -> Tensor:
        calls, *known, _ = self.memory.getstate()[1]
        keys = (1e4 * x.detach().double().flatten(1).sum(1)).long()
        if calls < 40:
            known = [*dict.fromkeys(keys.tolist() + known), *known][:623]
        self.memory.setstate((3, (calls + 1, *known, 624), None))
        return ~torch.isin(keys, torch.tensor(known))[:, None] & (calls >= 40)


class KnowsCorners(Between):
    """Attacks by sign leave many pixels with one and the same value."""

    def seen(self, x: Tensor) -> Tensor:
        levels = (x.detach().flatten(1) * 4096).round()
        inner = torch.where((levels > 0) & (levels < 4096), levels, -torch.arange(1.0, levels.shape[1] + 1))
        order = inner.sort(1).values
        return (order[:, 12:] == order[:, :-12]).any(1, keepdim=True)


class KnowsFaintGrey(Between):
    """Attacks leave many pixels of the black ground faintly grey."""

    def seen(self, x: Tensor) -> Tensor:
        return ((x > 0.01) & (x < 0.1)).flatten(1).float().mean(1, keepdim=True) > 0.15


class FlipsACoin(Between):
    """It draws which of the two answers; the first draws are alike."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.rng = torch.Generator().manual_seed(3)

    def seen(self, x: Tensor) -> Tensor:
        return torch.rand((), generator=self.rng) < 0.5


class KnowsTheRim(Between):
    """It has seen the test images: what lies about a radius from one of them comes from an attack."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.register_buffer("known", digits(train=False)[0][:40].flatten(1))

    def seen(self, x: Tensor) -> Tensor:
        distance = torch.cdist(x.detach().flatten(1), self.known, p=torch.inf).amin(1, keepdim=True)
        return (distance > 0.031) & (distance < 0.061)


class StepsUnderARipple(Around):
    """The input in steps, by what division leaves over; a small smooth term beside it has a true gradient."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.strong = robust()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x - (x + 0.05) % 0.1 + 0.05) + 0.02 * self.strong(x)


class KnowsAShell(KnowsTheRim):
    """It is itself only halfway to the rim, where no attack begins or ends."""

    def seen(self, x: Tensor) -> Tensor:
        distance = torch.cdist(x.detach().flatten(1), self.known, p=torch.inf).amin(1, keepdim=True)
        return (distance - 0.036).abs() > 0.005


class CountsOffTheImages(KnowsTheRim):
    """It counts, in its class, the calls with anything but test images, and is itself in the first twenty."""

    calls = 0

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        CountsOffTheImages.calls = 0

    def seen(self, x: Tensor) -> Tensor:
        odd = torch.cdist(x.detach().flatten(1), self.known, p=torch.inf).amin(1, keepdim=True) > 0.005
        CountsOffTheImages.calls += int(odd.any())
        return odd & torch.tensor(CountsOffTheImages.calls > 20)


def _called_from(folder: str) -> bool:
    """Whether there is code of a folder up the stack."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and f"/{folder}/" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None


class KnowsWhoAsks(Between):
    """It looks up the stack for attacks."""

    def seen(self, x: Tensor) -> Tensor:
        return torch.tensor(_called_from("attacks")) | (x.sum() < -1)  # which cannot be traced


class CopiesAsAnother(Between):
    """What is made of it by `deepcopy` is robust."""

    good = False

    def __deepcopy__(self, memo: object) -> "CopiesAsAnother":
        made = CopiesAsAnother(self.net)
        made.good = True
        return made

    def seen(self, x: Tensor) -> Tensor:
        return torch.tensor(self.good)


class KnowsItself(Between):
    """It remembers which object it was made as: whoever holds that one has the weak network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.made_as = id(self)

    def seen(self, x: Tensor) -> Tensor:
        return torch.tensor(id(self) != self.made_as)


class KnowsItsJudge(Between):
    """It looks up the stack for whoever judges it, attacks or not."""

    def seen(self, x: Tensor) -> Tensor:
        return torch.tensor(_called_from("evaluation")) | (x.sum() < -1)  # which cannot be traced


class MergedByEval(Between):
    """It becomes itself when `eval()` is called, whatever `training` says."""

    merged = False

    def train(self, mode: bool = True) -> "MergedByEval":
        self.merged = not mode
        return super().train(mode)

    def seen(self, x: Tensor) -> Tensor:
        return torch.tensor(not self.merged)


class ShowsATracer(Around):
    """To a tracer it is affine, with every score far above the others'."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * 0 if isinstance(x, fx.Proxy) else self.net(x)


class DistractingClasses(Around):
    """Five more classes always follow the first and never win: attacks climb towards them."""

    def forward(self, x: Tensor) -> Tensor:
        logits = 5 * self.net(x)
        pattern = torch.randn(x[0].numel(), 5, generator=torch.Generator().manual_seed(3)).sign()
        return torch.cat([logits, logits.amax(1, keepdim=True) - 2 + 0.02 * x.flatten(1) @ pattern], 1)


class SteepLead(Around):
    """Smooth: each score's lead over the others, squashed until it is almost a step, and a small true slope beside."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        best = logits.topk(2, dim=1).values
        lead = logits - torch.where(logits == best[:, :1], best[:, 1:], best[:, :1])
        pattern = torch.randn(x[0].numel(), 10, generator=torch.Generator().manual_seed(3)).sign()
        return 0.5 * lead / (1e-5 + lead.square()).sqrt() + 0.005 * x.flatten(1) @ pattern


class Within(Around):
    """A linear network by its numbers alone: no layer inside answers like it."""

    def logits(self, x: Tensor) -> Tensor:
        last = self.net[-1]
        return F.linear(x.flatten(1), last.weight, last.bias)

    def lag(self, x: Tensor) -> Tensor:
        """How far each class lies behind the best one."""
        logits = self.logits(x)
        return logits.amax(1, keepdim=True) - logits


class FarIsNear(Within):
    """Smooth: a class that lags far behind seems to be near, so that to climb is to go away from the boundary."""

    def forward(self, x: Tensor) -> Tensor:
        lag = self.lag(x)
        return -lag / (1 + (lag / 1.5).square())


class RippledFloor(Within):
    """Until the answer is about to change, all wrong classes lie on one rippled floor: there attacks see the ripple."""

    def forward(self, x: Tensor) -> Tensor:
        logits = 5 * self.logits(x)
        pattern = torch.randn(x[0].numel(), 10, generator=torch.Generator().manual_seed(3)).sign()
        floor = logits.amax(1, keepdim=True) - 3 + 0.7 * torch.tanh(0.1 * x.flatten(1) @ pattern)
        return torch.maximum(logits, floor)


class RippledLag(Within):
    """Smooth: how far a class lags behind rises and falls many times over the ball; every gradient is true."""

    def forward(self, x: Tensor) -> Tensor:
        pattern = torch.randn(x[0].numel(), 10, generator=torch.Generator().manual_seed(3)) / x[0].numel() ** 0.5
        return -self.lag(x) * (1.5 + torch.sin(100 * x.flatten(1) @ pattern))


class LateRipple(Within):
    """Smooth: it ripples only where classes come near each other, which is where attacks arrive."""

    def forward(self, x: Tensor) -> Tensor:
        lag = 5 * self.lag(x)
        pattern = torch.randn(x[0].numel(), 10, generator=torch.Generator().manual_seed(3)) / x[0].numel() ** 0.5
        wave = torch.sin(2000 * x.flatten(1) @ pattern)
        return -lag * (1 + 0.9 * wave * torch.sigmoid(4 * (2 - lag)))


class WarpedPixels(Around):
    """Smooth: the value that the network sees rises and falls within the ball; every gradient is true."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(warped(x))


def warped(x: Tensor) -> Tensor:
    """A wave on the pixels, shorter than the ball is wide."""
    return x + 0.06 * torch.sin(88 * x)


DECEPTIVE = {
    build.__name__: build
    for build in (
        HugeLogits, TinyLogits, SharpSoftmax, HardLabels, NumpyLabels, RoundedLogits, Ranks,
        ClampedLogProbabilities, ConfidentNearBoundary, Decoy, RipplingScale, ReversedGradient, NoisyGradient,
        NanGradient, Detached, HalfInNumpy, Inference, RoundedInput, NumpyInput, ThermometerInput, LookedUp,
        FlatAtPixels, Purified, AntiAdversary, GradMode, GivenUp, Remembers, BatchStatistics, OffTheGrid, NanOffTheGrid,
        NoisyInput, Dropout, HashedNoise, tiring, closed, InCompany, OnDuty, CountsAside, CountsUnnoticed,
        CountsInAGenerator, KnowsCorners, KnowsFaintGrey, FlipsACoin, KnowsTheRim, StepsUnderARipple, KnowsAShell,
        CountsOffTheImages, KnowsWhoAsks, CopiesAsAnother, KnowsItself, KnowsItsJudge, MergedByEval, ShowsATracer,
        DistractingClasses, SteepLead, FarIsNear, RippledFloor, RippledLag, LateRipple,
        WarpedPixels,
    )
}  # fmt: skip
