"""Count the work of a frame of video against `sam2`: `python -m bench.work`.

Floating-point operations of matrix products and convolutions, at full memory (7 memories and 16
pointers an object), counted on tensors without data: no machine is too busy for it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from tests import reference  # isort: skip  # before fastsam2

from fastsam2.build_sam import build_sam2_video_predictor
from fastsam2.engine.features import encode_image
from fastsam2.engine.memory_pool import MemoryPool
from fastsam2.engine.memory_reader import memory_reader
from fastsam2.engine.memory_writer import memory_writer
from fastsam2.engine.object_decoder import object_decoder
from fastsam2.engine.read_tables import read_tables
from tests.engine.memories import features, selection

__all__ = ["count_ours", "count_theirs", "main"]

MEMORIES, POINTERS = 7, 16


def _count(stages: dict[str, Callable[[], object]]) -> dict[str, int]:
    counts = {}
    for stage, run in stages.items():
        with FlopCounterMode(display=False) as counter:
            run()
        counts[stage] = counter.get_total_flops()
    return counts


def count_theirs(name: str, objects: int) -> dict[str, int]:
    """Operations of each stage in `sam2`, which runs all but the encoder once for each object."""
    model = reference.video_predictor(name, 1024).to("meta")
    grid, dim, pointers = 64, model.hidden_dim, POINTERS * model.hidden_dim // model.mem_dim
    with torch.device("meta"), torch.inference_mode():
        images = torch.randn(1, 3, 1024, 1024)
        frame = torch.randn(grid * grid, 1, dim)
        memory = torch.randn(MEMORIES * grid * grid + pointers, 1, model.mem_dim)
        pix_feat = torch.randn(1, dim, grid, grid)
        high_res = [torch.randn(1, dim // 8, 4 * grid, 4 * grid)]
        high_res.append(torch.randn(1, dim // 4, 2 * grid, 2 * grid))
        counts = _count(
            {
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
                    sparse_prompt_embeddings=torch.randn(1, 2, dim),  # a point of padding, twice
                    dense_prompt_embeddings=pix_feat,
                    multimask_output=True,
                    repeat_image=False,
                    high_res_features=high_res,
                ),
                "memory encoder": lambda: model.memory_encoder(
                    pix_feat, torch.randn(1, 1, 1024, 1024), skip_mask_sigmoid=True
                ),
            }
        )
    return {k: v if k == "image encoder" else objects * v for k, v in counts.items()}


def count_ours(name: str, objects: int) -> dict[str, int]:
    """The same in fastsam2."""
    model = build_sam2_video_predictor(name, device="cpu").to("meta")
    with torch.device("meta"), torch.inference_mode():
        read, decode, write = memory_reader(model), object_decoder(model), memory_writer(model)
        assert read is not None
        assert decode is not None
        assert write is not None
        frame, images = features(model), torch.randn(1, 3, 1024, 1024)
        memory = read_tables(
            model, MemoryPool(model), [selection(model, MEMORIES, POINTERS)] * objects
        )
        rope, image_pe = read.rope(frame.pix_feat), torch.randn_like(frame.pix_feat)
        seen = torch.randn(objects, *frame.pix_feat.shape[1:])
        masks, presence = torch.randn(objects, 1, 256, 256), torch.randn(objects, 1)
        return _count(
            {
                "image encoder": lambda: encode_image(model, images),
                "memory attention": lambda: read(
                    model, frame.pix_feat, frame.pix_pos, rope, *memory
                ),
                "mask decoder": lambda: decode(model, seen, image_pe, frame.high_res),
                "memory encoder": lambda: write(
                    frame.pix_feat, masks, presence, scale=20.0, bias=-10.0, binarize=False
                ),
            }
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.work")
    parser.add_argument("--model", default="sam2.1-tiny", choices=reference.CONFIGS)
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 8, 16])
    args = parser.parse_args()
    print(f"{args.model} at 1024 px; GFLOP a frame")
    print(f"objects {'stage':16} {'sam2':>9} {'ours':>9}  ratio")
    for objects in args.objects:
        theirs, ours = count_theirs(args.model, objects), count_ours(args.model, objects)
        rows = [(stage, theirs[stage], ours[stage]) for stage in theirs]
        rows.append(("a frame", sum(theirs.values()), sum(ours.values())))
        for stage, a, b in rows:
            print(f"{objects:7} {stage:16} {a / 1e9:9.1f} {b / 1e9:9.1f} {b / a:6.2f}")


if __name__ == "__main__":
    main()
