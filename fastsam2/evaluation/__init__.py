"""Evaluate video object segmentation with the DAVIS 2017 measures."""

from __future__ import annotations

from fastsam2.evaluation.davis import DavisFolder, DavisSequence, open_davis
from fastsam2.evaluation.metrics import boundary_f, jaccard, score_auc, tolerance_radius
from fastsam2.evaluation.results import Means, ObjectResult, SequenceResult, mean_of
from fastsam2.evaluation.run import PromptKind, VideoPredictor, evaluate

__all__ = [
    "DavisFolder",
    "DavisSequence",
    "Means",
    "ObjectResult",
    "PromptKind",
    "SequenceResult",
    "VideoPredictor",
    "boundary_f",
    "evaluate",
    "jaccard",
    "mean_of",
    "open_davis",
    "score_auc",
    "tolerance_radius",
]
