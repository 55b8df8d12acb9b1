"""Settings every tier of tests shares."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("kilonova", deadline=None, max_examples=60)
settings.load_profile("kilonova")
