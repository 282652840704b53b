"""Frames that are decoded on access and can be used as one tensor."""

from __future__ import annotations

import operator
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, SupportsIndex, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

__all__ = ["FrameTensor"]

#: Properties and methods of a tensor that do not depend on its values.
_OF_SHAPE = frozenset({"shape", "ndim", "nbytes", "dim", "size", "numel", "nelement"})
_OF_TYPE = frozenset({"dtype", "itemsize", "element_size", "is_floating_point", "is_complex"})
_OF_PLACE = frozenset({"device", "is_cuda", "is_cpu", "is_meta", "get_device", "layout"})
_WITHOUT_VALUES = _OF_SHAPE | _OF_TYPE | _OF_PLACE | {"requires_grad"}


class FrameTensor:
    """Sequence of images that can be used as a float32 tensor `[T, 3, S, S]`.

    An index or slice decodes its frames only, and size, dtype and device none. Other methods of
    tensors, and functions of torch, decode all frames.
    """

    device: torch.device
    image_size: int  #: S

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _frame(self, frame_idx: int) -> Tensor:
        """Return frame `frame_idx`, which is in range, `[3, S, S]` on `device`."""

    @overload
    def __getitem__(self, index: SupportsIndex) -> Tensor: ...
    @overload
    def __getitem__(self, index: Any) -> Tensor: ...
    def __getitem__(self, index: Any) -> Tensor:
        first, *rest = index if isinstance(index, tuple) and index else (index,)
        try:
            number = operator.index(first)
        except TypeError:
            return self._several(first, rest)
        length = len(self)
        position = number + length if number < 0 else number
        if not 0 <= position < length:
            raise IndexError(f"no frame {number} among {length} frames")
        frame = self._frame(position)
        return frame[tuple(rest)] if rest else frame

    def _several(self, first: Any, rest: Sequence[Any]) -> Tensor:
        """Index by anything but a number in the first place."""
        simple = isinstance(first, slice) or not rest
        if first is None or first is Ellipsis or isinstance(first, tuple) or not simple:
            return self[:][(first, *rest)]
        picked = torch.arange(len(self))[first]
        frames = [self._frame(i) for i in picked.flatten().tolist()]
        image = 3, self.image_size, self.image_size
        found = torch.stack(frames) if frames else torch.empty(0, *image, device=self.device)
        return found.unflatten(0, picked.shape)[(slice(None), *rest)]

    def __iter__(self) -> Iterator[Tensor]:
        for frame_idx in range(len(self)):
            yield self[frame_idx]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(Tensor, name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if name in _WITHOUT_VALUES:
            blank = torch.empty((), device=self.device)
            return getattr(blank.expand(len(self), 3, self.image_size, self.image_size), name)
        if callable(getattr(Tensor, name)):
            return lambda *args, **kwargs: getattr(self[:], name)(*args, **kwargs)
        return getattr(self[:], name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:].cpu(), dtype)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tree_map_only(FrameTensor, lambda x: x[:], (args, kwargs or {}))
        return function(*args, **kwargs)


def _operator(name: str) -> Callable[..., Any]:
    return lambda frames, *others: getattr(Tensor, name)(frames[:], *others)


for _sign in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "neg"):
    setattr(FrameTensor, f"__{_sign}__", _operator(f"__{_sign}__"))
