"""Plot of a training log."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.nano.plot import plot_log

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("rows", [1, 40])
def test_plot(tmp_path: Path, rows: int) -> None:
    """Log of a training run; the IoU of tracked frames is empty if there were only stills."""
    names = ["step", "mask", "dice", "iou", "presence", "first_iou", "tracked_iou"]
    with (tmp_path / "log.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for step in range(rows):
            writer.writerow([step, *(1 / (step + 1) for _ in names[1:-1]), "" if step % 3 else 0.5])
    plot_log(tmp_path / "log.csv", tmp_path / "losses.png")
    image = np.asarray(Image.open(tmp_path / "losses.png").convert("RGB"))
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 10, "lines of several colours"
