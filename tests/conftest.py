"""What tests of several files start from."""

from __future__ import annotations

import pytest


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache of converted cells that no other test sees."""
    monkeypatch.setenv("BRODMANN_CACHE", str(tmp_path / "cache"))
