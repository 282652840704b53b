"""Training of the models that ship with fastsam2; not part of the wheel."""
