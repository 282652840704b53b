"""A least-recently-used cache of equally large items, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["FrameCache"]

Item = TypeVar("Item")


class FrameCache(Generic[Item]):
    """Keeps the items used last: `max_bytes` of them, at `item_bytes` each, and at least one.

    Not thread-safe: the owner holds a lock.
    """

    def __init__(self, max_bytes: int, item_bytes: int) -> None:
        self.capacity = max(1, max_bytes // max(item_bytes, 1))
        self._items: OrderedDict[int, Item] = OrderedDict()

    def __contains__(self, key: int) -> bool:
        return key in self._items

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: int) -> Item | None:
        """The item under `key`, from now on the one used last; None if it is not here."""
        if key not in self._items:
            return None
        self._items.move_to_end(key)
        return self._items[key]

    def put(self, key: int, item: Item) -> None:
        """Stores `item`, and drops the least recently used ones beyond the capacity."""
        self._items[key] = item
        self._items.move_to_end(key)
        while len(self._items) > self.capacity:
            self._items.popitem(last=False)

    def clear(self) -> None:
        """Drops everything."""
        self._items.clear()
