"""`nofreelunch train`: a model, standard or robust, from a preset and the options that are given."""

import dataclasses
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import tyro

from nofreelunch.cli.values import (
    DataRoot,
    Device,
    Norm,
    OptionalInt,
    OptionalNumber,
    OptionalText,
    Whole,
    check_radius,
    data_root_words,
)
from nofreelunch.errors import InputError
from nofreelunch.names import check_architecture, check_data, is_own_code
from nofreelunch.workspace import find_device

if TYPE_CHECKING:
    from nofreelunch.data import Dataset
    from nofreelunch.threats import Threat
    from nofreelunch.training import TrainConfig
    from nofreelunch.training.events import Epoch

_PRESETS = tyro.conf.arg(help_behavior_hint="(default: the preset's)")
_Text: TypeAlias = Annotated[OptionalText, _PRESETS]
_Number: TypeAlias = Annotated[OptionalNumber, _PRESETS]
_Norm: TypeAlias = Annotated[
    Norm | None, tyro.conf.arg(metavar="linf|l2", help_behavior_hint="(default: no adversary)")
]
_Int: TypeAlias = Annotated[OptionalInt, _PRESETS]


_SEVERAL = {"WORLD_SIZE", "SLURM_STEP_NUM_TASKS"}
"""What torchrun and SLURM tell each of several processes."""


@dataclass(frozen=True)
class Train:
    """Train a model against an adversary, or without one; a run that was stopped goes on where it was.

    Settings left out are those of --preset. Leaves model.safetensors, model.json, log.jsonl and the state of the run in
    --out. Under torchrun or SLURM the processes share each batch.
    """

    data: str
    """Data set: see `nofreelunch data list`."""
    arch: _Text = None
    """Network: linear, mnist-cnn, mnist-cnn-small, cifar-resnet, preact-resnet18, resnet50, or one of yours:
    python:package.module:factory."""
    threat: _Norm = None
    """Norm of the ball in which the adversary may move an image."""
    eps: Annotated[OptionalText, tyro.conf.arg(help_behavior_hint="(needed with --threat)")] = None
    """Its radius, e.g. 0.3 or 8/255, pixels being in [0, 1]."""
    preset: Annotated[
        OptionalText, tyro.conf.arg(help_behavior_hint="(default: laptop, where the data set has presets)")
    ] = None
    """Settings by scale: laptop (minutes on 2 cores), gpu, paper (Appendix A to the letter)."""
    start: Annotated[OptionalText, tyro.conf.arg(help_behavior_hint="(default: random weights)")] = None
    """A model of the same architecture to start from: a .safetensors file, zoo:NAME or torchvision:NAME."""
    recipe: _Text = None
    """How it is trained: pgd-at, bullet-train, fgsm-rs, n-fgsm, free, trades, standard."""
    attack: _Text = None
    """Attack of the recipes pgd-at, bullet-train and trades: one of the pgd-... attacks."""
    step_size: _Number = None
    """Length of the attack's steps, in the unit of eps."""
    epochs: _Number = None
    """Passes over the training images; may be a fraction."""
    batch_size: _Int = None
    """Images per update, over all processes."""
    optimiser: _Text = None
    """adam, adamw, sgd, nesterov."""
    lr: _Number = None
    """Peak learning rate."""
    schedule: _Text = None
    """How the learning rate changes: one-cycle, cosine, step, imagenet-step, constant."""
    weight_decay: _Number = None
    """Of matrices and filters."""
    ema: _Number = None
    """Decay of a running average of the weights, in [0, 1); the average is what is kept. 0 for none."""
    eps_warmup: _Number = None
    """Share of the run in which eps rises from 0."""
    augment: _Text = None
    """none, crop, crop-flip, resized-crop-flip."""
    precision: _Text = None
    """Of the update: float32 or bfloat16."""
    attack_precision: _Text = None
    """Of the network that the attack differentiates: float32 or bfloat16."""
    accumulate: _Int = None
    """Number of parts that a batch is worked off in, to save memory."""
    holdout: _Number = None
    """Share of the training images that the epoch is chosen by; 0: the last weights are kept."""
    seed: Whole = 0
    """Of initial weights, order, augmentation and attacks."""
    device: Device = "auto"
    data_root: DataRoot = None
    strict: bool = False
    """Stop at an image file that cannot be read, instead of naming and skipping it."""
    out: Path = Path("runs/train")
    """Folder for the model, the log and the state."""
    track: bool = False
    """Also write the course of the run for TensorBoard into --out: pip install 'nofreelunch[track]'."""
    dry_run: bool = False
    """Only say what it takes: steps, passes, time, memory, disk."""

    def run(self) -> int:
        """Train, or tell what it would take; 0. Of several processes, one tells what goes wrong."""
        if not _SEVERAL & os.environ.keys():  # of whom one is to tell, once they have met
            self._check_words()
        from nofreelunch.training.devices import first_to_tell

        try:
            self._run()
        except BaseException:
            if first_to_tell():
                raise
            raise SystemExit(1) from None
        return 0

    def _check_words(self) -> None:
        """Refuse what can be seen to be wrong before torch is loaded."""
        check_data(self.data)
        if self.arch is not None:
            check_architecture(self.arch)
        if self.eps is not None:
            check_radius(self.eps)

    def _run(self) -> None:
        from nofreelunch.data import open_source
        from nofreelunch.data.tree import Tree, load_tree
        from nofreelunch.names import PACKED

        find_device(self.device)
        source = open_source(self.data, self.data_root)  # unknown names are answered before images are decoded
        config = self.config(source.name if self.data.endswith(PACKED) else self.data)
        data = load_tree(source, strict=self.strict) if isinstance(source, Tree) else source
        if self.dry_run:
            self._forecast(data, config)
        else:
            self._train(data, config)

    def config(self, name: str) -> "TrainConfig":
        """The options given, and for the others those of the preset for a data set of this name."""
        base = self._base(name.partition(":")[0])
        given = {name: getattr(self, name) for name in _settings() if getattr(self, name) is not None}
        return base.changed(given)

    def _base(self, family: str) -> "TrainConfig":
        """The preset for a family of data sets and the threat; without presets, the defaults.

        Raises:
            InputError: if there is no such preset, or neither a preset nor an architecture.
        """
        from nofreelunch.models import ARCHITECTURES
        from nofreelunch.training import TrainConfig
        from nofreelunch.training.presets import PRESETS, preset

        threat = self._threat()
        if self.preset is not None or family in PRESETS:
            return preset(self.preset or "laptop", family, threat)
        if self.arch is None:
            raise InputError(f"--arch is needed: {self.data} has no presets; known: {', '.join(ARCHITECTURES)}")
        return TrainConfig(self.arch, threat=threat)

    def _threat(self) -> "Threat | None":
        """What the model shall withstand.

        Raises:
            InputError: if norm and radius do not come together, or an option needs them.
        """
        from nofreelunch.threats import threat
        from nofreelunch.training.config import OF_A_THREAT

        if self.threat is not None and self.eps is not None:
            return threat(self.threat, self.eps)
        if self.threat is not None:
            raise InputError(f"--threat {self.threat} needs --eps, the radius of the ball, such as --eps 8/255")
        if self.eps is not None:
            raise InputError(f"--eps {self.eps} needs --threat, the norm of the ball: linf or l2")
        for name in OF_A_THREAT:
            value = getattr(self, name)
            if value not in (None, "standard"):
                option = f"--{_dashed(name)} {value}"
                raise InputError(
                    f"{option} needs an adversary; give --threat and --eps, such as --threat linf --eps 0.3"
                )
        return None

    def _train(self, data: "Dataset", config: "TrainConfig") -> None:
        """Train with progress on stderr; the leading process, which alone is told of events, says what came out."""
        from rich.console import Console

        from nofreelunch.training import train
        from nofreelunch.training.events import Event, Finished, Started
        from nofreelunch.training.progress import shown
        from nofreelunch.training.track import tracked

        console, ends = Console(stderr=True), list[Finished]()
        with shown(console) as show, tracked(self.out, show) if self.track else nullcontext(show) as tell:

            def report(event: Event) -> None:
                if isinstance(event, Started):
                    console.print(f"settings: {self._command(config)}", markup=False, highlight=False, soft_wrap=True)
                if isinstance(event, Finished):
                    ends.append(event)
                tell(event)

            train(data, config, self.out, self.device, report)
        for end in ends:
            print("\n".join(self._summary(end.chosen)))

    def _summary(self, chosen: "Epoch | None") -> Iterator[str]:
        """Where the model is, how accurate it is, and how to learn more."""
        from nofreelunch.evaluation.tally import Tally
        from nofreelunch.training.folder import MODEL
        from nofreelunch.training.loop import SELECTION_ATTACK

        model, which = self.out / MODEL, "the last weights; no images were held out"
        if chosen is not None:
            which, n = f"the weights of epoch {chosen.epoch:.2f}", chosen.held_out
        yield f"model: {model}, {which}"
        if chosen is not None:
            yield f"clean accuracy on held-out training images: {Tally(round(chosen.clean * n), n)}"
        if self.threat is None or self.eps is None:
            return
        if chosen is not None:
            by = f"{SELECTION_ATTACK}, {self.threat} {self.eps}"
            yield f"robust accuracy on them, at most: {Tally(round(chosen.robust * n), n)}, under {by}"
        subject = [str(self.arch), "--weights", str(model)] if is_own_code(self.arch) else [str(model)]
        words = ["nofreelunch", "evaluate", *subject, "--data", self.data, *data_root_words(self.data_root)]
        words += ["--threat", self.threat, "--eps", self.eps]
        yield f"on test images: {shlex.join(words)}"

    def _forecast(self, data: "Dataset", config: "TrainConfig") -> None:
        """Say what the run would take."""
        from nofreelunch.training.cost import estimate
        from nofreelunch.training.devices import is_main_process
        from nofreelunch.training.progress import duration, size

        if is_main_process():
            print("making a few steps, to see how long they take ...", file=sys.stderr)
        cost = estimate(data, config, self.device)
        if not is_main_process():
            return
        for caution in config.cautions:
            print(f"notice: {caution}", file=sys.stderr)
        print(f"settings  {self._command(config)}")
        print(f"examples  {cost.steps} steps of {config.batch_size}: {cost.examples}")
        print(f"passes    {cost.forward_backward_passes} of one image forward and backward, looks included")
        print(f"time      about {duration(cost.seconds)}, at the pace of a few steps made now")
        print(f"memory    about {size(cost.bytes_per_batch)} at the peak of a step, besides the program itself")
        print(f"disk      {size(cost.bytes_on_disk)} for two states and the model")

    def _command(self, config: "TrainConfig") -> str:
        """The command with every setting in full."""
        from nofreelunch.training.config import OF_A_THREAT

        words = ["nofreelunch", "train", "--data", self.data, *data_root_words(self.data_root)]
        words += ["--threat", self.threat, "--eps", self.eps] if self.threat and self.eps else []
        for name in _settings():
            value: Any = getattr(config, name)
            if value not in (None, "") and (config.threat or name not in OF_A_THREAT):
                words += [f"--{_dashed(name)}", str(value).removesuffix(".0")]
        return shlex.join(words)


def _settings() -> tuple[str, ...]:
    """The fields of a training config that are options of the same name; its threat is made of two."""
    from nofreelunch.training import TrainConfig

    return tuple(field.name for field in dataclasses.fields(TrainConfig) if field.name != "threat")


def _dashed(name: str) -> str:
    return name.replace("_", "-")
