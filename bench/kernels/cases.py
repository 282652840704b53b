"""One call of each op at the size it has during tracking, and the equivalent in `sam2`.

Run by pytest (`test_ops.py`) or, without its plugins, by `bench.ops`.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fastsam2.data.preprocess import IMAGE_MEAN, IMAGE_STD
from fastsam2.modeling.memory_encoder import CXBlock, MaskDownSampler
from fastsam2_kernels.connected_components import connected_components
from fastsam2_kernels.cx_block import cx_block
from fastsam2_kernels.dispatch import Impl, gluon_misfit
from fastsam2_kernels.mask_downsample import (
    DownsampleStage,
    MaskDownsampleWeights,
    mask_downsample,
)
from fastsam2_kernels.mask_output import mask_output
from fastsam2_kernels.memory_attention import PagedMemory, memory_attention
from fastsam2_kernels.memory_keys import memory_keys
from fastsam2_kernels.resize import resize
from fastsam2_kernels.rope_attention import rope_attention

__all__ = ["CASES", "Case"]

DIM, WIDTH, LAYERS, MEMORIES, POINTERS = 256, 64, 4, 7, 64
STORED = torch.bfloat16  #: dtype of the memories in their pool, for any dtype of the model
SCALE, BIAS = 20.0, -10.0
VIDEO = (1080, 1920)
_IMPLS: dict[str, Impl] = {"kernel": "auto", "reference": "reference"}


class Case(NamedTuple):
    """One call of an op."""

    op: str
    run: Callable[[Impl], Any]
    moved: Sequence[Tensor]  #: tensors that are read at least once
    theirs: Callable[[], Any] | None = None  #: equivalent in `sam2`, None if there is none
    compiles: bool = True  #: True if `torch.compile` supports the reference
    gluon: Callable[[], Any] | None = None  #: the op with `impl="gluon"`, None if it cannot run

    def calls(self) -> dict[str, Callable[[], Any]]:
        """Return the available implementations: kernel, reference, compiled reference, `sam2`,
        gluon."""
        calls: dict[str, Callable[[], Any]] = {
            name: partial(self.run, impl) for name, impl in _IMPLS.items()
        }
        if self.compiles and shutil.which("g++") is not None:
            calls["compiled"] = partial(torch.compile(self.run), "reference")
        if self.theirs is not None:
            calls["sam2"] = self.theirs
        if self.gluon is not None:
            calls["gluon"] = self.gluon
        return calls

    def work(self) -> tuple[int, int]:
        """Return the FLOPs, by the formula of the op, and the least bytes read and written."""
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            out = self.run("auto")
        tensors = [*self.moved, *(out if isinstance(out, tuple) else (out,))]
        moved = sum(x.nbytes for x in tensors if isinstance(x, Tensor))
        return counter.get_total_flops(), moved


class _Make:
    """Factory of random tensors of one device and dtype."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.device, self.dtype = device, dtype

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.device).to(self.dtype)

    def tables(self, tokens: int) -> tuple[Tensor, Tensor]:
        """Return rotary tables: cosines and sines."""
        angle = 100 * torch.randn(tokens, DIM // 2, device=self.device)
        return angle.cos(), angle.sin()

    def ints(self, values: Tensor) -> Tensor:
        return values.to(self.device, torch.int32)


def _official(name: str) -> Any:
    try:
        return importlib.import_module(f"sam2.modeling.{name}")
    except Exception:  # any error of a missing or broken installation
        return None


def _rope_attention(make: _Make, grid: int, objects: int) -> Case:
    """Self-attention of a frame, for each object."""
    q, k, v = make(3, objects, grid * grid, DIM)
    cos, sin = make.tables(grid * grid)
    theirs = _official("position_encoding")
    turn = torch.complex(cos, sin)

    def sam2() -> Tensor:
        turned = theirs.apply_rotary_enc(q[:, None], k[:, None], freqs_cis=turn)
        turned_q, turned_k = turned
        return F.scaled_dot_product_attention(turned_q, turned_k, v[:, None])

    run = partial(rope_attention, q, k, v, cos, sin, DIM**-0.5)
    return Case("rope_attention", _by(run), [q, k, v, cos, sin], sam2 if theirs else None)


def _memory_attention(make: _Make, grid: int, objects: int) -> Case:
    """Cross-attention of all objects to full memories; `sam2` has values as wide as keys."""
    tokens, reads = grid * grid, objects * MEMORIES
    q, keys = make(objects, tokens, DIM), make(reads, tokens, DIM)
    latents = make(reads, tokens, WIDTH).to(STORED)
    slots = make.ints(torch.arange(reads)).view(objects, MEMORIES)
    full = [make.ints(torch.full((objects,), n)) for n in (MEMORIES, POINTERS)]
    pointer_keys, pointers = make(objects, POINTERS, DIM), make(objects, POINTERS, WIDTH)
    cos, sin = make.tables(tokens)
    k = torch.cat([keys.view(objects, -1, DIM), pointer_keys], dim=1)[:, None]
    v = make(*k.shape)
    memory = PagedMemory(keys, latents, slots, slots, full[0], pointer_keys, pointers, full[1])
    run = partial(memory_attention, q, memory, cos, sin, DIM**-0.5)
    fits = make.dtype == STORED  # Gluon converts no latents
    return Case(
        "memory_attention",
        _by(run),
        [q, keys, latents, pointer_keys, pointers, cos, sin],
        lambda: F.scaled_dot_product_attention(q[:, None], k, v),
        gluon=partial(run, impl="gluon") if fits and gluon_misfit(q) is None else None,
    )


def _memory_keys(make: _Make, grid: int, objects: int) -> Case:
    """Keys of full memories for all four layers."""
    tokens, reads = grid * grid, objects * MEMORIES
    latents = make(reads, tokens, WIDTH).to(STORED)
    pos, tpos = make(tokens, WIDTH), make(7, WIDTH)
    weight, bias = make(LAYERS, DIM, WIDTH), make(LAYERS, DIM)
    cos, sin = make.tables(tokens)
    slots = make.ints(torch.arange(reads))
    times = slots % MEMORIES
    theirs = _official("position_encoding")
    turn = torch.complex(cos, sin)

    def sam2() -> Tensor:
        memory = latents.to(pos.dtype) + pos + tpos[times.long(), None]
        memory = memory.view(objects, 1, -1, WIDTH)
        for layer in range(LAYERS):
            k = F.linear(memory, weight[layer], bias[layer])
            # It rotates queries, too; these are the fewest that it accepts.
            _, k = theirs.apply_rotary_enc(k[:, :, :tokens], k, freqs_cis=turn, repeat_freqs_k=True)
        return k

    run = partial(memory_keys, latents, pos, tpos, weight, bias, cos, sin, slots, times)
    return Case("memory_keys", _by(run), [latents, weight, cos, sin], sam2 if theirs else None)


def _cx_block(make: _Make, grid: int, objects: int) -> Case:
    """One ConvNeXt block of the memory encoder's fuser."""
    block = CXBlock(DIM, layer_scale_init_value=0.5).to(make.device, make.dtype)
    weight = block.dwconv.weight.data[:, 0].permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert block.gamma is not None
    linear = [
        block.pwconv1.weight.data,
        block.pwconv1.bias.data,
        (block.gamma[:, None] * block.pwconv2.weight).data,
        (block.gamma * block.pwconv2.bias).data,
    ]
    assert block.dwconv.bias is not None
    norm = [block.dwconv.bias.data, block.norm.weight.data, block.norm.bias.data]
    image = make(objects, DIM, grid, grid)
    x = image.permute(0, 2, 3, 1).contiguous()
    arguments: list[Any] = [x, weight, *norm, block.norm.eps, *linear]
    run = partial(cx_block, *arguments)
    module = _official("memory_encoder")
    theirs = None
    if module is not None:
        theirs = module.CXBlock(DIM, kernel_size=7, padding=3).to(make.device, make.dtype).eval()
        theirs.load_state_dict(block.state_dict())
    return Case("cx_block", _by(run), [x, *linear], theirs and partial(theirs, image))


def _mask_downsample(make: _Make, grid: int, objects: int) -> Case:
    """Mask features from logits at a quarter of the image size."""
    ours = MaskDownSampler(DIM, kernel_size=3, stride=2, padding=1).to(make.device, make.dtype)
    layers: list[Any] = list(ours.encoder)
    last = layers.pop()
    stages = tuple(
        DownsampleStage(*(p.data for p in (conv.weight, conv.bias, norm.weight, norm.bias)))
        for conv, norm in zip(layers[::3], layers[1::3], strict=True)
    )
    weights = MaskDownsampleWeights(stages, last.weight.data, last.bias.data)
    logits = torch.randn(objects, 4 * grid, 4 * grid, device=make.device)
    run = partial(mask_downsample, logits, SCALE, BIAS, weights)
    module = _official("memory_encoder")
    if module is None:
        return Case("mask_downsample", _by(run), [logits])
    theirs = module.MaskDownSampler(kernel_size=3, stride=2, padding=1).to(make.device, make.dtype)
    theirs.load_state_dict(ours.state_dict())

    def sam2() -> Tensor:
        size = (16 * grid, 16 * grid)
        mask = F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)
        out: Tensor = theirs((mask.sigmoid() * SCALE + BIAS).to(make.dtype))
        return out

    return Case("mask_downsample", _by(run), [logits], sam2)


def _mask_output(make: _Make, grid: int, objects: int) -> Case:
    """Packed masks and labels of a Full HD video from logits; `sam2` makes bool masks alone."""
    coarse = torch.randn(objects, 1, 6, 6, device=make.device)
    logits = F.interpolate(coarse, (4 * grid, 4 * grid), mode="bicubic")[:, 0]

    def sam2() -> Tensor:
        up = F.interpolate(logits[:, None], VIDEO, mode="bilinear", align_corners=False)
        return up > 0

    run = partial(mask_output, logits, VIDEO)
    return Case("mask_output", _by(run), [logits], sam2, compiles=False)


def _connected_components(make: _Make, grid: int, objects: int) -> Case:
    """Labels and areas of the components of a mask; `sam2` needs its compiled extension."""
    coarse = torch.randn(objects, 1, 24, 24, device=make.device)
    mask = F.interpolate(coarse, (4 * grid, 4 * grid), mode="bicubic") > 0
    try:
        from scipy import ndimage
    except ImportError:
        ndimage = None

    def scipy() -> None:  # in place of the extension on a CPU
        for image in mask[:, 0].cpu().numpy():
            labels, n = ndimage.label(image, np.ones((3, 3)))
            np.bincount(labels.ravel(), minlength=n + 1)[labels]

    run = partial(connected_components, mask)
    theirs = scipy if ndimage is not None and make.device.type == "cpu" else None
    return Case("connected_components", _by(run), [mask], theirs, compiles=False)


def _resize(make: _Make, grid: int, objects: int) -> Case:
    """A Full HD frame to the model's input; `sam2` does this on the CPU and copies float32."""
    images = torch.randint(256, (1, *VIDEO, 3), dtype=torch.uint8)
    size = (16 * grid, 16 * grid)
    mean, std = torch.tensor((IMAGE_MEAN, IMAGE_STD))[..., None, None]

    def sam2() -> Tensor:
        pixels = np.array(Image.fromarray(images[0].numpy()).resize(size)) / 255.0
        out = torch.from_numpy(pixels).permute(2, 0, 1).float()
        return ((out - mean) / std).to(make.device, make.dtype)

    here = images.to(make.device)
    run = partial(resize, here, size, IMAGE_MEAN, IMAGE_STD, dtype=make.dtype)
    return Case("resize", _by(run), [here], sam2, compiles=False)


def _by(run: Callable[..., Any]) -> Callable[[Impl], Any]:
    return lambda impl: run(impl=impl)


#: Constructors of cases, from device, dtype, side of the feature map and number of objects.
CASES: dict[str, Callable[[torch.device, torch.dtype, int, int], Case]] = {
    name: lambda device, dtype, grid, objects, build=build: build(  # type: ignore[misc]
        _Make(device, dtype), grid, objects
    )
    for name, build in {
        "memory_attention": _memory_attention,
        "rope_attention": _rope_attention,
        "memory_keys": _memory_keys,
        "cx_block": _cx_block,
        "mask_downsample": _mask_downsample,
        "mask_output": _mask_output,
        "connected_components": _connected_components,
        "resize": _resize,
    }.items()
}
