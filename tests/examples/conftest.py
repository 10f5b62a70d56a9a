"""A small world on disk, and 25 values that are right."""

from __future__ import annotations

from ..launch.conftest import surroundings, values, world  # noqa: F401  # fixtures
