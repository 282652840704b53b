"""Weights of nano, the small bundled model, and the synthetic videos it is trained on."""
