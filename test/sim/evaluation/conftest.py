"""Evaluations, whose workers import torch."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def quick_workers(imported_once: None) -> None:
    """They begin with their imports done."""
