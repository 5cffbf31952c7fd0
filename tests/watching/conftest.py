"""What all tests of ``fastlog.watch`` start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlog.writer import SummaryWriter


@pytest.fixture(autouse=True)
def tiny_models(one_thread: None) -> None:
    """Models of these tests are tiny."""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SummaryWriter]:
    """Logs into ``tmp_path``."""
    with SummaryWriter(str(tmp_path)) as opened:
        yield opened
