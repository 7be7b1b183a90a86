"""The documentation is true: its code runs, its links lead somewhere, and every table entry is in the manual."""

import doctest
import re
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from nofreelunch.attacks import ATTACKS
from nofreelunch.cli import COMMANDS
from nofreelunch.data import DATASETS
from nofreelunch.experiments.registry import EXPERIMENTS
from nofreelunch.models import ARCHITECTURES, zoo_names
from nofreelunch.threats import THREATS

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
WITH_EXAMPLES = sorted(path for path in (ROOT / "src").rglob("*.py") if ">>> " in path.read_text())
TABLES = {
    "command": COMMANDS, "attack": ATTACKS, "data set": DATASETS, "experiment": EXPERIMENTS,
    "architecture": ARCHITECTURES, "threat": THREATS,
}  # fmt: skip


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        exec(block, names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_examples_in_docstrings(path: Path) -> None:
    name = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
    assert doctest.testmod(import_module(name)).failed == 0


@pytest.mark.parametrize(("what", "name"), [(what, name) for what, table in TABLES.items() for name in table])
def test_every_entry_is_in_the_manual(what: str, name: str) -> None:
    word = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")
    assert any(word.search(page.read_text()) for page in PAGES), f"no page speaks of the {what} {name}"


def test_the_zoo_table_is_what_the_cards_say() -> None:
    spec = spec_from_file_location("make_zoo", ROOT / "tools" / "make_zoo.py")
    assert spec is not None
    assert spec.loader is not None
    make_zoo = module_from_spec(spec)
    spec.loader.exec_module(make_zoo)
    assert set(zoo_names()) == set(make_zoo.ZOO)
    assert make_zoo.table() in (ROOT / "README.md").read_text()
