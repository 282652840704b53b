"""Small annotated videos, and a predictor that returns their annotations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fastsam2.data.writers import write_labels

Labels = npt.NDArray[np.uint8]

HEIGHT, WIDTH = 24, 32


def squares(length: int = 6, first: int = 0, last: int | None = None, obj_id: int = 1) -> Labels:
    """Object ids `[T, H, W]`: a 6 x 6 square that moves right, from frame `first` to `last`."""
    labels = np.zeros((length, HEIGHT, WIDTH), np.uint8)
    top = 2 + 8 * (obj_id - 1)
    for frame_idx in range(first, length if last is None else last + 1):
        labels[frame_idx, top : top + 6, 3 + frame_idx : 9 + frame_idx] = obj_id
    return labels


def write_davis(
    root: Path,
    sequences: Mapping[str, Labels],
    resolution: str = "480p",
    listed: Mapping[str, list[str]] | None = None,
) -> Path:
    """Write sequences of object ids `[T, H, W]`; `listed` maps years to names of sequences."""
    for name, labels in sequences.items():
        frames = root / "JPEGImages" / resolution / name
        annotations = root / "Annotations" / resolution / name
        frames.mkdir(parents=True)
        annotations.mkdir(parents=True)
        for frame_idx, frame in enumerate(labels):
            image = Image.fromarray(np.repeat(frame[..., None] * 80, 3, axis=2))
            image.save(frames / f"{frame_idx:05d}.jpg")
            write_labels(annotations / f"{frame_idx:05d}.png", frame)
    for year, names in (listed or {}).items():
        folder = root / "ImageSets" / year
        folder.mkdir(parents=True)
        (folder / "val.txt").write_text("".join(f"{name}\n" for name in names))
    return root


class Oracle:
    """Predictor that returns the annotations of prompted objects.

    Attributes:
        calls: prompts and propagations, in order.
    """

    def __init__(self, sequences: Mapping[str, Labels], *, finds: bool = True) -> None:
        self.sequences = sequences
        self.finds = finds
        self.calls: list[Any] = []

    def init_state(self, video_path: Any) -> dict[str, Any]:
        labels = self.sequences[Path(video_path).name]
        return {"obj_ids": [], "output_dict_per_obj": {}, "labels": labels}

    def _add(self, state: dict[str, Any], frame_idx: int, obj_id: int, prompt: Any) -> None:
        self.calls.append((frame_idx, obj_id, prompt))
        state["output_dict_per_obj"][len(state["obj_ids"])] = {
            "cond_frame_outputs": {},
            "non_cond_frame_outputs": {},
        }
        state["obj_ids"].append(obj_id)

    def add_new_points_or_box(
        self,
        inference_state: Any,
        frame_idx: int,
        obj_id: Any,
        points: Any = None,
        labels: Any = None,
        clear_old_points: bool = True,
        normalize_coords: bool = True,
        box: Any = None,
    ) -> None:
        given = (points, labels, box)
        prompt = tuple(None if value is None else value.tolist() for value in given)
        self._add(inference_state, frame_idx, obj_id, prompt)

    def add_new_mask(self, inference_state: Any, frame_idx: int, obj_id: Any, mask: Any) -> None:
        self._add(inference_state, frame_idx, obj_id, mask)

    def propagate_in_video_preflight(self, inference_state: Any) -> None:
        assert inference_state["obj_ids"]

    def propagate_in_video(
        self,
        inference_state: Any,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
    ) -> Iterator[tuple[int, list[int], torch.Tensor]]:
        assert start_frame_idx is not None
        assert max_frame_num_to_track is not None
        self.calls.append((start_frame_idx, max_frame_num_to_track))
        for frame_idx in range(start_frame_idx, start_frame_idx + max_frame_num_to_track + 1):
            truth = inference_state["labels"][frame_idx]
            for index, obj_id in enumerate(inference_state["obj_ids"]):
                logit = 4.0 if (truth == obj_id).any() else -4.0
                score = {"object_score_logits": torch.tensor([[logit]])}
                outputs = inference_state["output_dict_per_obj"][index]
                outputs["non_cond_frame_outputs"][frame_idx] = score
            masks = [self.logits(truth, obj_id) for obj_id in inference_state["obj_ids"]]
            yield frame_idx, inference_state["obj_ids"], torch.from_numpy(np.stack(masks))[:, None]

    def logits(self, truth: Labels, obj_id: int) -> Any:
        return np.where((truth == obj_id) & self.finds, 5.0, -5.0).astype(np.float32)
