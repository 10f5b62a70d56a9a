"""The parts of the campaign, the cheapest first."""

from __future__ import annotations

from . import bad_inputs, command_lines, corruptions, hostile, kills, phases, soak

PARTS = tuple(module.PART for module in (hostile, bad_inputs, corruptions, command_lines, phases, kills, soak))
