"""Stored outputs of one object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from fastsam2.modeling.memory_selection import MemorySelection, SelectionRules, select_memory
from fastsam2.types import ConvertingDict, FrameOutput, Item, Outputs

__all__ = ["ObjectMemory"]


class ObjectMemory(ConvertingDict[str, Any]):
    """Outputs of one object on prompted (conditioning) frames and on tracked ones."""

    KEYS: ClassVar = ("cond_frame_outputs", "non_cond_frame_outputs")
    cond_frame_outputs = Item[Outputs]()
    non_cond_frame_outputs = Item[Outputs]()

    def __init__(
        self,
        cond_frame_outputs: Mapping[int, Any] | None = None,
        non_cond_frame_outputs: Mapping[int, Any] | None = None,
    ) -> None:
        super().__init__(
            cond_frame_outputs=cond_frame_outputs or {},
            non_cond_frame_outputs=non_cond_frame_outputs or {},
        )

    def convert(self, key: str, value: Any) -> Any:
        return Outputs.of(value) if key in self.KEYS else value

    def output(self, frame_idx: int) -> FrameOutput | None:
        """Return the output on a frame; that of a conditioning frame takes precedence."""
        found = self.cond_frame_outputs.get(frame_idx)
        return self.non_cond_frame_outputs.get(frame_idx) if found is None else found

    def forget_tracked_around(self, frame_idx: int, reach: int) -> None:
        """Drop tracked frames at most `reach` away, whose memory is outdated by a correction."""
        for t in range(frame_idx - reach, frame_idx + reach + 1):
            self.non_cond_frame_outputs.pop(t, None)

    def select(
        self, frame_idx: int, rules: SelectionRules, *, num_frames: int | None, reverse: bool
    ) -> MemorySelection[FrameOutput]:
        """Select the memories that `frame_idx` reads; see `select_memory`."""
        return select_memory(
            frame_idx,
            self.cond_frame_outputs,
            self.non_cond_frame_outputs,
            rules,
            num_frames=num_frames,
            reverse=reverse,
        )
