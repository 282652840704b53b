"""Plot the log of a training run: `python -m training.nano.plot STATE/log.csv losses.png`."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

__all__ = ["main", "plot_log"]

_PANELS = {
    "loss": ("mask", "dice", "iou", "presence"),
    "IoU on training clips": ("first_iou", "tracked_iou"),
}
_LABELS = {"first_iou": "prompted frames", "tracked_iou": "tracked frames"}


def plot_log(log: Path, out: Path, window: int = 15) -> None:
    """Plot losses and IoU over the steps, averaged over `window` rows of the log.

    Raises:
        OSError: `log` cannot be read, or `out` cannot be written.
    """
    import matplotlib.pyplot as plt

    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    figure, panels = plt.subplots(1, len(_PANELS), figsize=(10, 3.5), layout="constrained")
    for axes, (title, names) in zip(panels, _PANELS.items(), strict=True):
        for name in names:
            known = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
            width = min(window, len(known))
            smooth = np.stack(
                [np.convolve(x, np.ones(width) / width, "valid") for x in np.array(known).T]
            )
            axes.plot(*smooth, label=_LABELS.get(name, name))
        axes.set(xlabel="step", title=title, ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(out, dpi=90)
    plt.close(figure)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path, help="log.csv in the --state folder of the training run")
    parser.add_argument("out", type=Path, help="output image")
    args = parser.parse_args()
    plot_log(args.log, args.out)


if __name__ == "__main__":
    main()
