"""Training of bundled models; run from a checkout, not part of the wheel."""
