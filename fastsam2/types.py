"""Typed records with the keys of the dictionaries of `sam2`, which can be used as those."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, overload

from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "ConvertingDict",
    "FrameOutput",
    "Item",
    "Outputs",
    "PointPrompt",
    "Prompts",
    "RecordDict",
    "StoredMemory",
    "restored",
]

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")
D = TypeVar("D", bound=dict[Any, Any])
R = TypeVar("R", bound=MutableMapping[str, Any])


def restored(cls: type[D], items: Mapping[Any, Any]) -> D:
    """Return a dict of class `cls` with these items.

    Pickles call it, since `torch.load` by default puts items into plain dictionaries only.
    """
    record = cls.__new__(cls)
    record.update(items)
    return record


class Item(Generic[T]):
    """Attribute that is the item of the same name; reading it raises KeyError if there is none."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else instance[self._name]

    def __set__(self, instance: Any, value: T) -> None:
        instance[self._name] = value


class PointPrompt(dict[str, Any]):
    """Clicks and box corners of one object on one frame.

    Args:
        point_coords: (x, y) in pixels of the model's input, float32 `[1, P, 2]`.
        point_labels: 1, 0, box corners 2 and 3, padding -1; int32 `[1, P]`.
    """

    KEYS: ClassVar = ("point_coords", "point_labels")
    point_coords = Item[Tensor]()
    point_labels = Item[Tensor]()

    def __init__(self, point_coords: Tensor, point_labels: Tensor) -> None:
        super().__init__(point_coords=point_coords, point_labels=point_labels)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Build a record from a client's mapping."""
        return restored(cls, values)

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (type(self), dict(self))


class StoredMemory(Protocol):
    """A slot that holds the memory of one object on one frame."""

    @property
    def row(self) -> Tensor:
        """The memory as it is stored, a view."""

    def from_row(self, row: Tensor) -> Tensor:
        """Return stored memory as a view `[1, mem_dim, H, W]`."""

    def copy(self) -> Tensor:
        """Return a copy of the memory, `[1, mem_dim, H, W]`."""


class FrameOutput(dict[str, Any]):
    """Output for one object on one frame; its fields are attributes and items.

    Args:
        maskmem_features: memory `[1, mem_dim, H, W]`; None before it is encoded and after it has
            been evicted. Memory in a slot is copied out on the first read of this field.
        maskmem_pos_enc: positions of the memory, a list of one map.
        pred_masks: mask logits `[1, 1, S / 4, S / 4]`; None after they have been evicted.
        obj_ptr: object pointer `[1, C]`.
        object_score_logits: presence logit `[1, 1]`.
        predicted_iou: predicted IoU of the mask `[1]`, which is no item; None if unknown.
    """

    KEYS: ClassVar = (
        "maskmem_features",
        "maskmem_pos_enc",
        "pred_masks",
        "obj_ptr",
        "object_score_logits",
    )
    maskmem_features = Item[Tensor | None]()
    maskmem_pos_enc = Item[list[Tensor] | None]()
    pred_masks = Item[Tensor | None]()
    obj_ptr = Item[Tensor]()
    object_score_logits = Item[Tensor]()
    predicted_iou: Tensor | None = None
    #: Memory that is copied on the first read; until then the dict holds None in its place.
    _slot: StoredMemory | None = None
    _version: int  #: version of the memory at the time it was copied out of the slot

    def __init__(
        self,
        maskmem_features: Tensor | None,
        maskmem_pos_enc: list[Tensor] | None,
        pred_masks: Tensor | None,
        obj_ptr: Tensor,
        object_score_logits: Tensor,
        predicted_iou: Tensor | None = None,
    ) -> None:
        fields = maskmem_features, maskmem_pos_enc, pred_masks, obj_ptr, object_score_logits
        self.predicted_iou = predicted_iou
        super().update(zip(self.KEYS, fields, strict=True))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Build a record from a client's mapping."""
        return restored(cls, values)

    def __getitem__(self, key: str) -> Any:
        found = super().__getitem__(key)
        if key == "maskmem_features" and found is None and self._slot is not None:
            found = self._slot.copy()
            super().__setitem__(key, found)
            self._version = found._version
        return found

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        if key == "maskmem_features":
            self._slot = None

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        if key == "maskmem_features":
            self._slot = None

    def __iter__(self) -> Iterator[str]:
        # Where this is overridden, `dict(output)` calls `__getitem__`.
        return super().__iter__()

    def pop(self, key: str, *default: Any) -> Any:
        if default and key not in self:
            return default[0]
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        key = next(reversed(self), None)
        if key is None:
            raise KeyError("popitem(): dictionary is empty")
        return key, self.pop(key)

    def copy(self) -> dict[str, Any]:
        return dict(self)

    def __or__(self, other: Any) -> Any:
        return dict(self) | other

    def __ror__(self, other: Any) -> Any:
        return other | dict(self)

    def __ior__(self, other: Any) -> Self:  # type: ignore[override,misc]
        self.update(other)
        return self

    @property
    def slot(self) -> StoredMemory | None:
        """The slot that holds the memory; None if the memory is a separate or edited tensor."""
        copied = super().get("maskmem_features")
        edited = copied is not None and self._slot is not None and copied._version != self._version
        return None if edited else self._slot

    def store(self, slot: StoredMemory, pos_enc: list[Tensor]) -> None:
        """Set the memory to one that was encoded into a slot."""
        self.maskmem_features, self.maskmem_pos_enc = None, pos_enc
        self._slot = slot

    def leave_slot(self) -> None:
        """Copy the memory out of its slot and release the slot."""
        self.maskmem_features = self.maskmem_features

    @property
    def has_memory(self) -> bool:
        """True if memory has been encoded and not evicted."""
        return self._slot is not None or self["maskmem_features"] is not None

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies and pickles have the memory among their items, and no slot.
        items = {key: _compact(value) for key, value in self.items()}
        state = {"predicted_iou": _compact(self.predicted_iou)}
        return restored, (type(self), items), state


def _compact(value: Any) -> Any:
    """Copy a view of a larger tensor, all of which would be pickled with it."""
    if isinstance(value, Tensor) and value.untyped_storage().nbytes() > value.nbytes:
        return value.clone()
    return value


# Written in terms of the methods above; those of dict bypass them.
for _name in ("get", "items", "values", "update", "setdefault", "clear"):
    setattr(FrameOutput, _name, getattr(MutableMapping, _name))


class ConvertingDict(dict[K, V]):
    """Dict that converts each value that is stored in it."""

    def convert(self, key: K, value: Any) -> V:
        raise NotImplementedError

    def __init__(
        self, items: Mapping[K, Any] | Iterable[tuple[K, Any]] = (), /, **named: Any
    ) -> None:
        super().__init__()
        self.update(items, **named)

    @classmethod
    def of(cls, items: Mapping[K, Any]) -> Self:
        """Return `items` if they are such a dict, else a converted copy."""
        if isinstance(items, cls):
            return items
        return restored(cls, items)

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (type(self), dict(self))

    def __setitem__(self, key: K, value: Any) -> None:
        super().__setitem__(key, self.convert(key, value))

    def update(self, items: Any = (), /, **named: Any) -> None:  # type: ignore[override]
        for key, value in dict(items, **named).items():
            self[key] = value

    def __ior__(self, items: Any) -> Self:  # type: ignore[override,misc]
        self.update(items)
        return self

    def setdefault(self, key: K, value: Any = None) -> V:  # type: ignore[override]
        if key not in self:
            self[key] = value
        return self[key]


class RecordDict(ConvertingDict[int, R]):
    """Records by frame index. Plain dictionaries that clients store are converted to records."""

    record: ClassVar[Any]  #: class of the records

    def convert(self, key: int, value: Any) -> R:
        return value if isinstance(value, self.record) else self.record.of(value)


class Outputs(RecordDict[FrameOutput]):
    """Outputs for one object, by frame."""

    record = FrameOutput


class Prompts(RecordDict[PointPrompt]):
    """Clicks on one object, by frame."""

    record = PointPrompt
