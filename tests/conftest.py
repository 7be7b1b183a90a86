"""Every test run checks the shapes and types that the signatures promise."""

import gc
import os
import signal
from collections.abc import Iterator

os.environ.setdefault("MPLBACKEND", "agg")

import pytest
from beartype import BeartypeConf, beartype
from hypothesis import settings
from jaxtyping import config, install_import_hook

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""An int will do where a float is asked for, as everywhere in Python (PEP 484)."""

settings.register_profile("calm", deadline=None)
settings.load_profile("calm")
"""No test fails because the machine is busy."""

signal.signal(signal.SIGINT, signal.default_int_handler)
"""Tests of Ctrl-C hold where the shell has told its background jobs to ignore it, too."""

install_import_hook("nofreelunch", "conftest.typechecker")


LONG = ("test_sweep_ray.py", "test_trust.py")
"""They begin: a worker that came to one of them last would work alone in the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, all others as they came."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_collection_finish() -> None:
    """What is there by now stays: garbage is not sought among half a million objects time and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Shapes and types are not checked, which takes three quarters of the time: for what other tests do as well."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture
def no_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation tries none, which takes most of its time: for what does not hang on them."""
    from nofreelunch.evaluation import adaptive

    monkeypatch.setattr(adaptive, "tried", lambda *given: {})
