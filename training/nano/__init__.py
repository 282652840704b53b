"""Training of nano on synthetic clips."""
