"""`fast` gives the same logits and gradients for every kind of model, leaves the model alone, and refuses nothing."""

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nofreelunch.errors import InputError
from nofreelunch.models import ARCHITECTURES, build, fast
from nofreelunch.models.fast import Fast, judge, refresh
from nofreelunch.models.thin import thin_convolution

SHAPES = {"linear": (1, 8, 8), "mnist-cnn": (1, 28, 28), "mnist-cnn-small": (1, 12, 12)}


def data(shape: tuple[int, int, int], classes: int = 5) -> Any:
    images = SimpleNamespace(x=torch.zeros(1, *shape, dtype=torch.uint8))
    channels = shape[0]
    return SimpleNamespace(
        classes=tuple("abcdefghij"[:classes]), mean=(0.4,) * channels, std=(0.3,) * channels, train=images
    )


def lived_in(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with batch-norms that do something: scales of both signs, statistics of their own."""
    rng = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            width = torch.empty(module.num_features)  # drawn here, wherever the model is
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean.copy_(width.normal_(0, 0.2, generator=rng))
                module.running_var.copy_(width.uniform_(0.5, 2, generator=rng))
            if module.affine:
                module.weight.data.copy_(width.uniform_(-0.5, 1.5, generator=rng))
                module.bias.data.copy_(width.normal_(0, 0.2, generator=rng))
    return model


def logits_and_gradient(model: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    logits = model(x)
    weights = torch.arange(logits.numel()).sin().view_as(logits)
    return logits.detach(), torch.autograd.grad((weights * logits).sum(), x)[0]


def assert_same(model: nn.Module, x: Tensor, tolerance: float = 1e-9) -> None:
    """The copy that `fast` makes equals the model in evaluation mode, twice, and is what runs."""
    quick = fast(model)
    reference = copy.deepcopy(model).eval()
    for points in (x, x.flip(0)):
        for mine, true in zip(logits_and_gradient(quick, points), logits_and_gradient(reference, points), strict=True):
            torch.testing.assert_close(mine, true, rtol=tolerance, atol=tolerance * float(true.abs().max()))
    assert isinstance(quick, Fast)
    assert quick._run is not None, "the copy disagreed with the model, which ran itself"


def images(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_keeps_its_logits_and_gradients(arch: str) -> None:
    shape = SHAPES.get(arch, (3, 16, 16))
    model = lived_in(build(arch, data(shape))).double()
    assert_same(model, images(3, *shape))


@pytest.mark.parametrize("arch", ["mnist-cnn-small", "cifar-resnet"])
def test_float32_differs_by_rounding(arch: str) -> None:
    shape = SHAPES.get(arch, (3, 16, 16))
    assert_same(lived_in(build(arch, data(shape))), images(4, *shape, dtype=torch.float32), tolerance=1e-4)


def test_batch_norms_are_gone_or_fused_and_pools_come_first() -> None:
    model = lived_in(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2))
    )
    quick = fast(model)
    assert isinstance(quick, Fast)
    assert not any(weight.requires_grad for weight in quick._graph.parameters())
    kinds = [type(layer) for layer in quick._graph.modules()]
    assert nn.BatchNorm2d not in kinds
    assert nn.ReLU not in kinds
    names = [str(node.target) for node in quick._graph.graph.nodes]
    assert [i for i, name in enumerate(names) if name == "3"] < [
        i for i, name in enumerate(names) if "activate" in name
    ]


class Shared(nn.Module):
    """One convolution, batch-norm and ReLU, used twice each, with a residual that in-place work would destroy."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True)
        self.fc = nn.Linear(3, 4)

    def forward(self, x: Any) -> Any:
        first = self.conv(x)
        y = self.relu(self.bn(first)) + first
        y = self.bn(self.conv(y)).relu() + y
        return self.fc(F.leaky_relu(self.conv(y), 0.2).mean((2, 3)))


class Unfoldable(nn.Module):
    """Batch-norms by the batch, without weights, twice, at the front; activations of all spellings."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(2, affine=False)
        self.conv = nn.Conv2d(2, 4, 3)
        self.by_batch = nn.BatchNorm2d(4, track_running_stats=False)
        self.deep = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4))
        self.flat = nn.Sequential(nn.Linear(16, 6), nn.BatchNorm1d(6), nn.LeakyReLU(), nn.Dropout(0.9), nn.Linear(6, 3))

    def forward(self, x: Any) -> Any:
        x = F.max_pool2d(torch.relu(self.by_batch(self.conv(self.first(x)))), 2, stride=1)
        x = F.max_pool2d(F.relu(self.deep(x)), kernel_size=2, stride=2)
        return self.flat(F.elu(x).flatten(1))


class Tokens(nn.Module):
    """Linear layers on sequences, and a pooling of an activation that others read too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.embed(x))
        x = self.norm(x) + F.max_pool2d(x, (1, 1))
        return self.head(x.mean(1))


class Scaled(nn.Module):
    """A parameter and a plain tensor outside of any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.fc, self.shift = nn.Parameter(torch.tensor(3.0)), nn.Linear(4, 3), torch.tensor(0.5)

    def forward(self, x: Any) -> Any:
        return self.fc(x * self.scale + self.shift)


class Readers(nn.Module):
    """Results that are read again after an activation, or a sum, could have overwritten them; a gradient likewise."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))

    def forward(self, x: Any) -> Any:
        first, second, third, fourth = self.convs
        y = first(x)
        y = F.relu(y) - y
        z = second(y)
        z = (torch.sigmoid(z) + z) * z
        beside = third(z)
        active = F.relu(second(z))
        ghost = fourth(active).detach()
        return (ghost + (active + beside)).flatten(1)


USERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "shared layers": (Shared, (4, 3, 6, 6)),
    "several readers": (Readers, (4, 3, 6, 6)),
    "unfoldable": (Unfoldable, (4, 2, 8, 8)),
    "tokens": (Tokens, (4, 7, 5)),
    "scaled": (Scaled, (4, 4)),
    "thin, odd size": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 5, padding=2), nn.Flatten(), nn.Linear(210, 3)),
        (3, 1, 10, 7),
    ),
    "thin, oblong": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, (5, 3), padding=(1, 2)), nn.ReLU(), nn.Flatten()),
        (3, 2, 8, 12),
    ),
    "dilated": (lambda: nn.Sequential(nn.Conv2d(1, 3, 3, dilation=2), nn.Flatten()), (3, 1, 8, 8)),
    "circular": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3, padding=1, padding_mode="circular"), nn.Flatten()),
        (3, 1, 8, 8),
    ),
    "sequence": (lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Flatten()), (3, 2, 8)),
    "volume": (lambda: nn.Sequential(nn.Conv3d(2, 3, 3), nn.BatchNorm3d(3), nn.ReLU(), nn.Flatten()), (3, 2, 5, 5, 5)),
    "parallel": (lambda: nn.DataParallel(Shared()), (4, 3, 6, 6)),
}


@pytest.mark.parametrize("name", USERS)
def test_models_of_users_keep_their_logits_and_gradients(name: str) -> None:
    make, shape = USERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = lived_in(make()).double()
    model.train()
    if name == "scaled":
        model.shift = model.shift.double()
    assert_same(model, images(*shape))
    assert all(module.training for module in model.modules())


class Branches(nn.Module):
    """Control flow that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.fc(x) if x.mean() > 0.3 else self.fc(-x)


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 3))
    model[0].register_forward_hook(lambda module, args, result: 2 * result)
    return model


def locked() -> nn.Module:
    model = nn.Linear(4, 3)
    model.rng = torch.Generator()  # type: ignore[assignment]
    model.graph = (model.weight * 2).sum()  # type: ignore[assignment]
    return model


@pytest.mark.parametrize("make", [Branches, hooked, locked, lambda: lambda x: x @ torch.ones(4, 3, dtype=x.dtype)])
def test_what_cannot_be_improved_comes_back_as_it_is(make: Callable[[], Any]) -> None:
    model = make()
    assert fast(model, "bfloat16") is model


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return torch.round(4 * x) / 4

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 3 * grad


class Custom(nn.Module):
    """A derivative that tracing does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.fc(_StraightThrough.apply(x))


class Noisy(nn.Module):
    """Random numbers that tracing takes for constants."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.fc(x + torch.rand(4, dtype=torch.float64))


def overridden() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 3))
    model.forward = lambda x: 7 * x[:, :3]  # type: ignore[method-assign, assignment]
    return model


def overwriting() -> nn.Module:
    """An activation that overwrites what the pooling made: once the ReLU comes after the pooling, it must not."""
    pooled = nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, 1), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(pooled, nn.ELU(inplace=True), nn.Flatten())


@pytest.mark.parametrize("make", [Custom, Noisy, overridden, overwriting])
def test_a_model_whose_copy_disagrees_runs_itself(make: Callable[[], nn.Module]) -> None:
    model = make().double()
    quick, x = fast(model, "bfloat16"), images(5, 4)
    torch.manual_seed(3)
    mine = logits_and_gradient(quick, x)
    torch.manual_seed(3)
    for one, true in zip(mine, logits_and_gradient(model, x), strict=True):
        assert torch.equal(one, true)


def test_a_randomised_model_stays_random() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(40, 3)

        def forward(self, x: Any) -> Any:
            return self.fc(F.dropout(x, training=True))

    quick, x = fast(Dropping()), images(4, 40, dtype=torch.float32)
    assert not torch.equal(quick(x), quick(x))


def test_the_model_and_the_global_random_state_are_left_alone() -> None:
    model = lived_in(build("cifar-resnet", data((3, 8, 8)))).train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    logits_and_gradient(fast(model, "bfloat16"), images(4, 3, 8, 8, dtype=torch.float32))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("called_before", [False, True])
def test_refresh_follows_training(called_before: bool) -> None:
    model = lived_in(build("cifar-resnet", data((3, 8, 8)))).double()
    quick, x = fast(model), images(4, 3, 8, 8)
    if called_before:
        quick(x)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    lived_in(model, seed=5)
    refresh(quick)
    torch.testing.assert_close(quick(x), model.eval()(x))
    assert isinstance(quick, Fast)
    assert quick._run is not None
    refresh(lambda x: x)


@pytest.mark.parametrize("arch", ["mnist-cnn-small", "cifar-resnet"])
def test_bfloat16_is_near_and_answers_in_float32(arch: str) -> None:
    shape = SHAPES.get(arch, (3, 16, 16))
    model = lived_in(build(arch, data(shape))).eval()
    x = images(8, *shape, dtype=torch.float32)
    quick = fast(model, "bfloat16")
    logits, grad = logits_and_gradient(quick, x)
    true_logits, true_grad = logits_and_gradient(model, x)
    assert logits.dtype == grad.dtype == torch.float32
    assert (logits - true_logits).abs().max() < 0.05 * true_logits.abs().max()
    assert (grad - true_grad).norm() < 0.25 * true_grad.norm()


def test_the_model_itself_decides_on_success() -> None:
    """Where only rounding makes the copy misclassify, the model does not, and the point is not adversarial."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten())
    copy = fast(model)
    assert isinstance(copy, Fast)
    itself, x = judge(copy), images(4, 1, 5, 5, dtype=torch.float32)
    assert itself is not None
    assert torch.equal(itself(x), model(x))
    assert judge(model) is None


def test_bfloat16_leaves_models_in_float64_alone() -> None:
    model = build("mnist-cnn-small", data((1, 12, 12))).double()
    x = images(2, 1, 12, 12)
    torch.testing.assert_close(fast(model, "bfloat16")(x), model(x))


def test_bfloat16_is_given_up_where_it_destroys_the_answer() -> None:
    class Cancelling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Any) -> Any:
            return 1e4 * (self.fc(x + 100) - self.fc(x + 100.001))

    model = Cancelling().eval()
    x = images(2, 4, dtype=torch.float32)
    assert torch.equal(fast(model, "bfloat16")(x), model(x))


def test_second_derivatives_survive() -> None:
    model = lived_in(build("mnist-cnn-small", data((1, 8, 8)))).double()
    x = images(2, 1, 8, 8)

    def curvature(f: Callable[[Tensor], Tensor]) -> Tensor:
        z = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(f(z), torch.tensor([0, 1])), z, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), z)[0]

    torch.testing.assert_close(curvature(fast(model)), curvature(model.eval()))


def test_each_call_has_memory_of_its_own() -> None:
    model = lived_in(build("cifar-resnet", data((3, 8, 8)))).double()
    quick, x = fast(model), images(2, 3, 8, 8).requires_grad_()
    total = quick(x) + quick(1 - x)  # two passes before one backward
    (grad,) = torch.autograd.grad(total.sum(), x, retain_graph=True)
    (again,) = torch.autograd.grad(total.sum(), x)
    (true,) = torch.autograd.grad((model.eval()(x) + model(1 - x)).sum(), x)
    torch.testing.assert_close(grad, true)
    assert torch.equal(grad, again)


def test_empty_batches_layouts_and_disabled_gradients() -> None:
    model = build("mnist-cnn-small", data((1, 8, 8))).eval()
    quick, x = fast(model), images(3, 1, 8, 8, dtype=torch.float32)
    assert quick(x[:0]).shape == (0, 5)
    with torch.inference_mode():
        assert quick(x).shape == (3, 5)
    with torch.no_grad():
        torch.testing.assert_close(quick(x), model(x))
    torch.testing.assert_close(quick(x.to(memory_format=torch.channels_last)), model(x))


def test_bad_use_is_answered_as_the_model_does() -> None:
    model = build("mnist-cnn-small", data((1, 8, 8)))
    with pytest.raises(InputError, match=r'unknown precision "float16"'):
        fast(model, "float16")
    with pytest.raises(InputError, match=r"\(n, 1, 8, 8\), got \(n, 3, 8, 8\)"):
        fast(model)(torch.rand(2, 3, 8, 8))


def test_thin_convolution_has_the_gradient_of_a_convolution() -> None:
    rng = torch.Generator().manual_seed(0)
    for size, pad, shape in ((5, 2, (8, 12)), (3, 0, (12, 8)), (1, 0, (4, 4)), (4, 3, (8, 8))):
        x = torch.rand(2, 2, *shape, generator=rng, dtype=torch.float64).requires_grad_()
        weight = torch.randn(3, 2, size, size, generator=rng, dtype=torch.float64)
        mine, true = thin_convolution(x, weight, None, (pad, pad)), F.conv2d(x, weight, padding=pad)
        weights = torch.randn(true.shape, generator=rng, dtype=torch.float64)
        assert torch.equal(mine, true)
        grads = [torch.autograd.grad((weights * y).sum(), x)[0] for y in (mine, true)]
        torch.testing.assert_close(*grads)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_recorded_passes_equal_the_model_on_a_gpu(precision: Any) -> None:
    model = lived_in(build("cifar-resnet", data((3, 16, 16)))).cuda()
    quick, reference = fast(model, precision), copy.deepcopy(model).eval()
    for step in range(6):
        x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(step)).cuda()
        mine, true = (
            [one.cpu() for one in logits_and_gradient(lambda z, f=f: f(z).cpu(), x)] for f in (quick, reference)
        )
        assert (mine[0] - true[0]).norm() < 0.05 * true[0].norm()
        assert (mine[1] - true[1]).norm() < 0.25 * true[1].norm()
