"""`SAM2StreamPredictor`: tracking on a camera or any other video of unknown length."""

from __future__ import annotations

from typing import Any

from fastsam2.predictors.model import VideoModel
from fastsam2.predictors.stream import StreamSession
from fastsam2.sam2_video_predictor import SAM2VideoPredictor

__all__ = ["SAM2StreamPredictor", "StreamSession"]


class SAM2StreamPredictor:
    """SAM 2 for streams: frames are given one by one, objects added and removed at any frame.

    Results equal those of `SAM2VideoPredictor` on a long video. Memory use does not grow with the
    number of frames.

    All state is in the session that `start` returns, so one predictor serves many streams.

    Args:
        model: a video predictor, whose weights and options are used.
    """

    def __init__(self, model: VideoModel) -> None:
        self.model = model

    @classmethod
    def from_pretrained(cls, model_id: str, **kwargs: Any) -> SAM2StreamPredictor:
        """Build a predictor with the weights of a Hugging Face repository.

        Args:
            model_id: such as `facebook/sam2.1-hiera-tiny`; also a short name or a local path.
            kwargs: arguments of `build_sam2_video_predictor_hf`.
        """
        return cls(SAM2VideoPredictor.from_pretrained(model_id, **kwargs))

    def start(self) -> StreamSession:
        """Start a stream."""
        return StreamSession(self.model)
