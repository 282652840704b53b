"""Typed records that also read, and where clients write, like the dictionaries of `sam2`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["DictRecord", "FrameOutput", "Outputs", "PointPrompt", "Prompts", "RecordDict"]


class DictRecord(MutableMapping[str, Any]):
    """Attributes named in `KEYS` are items as well; other keys are kept as a dict keeps them."""

    KEYS: ClassVar[tuple[str, ...]] = ()
    _extra: dict[str, Any]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Values that a client made, as a record; what is missing is None."""
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


@dataclass(eq=False)
class FrameOutput(DictRecord):
    """What is kept of one object on one frame."""

    KEYS = (
        "maskmem_features",
        "maskmem_pos_enc",
        "pred_masks",
        "obj_ptr",
        "object_score_logits",
    )
    maskmem_features: Tensor | None  #: memory `[1, mem_dim, H, W]`, once it has been encoded
    maskmem_pos_enc: list[Tensor] | None  #: its positions, a list of one map
    pred_masks: Tensor  #: mask logits `[1, 1, S / 4, S / 4]`
    obj_ptr: Tensor  #: object pointer `[1, C]`
    object_score_logits: Tensor  #: presence logit `[1, 1]`
    predicted_iou: Tensor | None = None  #: of the mask, `[1]`
    _extra: dict[str, Any] = field(default_factory=dict, repr=False, kw_only=True)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All of it by name, but for the positions, which all outputs share."""
        for name in (
            "maskmem_features",
            "pred_masks",
            "obj_ptr",
            "object_score_logits",
            "predicted_iou",
        ):
            tensor = getattr(self, name)
            if tensor is not None:
                yield name, tensor


R = TypeVar("R", bound=DictRecord)


class RecordDict(dict[int, R], Generic[R]):
    """Records by frame. Plain dictionaries that clients put in become records."""

    record: ClassVar[Any]  #: their class

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
    """What is kept of one object, by frame."""

    record = FrameOutput


class Prompts(RecordDict[PointPrompt]):
    """Clicks on one object, by frame."""

    record = PointPrompt
