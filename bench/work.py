"""Count floating-point operations per frame, compared with `sam2`: `python -m bench.work`.

Counts matrix products and convolutions at full memory (7 memories and 16 pointers per object) on
meta tensors, so the result does not depend on the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from fastsam2.build_sam import build_sam2_video_predictor
from fastsam2.engine.block_tables import block_tables
from fastsam2.engine.fused.image_encoder import fused_image_encoder
from fastsam2.engine.memory_pool import MemoryPool
from fastsam2.engine.track_step import track_objects, track_step
from tests.engine.memories import features, selection

__all__ = ["STEP", "count_ours", "count_theirs", "main", "our_stages", "their_stages"]

MEMORIES, POINTERS = 7, 16
#: Everything after the image encoder, for all objects; `sam2` has no such function.
STEP = "track step"
Stages = dict[str, Callable[[], object]]


def their_stages(model: Any) -> Stages:
    """Stages of a model of `sam2` on its device, for one object."""
    size, dim = model.image_size, model.hidden_dim
    grid, pointers = size // 16, POINTERS * model.hidden_dim // model.mem_dim
    with _making(model):
        images = torch.randn(1, 3, size, size)
        frame = torch.randn(grid * grid, 1, dim)
        memory = torch.randn(MEMORIES * grid * grid + pointers, 1, model.mem_dim)
        pix_feat = torch.randn(1, dim, grid, grid)
        high_res = [torch.randn(1, dim // 8, 4 * grid, 4 * grid)]
        high_res.append(torch.randn(1, dim // 4, 2 * grid, 2 * grid))
        padding = torch.randn(1, 2, dim)  # embeddings of two padding points
        mask = torch.randn(1, 1, size, size)
    return {
        "image encoder": lambda: model.forward_image(images),
        "memory attention": lambda: model.memory_attention(
            curr=[frame],
            curr_pos=[frame],
            memory=memory,
            memory_pos=memory,
            num_obj_ptr_tokens=pointers,
        ),
        "mask decoder": lambda: model.sam_mask_decoder(
            image_embeddings=pix_feat,
            image_pe=pix_feat,
            sparse_prompt_embeddings=padding,
            dense_prompt_embeddings=pix_feat,
            multimask_output=True,
            repeat_image=False,
            high_res_features=high_res,
        ),
        "memory encoder": lambda: model.memory_encoder(pix_feat, mask, skip_mask_sigmoid=True),
    }


def our_stages(model: Any, objects: int) -> Stages:
    """Stages of a model of fastsam2 on its device; also all but the first as one."""
    size = model.image_size
    with _making(model), torch.inference_mode():
        encode, step = fused_image_encoder(model), track_step(model)
        assert encode is not None
        assert step is not None
        frame, images = features(model), torch.randn(1, 3, size, size)
        pool = MemoryPool(model)
        selections = [selection(model, MEMORIES, POINTERS) for _ in range(objects)]
        memory = block_tables(model, pool, selections)
        grid = step.grid(frame)
        conditioned = torch.randn(objects, *frame.pix_feat.shape[1:])
        masks = torch.randn(objects, 1, size // 4, size // 4)
        presence = torch.randn(objects, 1)
    return {
        "image encoder": lambda: encode(images),
        "memory attention": lambda: step.attention(
            frame.pix_feat, frame.pix_pos, grid.rope, *memory
        ),
        "mask decoder": lambda: step.decoder(conditioned, grid.image_offsets, frame.high_res),
        "memory encoder": lambda: step.encoder(
            frame.pix_feat, masks, presence, is_mask_from_pts=False
        ),
        STEP: lambda: track_objects(step, pool, frame, selections),
    }


@contextlib.contextmanager
def _making(model: Any) -> Iterator[None]:
    """Create new tensors on the model's device, in its dtype."""
    parameter = next(model.parameters())
    before = torch.get_default_dtype()
    torch.set_default_dtype(parameter.dtype)
    try:
        with parameter.device:
            yield
    finally:
        torch.set_default_dtype(before)


@functools.cache
def count_theirs(name: str, objects: int, image_size: int = 1024) -> dict[str, int]:
    """Operations of each stage of `sam2`; all but the encoder run once per object."""
    from tests import reference

    counts = _count(their_stages(reference.video_predictor(name, image_size).to("meta")))
    return {k: v if k == "image encoder" else objects * v for k, v in counts.items()}


@functools.cache
def count_ours(name: str, objects: int, image_size: int = 1024) -> dict[str, int]:
    """Operations of each stage of fastsam2."""
    size = [f"++model.image_size={image_size}"]
    model = build_sam2_video_predictor(name, device="cpu", hydra_overrides_extra=size).to("meta")
    stages = our_stages(model, objects)
    del stages[STEP]
    return _count(stages)


@torch.inference_mode()
def _count(stages: Stages) -> dict[str, int]:
    counts = {}
    for stage, run in stages.items():
        with FlopCounterMode(display=False) as counter:
            run()
        counts[stage] = counter.get_total_flops()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.work")
    parser.add_argument("--model", default="sam2.1-tiny", help="such as sam2.1-large")
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 8, 16])
    args = parser.parse_args()
    print(f"{args.model} at 1024 px; GFLOP per frame")
    print(f"objects {'stage':16} {'sam2':>9} {'ours':>9}  ratio")
    for objects in args.objects:
        theirs, ours = count_theirs(args.model, objects), count_ours(args.model, objects)
        rows = [(stage, theirs[stage], ours[stage]) for stage in theirs]
        rows.append(("total", sum(theirs.values()), sum(ours.values())))
        for stage, a, b in rows:
            print(f"{objects:7} {stage:16} {a / 1e9:9.1f} {b / 1e9:9.1f} {b / a:6.2f}")


if __name__ == "__main__":
    main()
