"""Subclasses that override official methods, which are called as `sam2` calls them.

SAMURAI, DAM4SAM and SAM2Long override the choice of masks and memories; micro-sam and others
provide features.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.compat.clients import Package, agree, click, logits_of

Both = tuple[Package, Package]

METHODS = [
    "_get_image_feature",
    "_prepare_backbone_features",
    "track_step",
    "_prepare_memory_conditioned_features",
    "_forward_sam_heads",
    "_use_mask_as_output",
    "_encode_new_memory",
]


def session(package: Package, video: Path) -> Any:
    """Track two objects, one prompted by a mask; correct one and track again."""
    predictor = package.predictor
    state = predictor.init_state(str(video))
    click(package, state, obj=1)
    mask = torch.zeros(120, 160, dtype=torch.bool)
    mask[30:90, 40:110] = True
    predictor.add_new_mask(state, 0, 2, mask)
    found = logits_of(predictor.propagate_in_video(state, max_frame_num_to_track=2))
    predictor.add_new_points_or_box(state, 2, 1, [[100, 50]], [0])
    return found + logits_of(predictor.propagate_in_video(state, start_frame_idx=2))


def subclassed(package: Package, **methods: Callable[..., Any]) -> type:
    """Change the predictor's class to a subclass; each method gets the original one first."""
    kind = type(package.predictor)

    def bound(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            return method(getattr(super(kind_, self), name), *args, **kwargs)

        return call

    kind_ = type("Sub", (kind,), {name: bound(name, m) for name, m in methods.items()})
    package.predictor.__class__ = kind_
    return kind_


@pytest.mark.slow
@pytest.mark.parametrize("names", [METHODS, *([name] for name in METHODS)], ids=["all", *METHODS])
def test_overridden_methods_are_called_as_often(names: list[str], fresh: Both, video: Path) -> None:
    def client(package: Package) -> Any:
        calls: Counter[str] = Counter()

        def counted(name: str) -> Callable[..., Any]:
            def method(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
                calls[name] += 1
                return original(*args, **kwargs)

            return method

        subclassed(package, **{name: counted(name) for name in names})
        found = session(package, video)
        return found, [calls[name] for name in names]

    found = agree(client, fresh)
    assert not isinstance(found, Exception), found
    assert all(found[1])


@pytest.mark.slow
def test_overridden_results_are_used(fresh: Both, video: Path) -> None:
    """Smaller masks, weaker memory, and scaled features."""

    def smaller(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        low, high, ious, best, best_high, pointer, presence = original(*args, **kwargs)
        return low, high, ious, best - 0.5, best_high - 0.5, pointer * 0.9, presence

    def dimmer(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        memory, positions = original(*args, **kwargs)
        return memory * 0.8, positions

    def brighter(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        image, out, features, positions, sizes = original(*args, **kwargs)
        return image, out, [x * 1.1 for x in features], positions, sizes

    plain = session(fresh[1], video)

    def client(package: Package) -> Any:
        subclassed(
            package,
            _forward_sam_heads=smaller,
            _encode_new_memory=dimmer,
            _get_image_feature=brighter,
        )
        return session(package, video)

    found = agree(client, fresh)
    assert not isinstance(found, Exception), found
    assert not torch.equal(found[-1][2], plain[-1][2])
