"""What can go wrong with a run's checkpoints."""

from __future__ import annotations

from megatron_patch.backend.patching import BackendError


class UnloadableCheckpoint(BackendError):
    """A checkpoint that was asked for cannot be loaded."""


class DamagedCheckpoint(UnloadableCheckpoint):
    """It is there, and its files are not what was written, or would run code: an earlier one may do."""


class StuckSave(BackendError):
    """A checkpoint is not written to its end: a write never returned."""
