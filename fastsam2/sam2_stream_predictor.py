"""`SAM2StreamPredictor`: tracking on a camera, or on any video whose end is not known."""

from __future__ import annotations

from typing import Any

from fastsam2.predictors.model import VideoModel
from fastsam2.predictors.stream import StreamSession
from fastsam2.sam2_video_predictor import SAM2VideoPredictor

__all__ = ["SAM2StreamPredictor", "StreamSession"]


class SAM2StreamPredictor:
    """SAM 2 for streams: frames come one by one, objects are added and removed at any of them.

    What it finds is what `SAM2VideoPredictor` finds in a long video. Memory is constant.

    All state is in the session that `start` returns, so one predictor serves many streams.

    Args:
        model: a video predictor; its weights and options hold.
    """

    def __init__(self, model: VideoModel) -> None:
        self.model = model

    @classmethod
    def from_pretrained(cls, model_id: str, **kwargs: Any) -> SAM2StreamPredictor:
        """The predictor of a Hugging Face repository, short name or local path.

        Keywords go to `build_sam2_video_predictor_hf`.
        """
        return cls(SAM2VideoPredictor.from_pretrained(model_id, **kwargs))

    def start(self) -> StreamSession:
        """Begin a stream."""
        return StreamSession(self.model)
