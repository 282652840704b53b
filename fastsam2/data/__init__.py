"""Read frames (videos, images, live sources) and write results (RLE, label images, overlays)."""

from __future__ import annotations

from fastsam2.data.live import LiveFrame, LiveSource
from fastsam2.data.loader import FrameLoader
from fastsam2.data.open_frames import FrameSource, open_frames
from fastsam2.data.overlay import draw_overlay
from fastsam2.data.preprocess import IMAGE_MEAN, IMAGE_STD, preprocess_frame
from fastsam2.data.rle import box_from_mask, decode_rle, encode_rle, rle_counts
from fastsam2.data.writers import MaskPngWriter, OverlayVideoWriter, TrackJsonWriter

__all__ = [
    "IMAGE_MEAN",
    "IMAGE_STD",
    "FrameLoader",
    "FrameSource",
    "LiveFrame",
    "LiveSource",
    "MaskPngWriter",
    "OverlayVideoWriter",
    "TrackJsonWriter",
    "box_from_mask",
    "decode_rle",
    "draw_overlay",
    "encode_rle",
    "open_frames",
    "preprocess_frame",
    "rle_counts",
]
