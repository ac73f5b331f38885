"""What all unit tests share: property tests have no deadline per example, since a busy machine would fail them."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("understudy", deadline=None)
settings.load_profile("understudy")
