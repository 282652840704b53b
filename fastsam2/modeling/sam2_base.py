"""The whole of SAM 2 as one module: weights, and pure functions from tensors to tensors.

Which memories are read, and what is kept between frames, is the engine's business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from fastsam2.config import SAM2Config
from fastsam2.modeling import frame_step, mask_answers
from fastsam2.modeling.backbones.hieradet import Hiera
from fastsam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from fastsam2.modeling.mask_answers import NO_OBJ_SCORE, MaskOutput
from fastsam2.modeling.memory_attention import MemoryAttention
from fastsam2.modeling.memory_encoder import MemoryEncoder
from fastsam2.modeling.position_encoding import PositionEmbeddingSine
from fastsam2.modeling.sam.mask_decoder import MaskDecoder
from fastsam2.modeling.sam.prompt_encoder import PromptEncoder
from fastsam2.modeling.sam.transformer import TwoWayTransformer
from fastsam2.modeling.sam2_utils import MLP, without_overlap
from fastsam2_kernels.dispatch import Impl

__all__ = ["NO_OBJ_SCORE", "MaskOutput", "SAM2Base"]


class SAM2Base(nn.Module):
    """Image encoder, memory attention, memory encoder, prompt encoder and mask decoder.

    Every scalar field of `SAM2Config` is an attribute; those that do not shape the weights are read
    at each call and may be changed between calls.
    """

    image_size: int
    backbone_stride: int
    num_maskmem: int
    sigmoid_scale_for_mem_enc: float
    sigmoid_bias_for_mem_enc: float
    binarize_mask_from_pts_for_mem_enc: bool
    non_overlap_masks_for_mem_enc: bool
    max_cond_frames_in_attn: int
    memory_temporal_stride_for_eval: int
    directly_add_no_mem_embed: bool
    use_obj_ptrs_in_encoder: bool
    max_obj_ptrs_in_encoder: int
    add_tpos_enc_to_obj_ptrs: bool
    proj_tpos_enc_in_obj_ptrs: bool
    use_signed_tpos_enc_to_obj_ptrs: bool
    only_obj_ptrs_in_the_past_for_eval: bool
    use_mask_input_as_output_without_sam: bool
    use_high_res_features_in_sam: bool
    multimask_output_in_sam: bool
    multimask_output_for_tracking: bool
    multimask_min_pt_num: int
    multimask_max_pt_num: int
    pred_obj_scores: bool
    fixed_no_obj_ptr: bool
    soft_no_obj_ptr: bool

    def __init__(self, config: SAM2Config) -> None:
        super().__init__()
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if not dataclasses.is_dataclass(value):
                setattr(self, field.name, value)
        neck = config.image_encoder.neck
        self.image_encoder = ImageEncoder(
            trunk=Hiera(**vars(config.image_encoder.trunk)),
            neck=FpnNeck(PositionEmbeddingSine(neck.d_model), **vars(neck)),
            scalp=config.image_encoder.scalp,
        )
        self.memory_attention = MemoryAttention(config.memory_attention)
        self.memory_encoder = MemoryEncoder(config.memory_encoder)
        self.num_feature_levels = 3 if config.use_high_res_features_in_sam else 1
        self.hidden_dim = dim = neck.d_model
        self.mem_dim = config.memory_encoder.out_dim
        self.sam_prompt_embed_dim = dim
        self.sam_image_embedding_size = grid = config.image_size // config.backbone_stride

        def embedding(*shape: int) -> nn.Parameter:
            return nn.Parameter(trunc_normal_(torch.zeros(shape), std=0.02))

        self.maskmem_tpos_enc = embedding(config.num_maskmem, 1, 1, self.mem_dim)
        self.no_mem_embed = embedding(1, 1, dim)
        self.no_mem_pos_enc = embedding(1, 1, dim)
        self.no_obj_embed_spatial = (
            embedding(1, self.mem_dim) if config.no_obj_embed_spatial else None
        )
        if config.pred_obj_scores and config.use_obj_ptrs_in_encoder:
            self.no_obj_ptr = embedding(1, dim)
        self.sam_prompt_encoder = PromptEncoder(
            embed_dim=dim,
            image_embedding_size=(grid, grid),
            input_image_size=(config.image_size, config.image_size),
            mask_in_chans=16,
        )
        self.sam_mask_decoder = _mask_decoder(config)
        self._build_pointer_heads(config)
        #: Class and children of every part, as built: what a client replaces differs.
        self.built = {name: (type(m), tuple(m._modules)) for name, m in self.named_modules()}

    decode_masks = mask_answers.decode_masks
    decode_all_masks = mask_answers.decode_all_masks
    choose_mask = mask_answers.choose_mask
    mask_as_output = mask_answers.mask_as_output
    _object_pointer = mask_answers.object_pointer
    _mix_no_object = mask_answers.mix_no_object

    # The interface of `sam2` to a single frame: dictionaries in and out.
    track_step = frame_step.track_step
    _prepare_memory_conditioned_features = frame_step.prepare_memory_conditioned_features
    _forward_sam_heads = frame_step.forward_sam_heads
    _use_mask_as_output = frame_step.use_mask_as_output
    _encode_new_memory = frame_step.encode_new_memory

    def _build_pointer_heads(self, config: SAM2Config) -> None:
        dim = self.hidden_dim
        self.obj_ptr_proj: nn.Module = nn.Identity()
        self.obj_ptr_tpos_proj: nn.Module = nn.Identity()
        if config.use_obj_ptrs_in_encoder:
            # Brings a mask prompt to the size of mask logits, so that it yields a pointer.
            self.mask_downsample = nn.Conv2d(1, 1, kernel_size=4, stride=4)
            mlp = config.use_mlp_for_obj_ptr_proj
            self.obj_ptr_proj = MLP(dim, dim, dim, 3) if mlp else nn.Linear(dim, dim)
        if config.proj_tpos_enc_in_obj_ptrs:
            self.obj_ptr_tpos_proj = nn.Linear(dim, self.mem_dim)

    @property
    def impl(self) -> Impl:
        """Which implementation of the kernels runs."""
        return "auto"

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights, in which the model computes."""
        return next(self.parameters()).dtype

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"{type(self).__name__} is not called itself: use SAM2ImagePredictor, "
            "SAM2VideoPredictor, or forward_image for features"
        )

    def forward_image(self, img_batch: Tensor) -> dict[str, Any]:
        """Features of normalised images `[B, 3, S, S]`.

        Returns:
            `vision_features` `[B, C, S / 16, S / 16]`; `backbone_fpn` and `vision_pos_enc`, lists
            of maps of strides 4, 8 and 16, the first two already as the mask decoder takes them.
        """
        out = self.image_encoder(img_batch.to(self.dtype))
        if self.use_high_res_features_in_sam:
            fpn, decoder = out["backbone_fpn"], self.sam_mask_decoder
            out["backbone_fpn"] = [decoder.conv_s0(fpn[0]), decoder.conv_s1(fpn[1]), *fpn[2:]]
        return out

    def _prepare_backbone_features(
        self, backbone_out: dict[str, Any]
    ) -> tuple[dict[str, Any], list[Tensor], list[Tensor], list[tuple[int, int]]]:
        """The levels in use as `[H * W, B, C]`: outputs, features, positions and sizes (H, W)."""
        maps = backbone_out["backbone_fpn"][-self.num_feature_levels :]
        positions = backbone_out["vision_pos_enc"][-self.num_feature_levels :]
        sizes = [(x.shape[-2], x.shape[-1]) for x in positions]
        features = [x.flatten(2).permute(2, 0, 1) for x in maps]
        positions = [x.flatten(2).permute(2, 0, 1) for x in positions]
        return dict(backbone_out), features, positions, sizes

    def attend_to_memory(
        self,
        pix_feat: Tensor,
        pix_pos: Tensor,
        memory: Tensor,
        memory_pos: Tensor,
        num_obj_ptr_tokens: int,
    ) -> Tensor:
        """Condition a frame on memory.

        Args:
            pix_feat: image features `[B, C, H, W]`.
            pix_pos: their positions.
            memory: tokens `[M, B, mem_dim]`, the last `num_obj_ptr_tokens` of them pointers.
            memory_pos: their positions.

        Returns:
            `[B, C, H, W]`.
        """
        out = self.memory_attention(
            curr=[pix_feat.flatten(2).permute(2, 0, 1)],
            curr_pos=[pix_pos.flatten(2).permute(2, 0, 1)],
            memory=memory,
            memory_pos=memory_pos,
            num_obj_ptr_tokens=num_obj_ptr_tokens,
        )
        return out.permute(1, 2, 0).reshape(pix_feat.shape)

    def without_memory(self, pix_feat: Tensor, pix_pos: Tensor) -> Tensor:
        """As `attend_to_memory`, for a frame that is prompted before anything is remembered."""
        if self.directly_add_no_mem_embed:
            return pix_feat + self.no_mem_embed.reshape(1, -1, 1, 1)
        batch = len(pix_feat)
        token = self.no_mem_embed.expand(1, batch, self.mem_dim)
        token_pos = self.no_mem_pos_enc.expand(1, batch, self.mem_dim)
        return self.attend_to_memory(pix_feat, pix_pos, token, token_pos, 0)

    def upsample_masks(self, low_res_masks: Tensor) -> Tensor:
        """Mask logits `[B, 1, h, w]` at the model's input size `[B, 1, S, S]`."""
        size = (self.image_size, self.image_size)
        return F.interpolate(low_res_masks, size, mode="bilinear", align_corners=False)

    def encode_memory(
        self,
        pix_feat: Tensor,
        high_res_masks: Tensor,
        object_score_logits: Tensor,
        is_mask_from_pts: bool,
    ) -> tuple[Tensor, list[Tensor]]:
        """Turn a frame and its masks into memory.

        Args:
            pix_feat: image features, not conditioned on memory, `[B, C, H, W]`.
            high_res_masks: mask logits `[B, 1, S, S]`.
            object_score_logits: presence logits `[B, 1]`.
            is_mask_from_pts: the mask answers a prompt.

        Returns:
            Memory `[B, mem_dim, H, W]`, and its positions, a list of one such map.
        """
        if self.non_overlap_masks_for_mem_enc and not self.training:
            high_res_masks = self._apply_non_overlapping_constraints(high_res_masks)
        binarize = self.binarize_mask_from_pts_for_mem_enc and is_mask_from_pts
        if binarize and not self.training:
            mask = (high_res_masks > 0).to(high_res_masks.dtype)
        else:
            mask = high_res_masks.sigmoid()
        mask = mask * self.sigmoid_scale_for_mem_enc + self.sigmoid_bias_for_mem_enc
        out = self.memory_encoder(pix_feat, mask.to(self.dtype), skip_mask_sigmoid=True)
        features = out["vision_features"]
        if self.no_obj_embed_spatial is not None:
            absent = (object_score_logits <= 0)[..., None, None]
            embedding = self.no_obj_embed_spatial[..., None, None]
            features = torch.where(absent, features + embedding, features)
        return features, out["vision_pos_enc"]

    def _use_multimask(
        self, is_init_cond_frame: bool, point_inputs: Mapping[str, Any] | None
    ) -> bool:
        """Whether these points on such a frame are ambiguous enough for three masks."""
        num_points = 0 if point_inputs is None else point_inputs["point_labels"].shape[1]
        return (
            self.multimask_output_in_sam
            and (is_init_cond_frame or self.multimask_output_for_tracking)
            and self.multimask_min_pt_num <= num_points <= self.multimask_max_pt_num
        )

    def _apply_non_overlapping_constraints(self, pred_masks: Tensor) -> Tensor:
        """`without_overlap`, under the name that programs call."""
        return without_overlap(pred_masks)


def _mask_decoder(config: SAM2Config) -> MaskDecoder:
    dim, extra = config.image_encoder.neck.d_model, config.sam_mask_decoder_extra_args
    return MaskDecoder(
        transformer_dim=dim,
        transformer=TwoWayTransformer(extra.depth, dim, extra.num_heads, extra.mlp_dim),
        use_high_res_features=config.use_high_res_features_in_sam,
        iou_prediction_use_sigmoid=config.iou_prediction_use_sigmoid,
        dynamic_multimask_via_stability=extra.dynamic_multimask_via_stability,
        dynamic_multimask_stability_delta=extra.dynamic_multimask_stability_delta,
        dynamic_multimask_stability_thresh=extra.dynamic_multimask_stability_thresh,
        pred_obj_scores=config.pred_obj_scores,
        pred_obj_scores_mlp=config.pred_obj_scores_mlp,
        use_multimask_token_for_obj_ptr=config.use_multimask_token_for_obj_ptr,
    )
