"""What all tests of the integrations start from."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def tiny_models(one_thread: None) -> None:
    """Models of these tests are tiny."""
