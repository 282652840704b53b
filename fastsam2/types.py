"""Typed records that can also be read and written like the dictionaries of `sam2`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "DictRecord",
    "FrameOutput",
    "Outputs",
    "PointPrompt",
    "Prompts",
    "RecordDict",
    "StoredMemory",
]


class DictRecord(MutableMapping[str, Any]):
    """A record whose attributes named in `KEYS` are also items; other keys are stored as in a
    dict."""

    KEYS: ClassVar[tuple[str, ...]] = ()
    _extra: dict[str, Any]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Build a record from a client's mapping; missing values are None."""
        if isinstance(values, cls):
            return values
        record = cls(**{key: values.get(key) for key in cls.KEYS})
        record.update(values)
        return record

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key) if key in self.KEYS else self._extra[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self.KEYS:
            setattr(self, key, value)
        else:
            self._extra[key] = value

    def __delitem__(self, key: str) -> None:
        if key in self.KEYS:
            raise KeyError(f"{key!r} is part of {type(self).__name__} and cannot be deleted")
        del self._extra[key]

    def __iter__(self) -> Iterator[str]:
        yield from self.KEYS
        yield from self._extra

    def __len__(self) -> int:
        return len(self.KEYS) + len(self._extra)


@dataclass(eq=False)
class PointPrompt(DictRecord):
    """Clicks and box corners of one object on one frame."""

    KEYS = ("point_coords", "point_labels")
    point_coords: Tensor  #: (x, y) in pixels of the model's input, float32 `[1, P, 2]`
    point_labels: Tensor  #: 1, 0, box corners 2 and 3, padding -1; int32 `[1, P]`
    _extra: dict[str, Any] = field(default_factory=dict, repr=False, kw_only=True)


class StoredMemory(Protocol):
    """A slot that holds the memory of one object on one frame."""

    @property
    def row(self) -> Tensor:
        """The memory as it is stored, a view."""

    def from_row(self, row: Tensor) -> Tensor:
        """Return stored memory as a view `[1, mem_dim, H, W]`."""

    def copy(self) -> Tensor:
        """Return a copy of the memory, `[1, mem_dim, H, W]`."""


class FrameOutput(DictRecord):
    """Output for one object on one frame.

    Args:
        maskmem_features: memory `[1, mem_dim, H, W]`; None before it is encoded and after it has
            been evicted. Memory in a slot is copied out on the first read of this field.
        maskmem_pos_enc: positions of the memory, a list of one map.
        pred_masks: mask logits `[1, 1, S / 4, S / 4]`; None after they have been evicted.
        obj_ptr: object pointer `[1, C]`.
        object_score_logits: presence logit `[1, 1]`.
        predicted_iou: predicted IoU of the mask `[1]`; None if unknown.
    """

    KEYS = (
        "maskmem_features",
        "maskmem_pos_enc",
        "pred_masks",
        "obj_ptr",
        "object_score_logits",
    )
    _memory: Tensor | None
    _slot: StoredMemory | None
    _version: int  #: version of `_memory` at the time it was copied out of the slot

    def __init__(
        self,
        maskmem_features: Tensor | None,
        maskmem_pos_enc: list[Tensor] | None,
        pred_masks: Tensor | None,
        obj_ptr: Tensor,
        object_score_logits: Tensor,
        predicted_iou: Tensor | None = None,
    ) -> None:
        self.maskmem_features = maskmem_features
        self.maskmem_pos_enc = maskmem_pos_enc
        self.pred_masks = pred_masks
        self.obj_ptr = obj_ptr
        self.object_score_logits = object_score_logits
        self.predicted_iou = predicted_iou
        self._extra = {}

    @property
    def maskmem_features(self) -> Tensor | None:
        if self._memory is None and self._slot is not None:
            copied = self._slot.copy()
            self._memory, self._version = copied, copied._version
        return self._memory

    @maskmem_features.setter
    def maskmem_features(self, memory: Tensor | None) -> None:
        self._memory, self._slot = memory, None

    @property
    def slot(self) -> StoredMemory | None:
        """The slot that holds the memory; None if the memory is a separate or edited tensor."""
        if self._slot is None or self._memory is None:
            return self._slot
        edited = self._memory._version != self._version
        return None if edited else self._slot

    def store(self, slot: StoredMemory, pos_enc: list[Tensor]) -> None:
        """Set the memory to one that was encoded into a slot."""
        self._memory, self._slot = None, slot
        self.maskmem_pos_enc = pos_enc

    def leave_slot(self) -> None:
        """Copy the memory out of its slot and release the slot."""
        self.maskmem_features = self.maskmem_features

    @property
    def has_memory(self) -> bool:
        """True if memory has been encoded and not evicted."""
        return self._memory is not None or self._slot is not None

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles do not share the slot.
        memory = self._slot.copy() if self._memory is None and self._slot else self._memory
        return {**self.__dict__, "_memory": memory, "_slot": None}


R = TypeVar("R", bound=DictRecord)


class RecordDict(dict[int, R], Generic[R]):
    """Records by frame index. Plain dictionaries that clients store are converted to records."""

    record: ClassVar[Any]  #: class of the records

    def __init__(self, items: Mapping[int, Any] | Iterable[tuple[int, Any]] = ()) -> None:
        super().__init__()
        self.update(items)

    @classmethod
    def of(cls, items: Mapping[int, Any]) -> Self:
        return items if isinstance(items, cls) else cls(items)

    def __setitem__(self, frame_idx: int, values: Any) -> None:
        super().__setitem__(frame_idx, self.record.of(values))

    def update(self, items: Any = ()) -> None:  # type: ignore[override]
        for frame_idx, values in dict(items).items():
            self[frame_idx] = values

    def __ior__(self, items: Any) -> Self:  # type: ignore[override,misc]
        self.update(items)
        return self

    def setdefault(self, frame_idx: int, values: Any) -> R:  # type: ignore[override]
        if frame_idx not in self:
            self[frame_idx] = values
        return self[frame_idx]


class Outputs(RecordDict[FrameOutput]):
    """Outputs for one object, by frame."""

    record = FrameOutput


class Prompts(RecordDict[PointPrompt]):
    """Clicks on one object, by frame."""

    record = PointPrompt
