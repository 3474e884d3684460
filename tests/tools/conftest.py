"""What the tests of tools share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tool_modules import clean_process


@pytest.fixture(scope="module")
def runs_of_a_tool() -> Iterator[None]:
    """Forgets what a module's runs leave behind; for ``pytest.mark.usefixtures``."""
    with clean_process():
        yield
