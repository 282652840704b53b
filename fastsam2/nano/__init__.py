"""The small bundled model: the videos it learns from, its training and its weights."""
