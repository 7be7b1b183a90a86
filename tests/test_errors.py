"""What is said of packages that are needed and not there."""

from pathlib import Path

import pytest

from nofreelunch.errors import InputError, needed


def test_a_package_that_is_not_installed_is_asked_for() -> None:
    with pytest.raises(InputError, match=r"--x needs the package nowhere; install it with: pip install nowhere$"):
        needed("nowhere.inside", "--x")
    with pytest.raises(InputError, match=r"pip install 'nofreelunch\[sweep\]'$"):
        needed("nowhere", "--x", "sweep")


def test_one_that_is_broken_is_not_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "halved.py").write_text("import its_own_need")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="halved, which cannot be loaded: No module named 'its_own_need'"):
        needed("halved", "--x")
