"""Least-recently-used cache of items of equal size, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["FrameCache"]

Item = TypeVar("Item")


class FrameCache(Generic[Item]):
    """Least-recently-used cache with room for at least one item.

    Not thread-safe: the owner holds a lock.

    Args:
        max_bytes: bound on the size of all items.
        item_bytes: size of one item.
    """

    def __init__(self, max_bytes: int, item_bytes: int) -> None:
        self.capacity = max(1, max_bytes // max(item_bytes, 1))
        self._items: OrderedDict[int, Item] = OrderedDict()

    def __contains__(self, key: int) -> bool:
        return key in self._items

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: int) -> Item | None:
        """Return the item under `key` and mark it as used; None if it is not cached."""
        if key not in self._items:
            return None
        self._items.move_to_end(key)
        return self._items[key]

    def put(self, key: int, item: Item) -> None:
        """Store `item`, and evict the least recently used items beyond the capacity."""
        self._items[key] = item
        self._items.move_to_end(key)
        while len(self._items) > self.capacity:
            self._items.popitem(last=False)

    def clear(self) -> None:
        """Remove all items."""
        self._items.clear()
