"""Weights: found by name, downloaded, read in any known format, and fitted to a model."""

from __future__ import annotations
