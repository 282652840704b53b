"""Emulator of GPUs: see docs/emulator.md."""

#: Compute capabilities whose PTX it executes.
CAPABILITIES = (80, 86, 89, 90)
