"""What the rooms share: run folders, records, disks, restarts."""

from __future__ import annotations

ENGLISH: dict[str, str | tuple[str, str]] = {}

CHINESE: dict[str, str | tuple[str, str]] = {}
