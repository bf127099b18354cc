"""What docs/fidelity.md says is measured in this folder, cell by cell, on clips made on the spot and read back.

A test for a cell takes it as its parameter `cell`: (section, row, column). test_document.py compares the document with
what was noted, and runs last. A cell cannot say that something was lost without a word: `said` fails unless a notice
or an error names it.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COLLECTED: set[tuple[str, str, str]] = set()
MEASURED: dict[tuple[str, str, str], str] = {}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    own = [item for item in items if item.path.parent == HERE]
    COLLECTED.update(item.callspec.params["cell"] for item in own if hasattr(item, "callspec"))
    items.sort(key=lambda item: item.path == HERE / "test_document.py")


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """`note("kept")` is what the document has to say in the test's cell."""

    def write(outcome: str) -> None:
        MEASURED[request.node.callspec.params["cell"]] = outcome

    return write


@pytest.fixture
def said() -> Callable[..., str]:
    """`said(sentences, *words)` is "(said)" if one of them has all the words; a loss in silence is a failure."""

    def find(sentences: Iterable[str], *words: str) -> str:
        assert any(all(word.lower() in sentence.lower() for word in words) for sentence in sentences), (
            words,
            sentences,
        )
        return "(said)"

    return find


@pytest.fixture
def collected() -> set[tuple[str, str, str]]:
    """The cells of all tests in this folder that pytest found."""
    return COLLECTED


@pytest.fixture
def measured() -> dict[tuple[str, str, str], str]:
    """What the tests that have run noted."""
    return MEASURED
