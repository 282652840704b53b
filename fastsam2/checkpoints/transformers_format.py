"""Convert weights of transformers' `Sam2VideoModel` to the official names.

Both layouts hold the same tensors, element for element; nothing is transposed or permuted. Apart
from names there are two differences: `prompt_encoder.point_embed.weight` stacks the four official
`point_embeddings`, and the random matrix of the positional encoding is stored twice. Derived from
transformers 5.23 (`models/sam2_video`) and sam2 1.1.0.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastsam2.errors import CheckpointError

__all__ = ["convert_hf_state_dict", "is_hf_state_dict", "read_hf_options"]

#: Settings of `config.json` that a fine-tune may have changed, and their fields in `SAM2Config`.
_OPTIONS = {
    "image_size": "image_size",
    "num_maskmem": "num_maskmem",
    "max_object_pointers_in_encoder": "max_obj_ptrs_in_encoder",
    "sigmoid_scale_for_mem_enc": "sigmoid_scale_for_mem_enc",
    "sigmoid_bias_for_mem_enc": "sigmoid_bias_for_mem_enc",
    "multimask_output_in_sam": "multimask_output_in_sam",
    "multimask_output_for_tracking": "multimask_output_for_tracking",
    "multimask_min_pt_num": "multimask_min_pt_num",
    "multimask_max_pt_num": "multimask_max_pt_num",
}

_IMAGE_MATRIX = "shared_image_embedding.positional_embedding"
_PROMPT_MATRIX = "prompt_encoder.shared_embedding.positional_embedding"
_POINTS = "prompt_encoder.point_embed.weight"

#: Applied in order to each name.
_RENAMES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        # image encoder
        (r"^vision_encoder\.backbone\.", "image_encoder.trunk."),
        (r"^vision_encoder\.neck\.convs\.(\d+)\.", r"image_encoder.neck.convs.\1.conv."),
        (r"\.patch_embed\.projection\.", ".patch_embed.proj."),
        # prompt encoder
        (r"^prompt_encoder\.", "sam_prompt_encoder."),
        (
            r"\.shared_embedding\.positional_embedding$",
            ".pe_layer.positional_encoding_gaussian_matrix",
        ),
        (r"\.mask_embed\.conv1\.", ".mask_downscaling.0."),
        (r"\.mask_embed\.layer_norm1\.", ".mask_downscaling.1."),
        (r"\.mask_embed\.conv2\.", ".mask_downscaling.3."),
        (r"\.mask_embed\.layer_norm2\.", ".mask_downscaling.4."),
        (r"\.mask_embed\.conv3\.", ".mask_downscaling.6."),
        # mask decoder
        (r"^mask_decoder\.", "sam_mask_decoder."),
        (r"\.upscale_conv1\.", ".output_upscaling.0."),
        (r"\.upscale_layer_norm\.", ".output_upscaling.1."),
        (r"\.upscale_conv2\.", ".output_upscaling.3."),
        # memory encoder; each stage of the mask downsampler is conv, norm, activation
        *(
            (rf"\.mask_downsampler\.layers\.{i}\.conv\.", f".mask_downsampler.encoder.{3 * i}.")
            for i in range(4)
        ),
        *(
            (
                rf"\.mask_downsampler\.layers\.{i}\.layer_norm\.",
                f".mask_downsampler.encoder.{3 * i + 1}.",
            )
            for i in range(4)
        ),
        (r"\.mask_downsampler\.final_conv\.", ".mask_downsampler.encoder.12."),
        (r"^memory_encoder\.memory_fuser\.", "memory_encoder.fuser."),
        (r"^memory_encoder\.feature_projection\.", "memory_encoder.pix_feat_proj."),
        (r"^memory_encoder\.projection\.", "memory_encoder.out_proj."),
        (r"\.depthwise_conv\.", ".dwconv."),
        (r"\.pointwise_conv(\d)\.", r".pwconv\1."),
        (r"\.scale$", ".gamma"),
        # parameters of the model itself
        (r"^memory_temporal_positional_encoding$", "maskmem_tpos_enc"),
        (r"^no_memory_embedding$", "no_mem_embed"),
        (r"^no_memory_positional_encoding$", "no_mem_pos_enc"),
        (r"^no_object_pointer$", "no_obj_ptr"),
        (r"^occlusion_spatial_embedding_parameter$", "no_obj_embed_spatial"),
        (r"^object_pointer_proj\.", "obj_ptr_proj."),
        (r"^temporal_positional_encoding_projection_layer\.", "obj_ptr_tpos_proj."),
        # perceptrons: those called `mlp` have two layers, all others three
        (r"\.mlp\.proj_out\.", ".mlp.layers.1."),
        (r"(_head|_mlps\.\d+|_proj)\.layers\.0\.", r"\1.layers.1."),
        (r"\.proj_in\.", ".layers.0."),
        (r"\.proj_out\.", ".layers.2."),
        # everywhere
        (r"\.layer_norm", ".norm"),
        (r"\.o_proj\.", ".out_proj."),
    ]
]


def is_hf_state_dict(state_dict: dict[str, Tensor]) -> bool:
    """True if the names are those of transformers' SAM 2 classes."""
    return any(name.startswith("vision_encoder.") for name in state_dict)


def read_hf_options(folder: Path) -> dict[str, Any]:
    """Return the fields of `SAM2Config` set by a folder's `config.json`; empty without that file.

    Raises:
        CheckpointError: the file is not a JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text())
    except ValueError:
        raise CheckpointError(f"{path}: not JSON") from None
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: not a configuration")
    return {ours: settings[theirs] for theirs, ours in _OPTIONS.items() if theirs in settings}


def convert_hf_state_dict(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a `Sam2VideoModel` or `Sam2Model` to their official names.

    No tensor is copied. Unknown names pass through, so that the strict load reports them. Weights
    of a plain `Sam2Model` saved without the memory parts stay without them.

    Raises:
        CheckpointError: the two copies of the positional encoding's matrix differ, which the
            official model cannot represent.
    """
    source = dict(state_dict)
    image_matrix = source.pop(_IMAGE_MATRIX, None)
    if image_matrix is not None:
        # Some releases of transformers write one copy only.
        prompt_matrix = source.setdefault(_PROMPT_MATRIX, image_matrix)
        if not torch.equal(image_matrix, prompt_matrix):
            raise CheckpointError(
                f"{_IMAGE_MATRIX} and {_PROMPT_MATRIX} differ; SAM 2 has one matrix for both"
            )
    points = source.pop(_POINTS, None)
    converted = {_official_name(name): tensor for name, tensor in source.items()}
    if points is not None:
        for i, row in enumerate(points.split(1)):
            converted[f"sam_prompt_encoder.point_embeddings.{i}.weight"] = row
    return converted


def _official_name(name: str) -> str:
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    return name
