"""SAM 2 as one module: weights, and methods from tensors to tensors.

The model keeps no state between frames. Methods with official names have the arguments and results
of those in `sam2.modeling.sam2_base`, so that programs can call, override and replace them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from fastsam2.errors import InputError, StateError
from fastsam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from fastsam2.modeling.memory_attention import MemoryAttention
from fastsam2.modeling.memory_encoder import MemoryEncoder
from fastsam2.modeling.memory_selection import MemorySelection, SelectionRules, select_memory
from fastsam2.modeling.sam.mask_decoder import MaskDecoder
from fastsam2.modeling.sam.prompt_encoder import PromptEncoder
from fastsam2.modeling.sam.transformer import TwoWayTransformer
from fastsam2.modeling.sam2_utils import (
    MLP,
    at_least_float32,
    get_1d_sine_pe,
    without_overlap,
)
from fastsam2_kernels.dispatch import Impl

__all__ = ["NO_OBJ_SCORE", "Heads", "SAM2Base", "decode_masks"]

#: Mask logit of every pixel where an object is absent.
NO_OBJ_SCORE = -1024.0


#: Outputs of the mask decoder for B objects: logits of all K masks `[B, K, S / 4, S / 4]` and
#: `[B, K, S, S]`, predicted IoU `[B, K]`, logits of the best mask `[B, 1, S / 4, S / 4]` and
#: `[B, 1, S, S]`, object pointer `[B, C]`, presence logits `[B, 1]`.
Heads = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class SAM2Base(nn.Module):
    """Image encoder, memory attention, memory encoder, prompt encoder and mask decoder.

    Arguments are those of the official class. Every option is an attribute; those that do not shape
    the weights are read at each call and may be changed between calls.

    Args:
        image_encoder, memory_attention, memory_encoder: the parts that are built elsewhere.
        sam_mask_decoder_extra_args: further arguments of `MaskDecoder`, and `depth`, `num_heads`
            and `mlp_dim` of its transformer.
    """

    fill_hole_area: int = 0  #: fill holes of at most this many pixels in the masks of a video
    impl: Impl = "auto"  #: implementation of the kernels
    runner: Any = None  #: compiles or records the engine's functions; None to run them eagerly

    def __init__(
        self,
        image_encoder: ImageEncoder,
        memory_attention: MemoryAttention,
        memory_encoder: MemoryEncoder,
        num_maskmem: int = 7,
        image_size: int = 512,
        backbone_stride: int = 16,
        sigmoid_scale_for_mem_enc: float = 1.0,
        sigmoid_bias_for_mem_enc: float = 0.0,
        binarize_mask_from_pts_for_mem_enc: bool = False,
        use_mask_input_as_output_without_sam: bool = False,
        max_cond_frames_in_attn: int = -1,
        directly_add_no_mem_embed: bool = False,
        use_high_res_features_in_sam: bool = False,
        multimask_output_in_sam: bool = False,
        multimask_min_pt_num: int = 1,
        multimask_max_pt_num: int = 1,
        multimask_output_for_tracking: bool = False,
        use_multimask_token_for_obj_ptr: bool = False,
        iou_prediction_use_sigmoid: bool = False,
        memory_temporal_stride_for_eval: int = 1,
        non_overlap_masks_for_mem_enc: bool = False,
        use_obj_ptrs_in_encoder: bool = False,
        max_obj_ptrs_in_encoder: int = 16,
        add_tpos_enc_to_obj_ptrs: bool = True,
        proj_tpos_enc_in_obj_ptrs: bool = False,
        use_signed_tpos_enc_to_obj_ptrs: bool = False,
        only_obj_ptrs_in_the_past_for_eval: bool = False,
        pred_obj_scores: bool = False,
        pred_obj_scores_mlp: bool = False,
        fixed_no_obj_ptr: bool = False,
        soft_no_obj_ptr: bool = False,
        use_mlp_for_obj_ptr_proj: bool = False,
        no_obj_embed_spatial: bool = False,
        sam_mask_decoder_extra_args: Mapping[str, Any] | None = None,
        compile_image_encoder: bool = False,
    ) -> None:
        super().__init__()
        self.num_maskmem = num_maskmem
        self.image_size = image_size
        self.backbone_stride = backbone_stride
        self.sigmoid_scale_for_mem_enc = sigmoid_scale_for_mem_enc
        self.sigmoid_bias_for_mem_enc = sigmoid_bias_for_mem_enc
        self.binarize_mask_from_pts_for_mem_enc = binarize_mask_from_pts_for_mem_enc
        self.use_mask_input_as_output_without_sam = use_mask_input_as_output_without_sam
        self.max_cond_frames_in_attn = max_cond_frames_in_attn
        self.directly_add_no_mem_embed = directly_add_no_mem_embed
        self.use_high_res_features_in_sam = use_high_res_features_in_sam
        self.multimask_output_in_sam = multimask_output_in_sam
        self.multimask_min_pt_num = multimask_min_pt_num
        self.multimask_max_pt_num = multimask_max_pt_num
        self.multimask_output_for_tracking = multimask_output_for_tracking
        self.use_multimask_token_for_obj_ptr = use_multimask_token_for_obj_ptr
        self.iou_prediction_use_sigmoid = iou_prediction_use_sigmoid
        self.memory_temporal_stride_for_eval = memory_temporal_stride_for_eval
        self.non_overlap_masks_for_mem_enc = non_overlap_masks_for_mem_enc
        self.use_obj_ptrs_in_encoder = use_obj_ptrs_in_encoder
        self.max_obj_ptrs_in_encoder = max_obj_ptrs_in_encoder
        self.add_tpos_enc_to_obj_ptrs = add_tpos_enc_to_obj_ptrs
        self.proj_tpos_enc_in_obj_ptrs = proj_tpos_enc_in_obj_ptrs
        self.use_signed_tpos_enc_to_obj_ptrs = use_signed_tpos_enc_to_obj_ptrs
        self.only_obj_ptrs_in_the_past_for_eval = only_obj_ptrs_in_the_past_for_eval
        self.pred_obj_scores = pred_obj_scores
        self.pred_obj_scores_mlp = pred_obj_scores_mlp
        self.fixed_no_obj_ptr = fixed_no_obj_ptr
        self.soft_no_obj_ptr = soft_no_obj_ptr
        self.use_mlp_for_obj_ptr_proj = use_mlp_for_obj_ptr_proj
        self.sam_mask_decoder_extra_args = sam_mask_decoder_extra_args
        self.compile_image_encoder = compile_image_encoder
        self.image_encoder = image_encoder
        self.memory_attention = memory_attention
        self.memory_encoder = memory_encoder
        self.num_feature_levels = 3 if use_high_res_features_in_sam else 1
        self.hidden_dim = dim = cast(FpnNeck, image_encoder.neck).d_model
        projection = memory_encoder.out_proj
        # Without a projection, memory is as wide as the features.
        self.mem_dim = projection.out_channels if isinstance(projection, nn.Conv2d) else dim
        self.sam_prompt_embed_dim = dim
        self.sam_image_embedding_size = grid = image_size // backbone_stride

        def embedding(*shape: int) -> nn.Parameter:
            return nn.Parameter(trunc_normal_(torch.zeros(shape), std=0.02))

        self.maskmem_tpos_enc = embedding(num_maskmem, 1, 1, self.mem_dim)
        self.no_mem_embed = embedding(1, 1, dim)
        self.no_mem_pos_enc = embedding(1, 1, dim)
        self.no_obj_embed_spatial = embedding(1, self.mem_dim) if no_obj_embed_spatial else None
        if pred_obj_scores and use_obj_ptrs_in_encoder:
            self.no_obj_ptr = embedding(1, dim)
        self.sam_prompt_encoder = PromptEncoder(
            embed_dim=dim,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        )
        self.sam_mask_decoder = _mask_decoder(self)
        self._build_pointer_heads()
        #: Class and children of every submodule as built, to detect replaced ones.
        self.built = {name: (type(m), tuple(m._modules)) for name, m in self.named_modules()}

    def _build_pointer_heads(self) -> None:
        dim = self.hidden_dim
        self.obj_ptr_proj: nn.Module = nn.Identity()
        self.obj_ptr_tpos_proj: nn.Module = nn.Identity()
        if self.use_obj_ptrs_in_encoder:
            # Resizes a mask prompt to the size of mask logits.
            self.mask_downsample = nn.Conv2d(1, 1, kernel_size=4, stride=4)
            mlp = self.use_mlp_for_obj_ptr_proj
            self.obj_ptr_proj = MLP(dim, dim, dim, 3) if mlp else nn.Linear(dim, dim)
        if self.proj_tpos_enc_in_obj_ptrs:
            self.obj_ptr_tpos_proj = nn.Linear(dim, self.mem_dim)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights, in which the model computes."""
        return next(self.parameters()).dtype

    @property
    def selection_rules(self) -> SelectionRules:
        """Rules of memory selection, from the current options."""
        return SelectionRules(
            num_maskmem=self.num_maskmem,
            max_cond_frames=self.max_cond_frames_in_attn,
            temporal_stride=1 if self.training else self.memory_temporal_stride_for_eval,
            use_obj_ptrs=self.use_obj_ptrs_in_encoder,
            max_obj_ptrs=self.max_obj_ptrs_in_encoder,
            signed_ptr_distance=self.use_signed_tpos_enc_to_obj_ptrs,
            only_past_ptrs=self.only_obj_ptrs_in_the_past_for_eval and not self.training,
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"{type(self).__name__} cannot be called directly: use SAM2ImagePredictor, "
            "SAM2VideoPredictor, or forward_image for features"
        )

    def forward_image(self, img_batch: Tensor) -> dict[str, Any]:
        """Encode normalised images `[B, 3, S, S]`.

        Returns:
            `vision_features` `[B, C, S / 16, S / 16]`; `backbone_fpn` and `vision_pos_enc`, lists
            of maps of strides 4, 8 and 16, the first two already projected for the mask decoder.
        """
        out = self.image_encoder(img_batch.to(self.dtype))
        if self.use_high_res_features_in_sam:
            fpn, decoder = out["backbone_fpn"], self.sam_mask_decoder
            out["backbone_fpn"] = [decoder.conv_s0(fpn[0]), decoder.conv_s1(fpn[1]), *fpn[2:]]
        return out

    def _prepare_backbone_features(
        self, backbone_out: dict[str, Any]
    ) -> tuple[dict[str, Any], list[Tensor], list[Tensor], list[tuple[int, int]]]:
        """Flatten the levels in use.

        Returns:
            A copy of `backbone_out`, features `[H * W, B, C]` and positions of each level, and
            sizes (H, W).
        """
        maps = backbone_out["backbone_fpn"][-self.num_feature_levels :]
        positions = backbone_out["vision_pos_enc"][-self.num_feature_levels :]
        sizes = [(x.shape[-2], x.shape[-1]) for x in positions]
        features = [x.flatten(2).permute(2, 0, 1) for x in maps]
        positions = [x.flatten(2).permute(2, 0, 1) for x in positions]
        return dict(backbone_out), features, positions, sizes

    def track_step(
        self,
        frame_idx: int,
        is_init_cond_frame: bool,
        current_vision_feats: Sequence[Tensor],
        current_vision_pos_embeds: Sequence[Tensor],
        feat_sizes: Sequence[tuple[int, int]],
        point_inputs: Mapping[str, Tensor] | None,
        mask_inputs: Tensor | None,
        output_dict: Mapping[str, Mapping[int, Mapping[str, Any]]],
        num_frames: int | None,
        track_in_reverse: bool = False,
        run_mem_encoder: bool = True,
        prev_sam_mask_logits: Tensor | None = None,
    ) -> dict[str, Any]:
        """Segment B objects on a frame, through the model's own modules and with gradients.

        Args:
            frame_idx: index of the frame.
            is_init_cond_frame: the frame is prompted before it was tracked; memory is not read.
            current_vision_feats: features of each level, `[H * W, B, C]`; see
                `_prepare_backbone_features`.
            current_vision_pos_embeds: their positions.
            feat_sizes: (H, W) of each level.
            point_inputs: `point_coords` in pixels of the model's input `[B, P, 2]`, and
                `point_labels` `[B, P]`.
            mask_inputs: mask prompts `[B, 1, S, S]`, instead of points.
            output_dict: outputs of earlier frames, by `"cond_frame_outputs"` and
                `"non_cond_frame_outputs"` and then by frame.
            num_frames: length of the video, None for a stream.
            track_in_reverse: tracking runs backward in time.
            run_mem_encoder: encode the result into memory.
            prev_sam_mask_logits: earlier mask logits that the points refine,
                `[B, 1, S / 4, S / 4]`.

        Returns:
            `point_inputs` and `mask_inputs` as given, `pred_masks` `[B, 1, S / 4, S / 4]`,
            `pred_masks_high_res` `[B, 1, S, S]`, `obj_ptr` `[B, C]`, `object_score_logits` `[B, 1]`
            (not in training), `maskmem_features` `[B, M, H, W]` and `maskmem_pos_enc`, a list of
            one such map (both None without the memory encoder).

        Raises:
            InputError: `prev_sam_mask_logits` without points, or with a mask.
            StateError: there is no conditioning frame to read.
        """
        *high_res, pix_feat = _maps(current_vision_feats, feat_sizes)
        if mask_inputs is not None and self.use_mask_input_as_output_without_sam:
            heads = self._use_mask_as_output(pix_feat, high_res or None, mask_inputs)
        else:
            conditioned = self._prepare_memory_conditioned_features(
                frame_idx=frame_idx,
                is_init_cond_frame=is_init_cond_frame,
                current_vision_feats=current_vision_feats[-1:],
                current_vision_pos_embeds=current_vision_pos_embeds[-1:],
                feat_sizes=feat_sizes[-1:],
                output_dict=output_dict,
                num_frames=num_frames,
                track_in_reverse=track_in_reverse,
            )
            prompt = mask_inputs
            if prev_sam_mask_logits is not None:
                if point_inputs is None or mask_inputs is not None:
                    raise InputError("prev_sam_mask_logits needs point_inputs, and no mask_inputs")
                prompt = prev_sam_mask_logits
            heads = self._forward_sam_heads(
                backbone_features=conditioned,
                point_inputs=point_inputs,
                mask_inputs=prompt,
                high_res_features=high_res or None,
                multimask_output=self._use_multimask(is_init_cond_frame, point_inputs),
            )
        _, _, _, low_res_masks, high_res_masks, obj_ptr, object_score_logits = heads
        memory: tuple[Tensor | None, list[Tensor] | None] = (None, None)
        if run_mem_encoder and self.num_maskmem > 0:
            memory = self._encode_new_memory(
                current_vision_feats=current_vision_feats,
                feat_sizes=feat_sizes,
                pred_masks_high_res=high_res_masks,
                object_score_logits=object_score_logits,
                is_mask_from_pts=point_inputs is not None,
            )
        # Unused in the loss, and DistributedDataParallel expects gradients for all outputs.
        presence = {} if self.training else {"object_score_logits": object_score_logits}
        return {
            "point_inputs": point_inputs,
            "mask_inputs": mask_inputs,
            "pred_masks": low_res_masks,
            "pred_masks_high_res": high_res_masks,
            "obj_ptr": obj_ptr,
            **presence,
            "maskmem_features": memory[0],
            "maskmem_pos_enc": memory[1],
        }

    def _prepare_memory_conditioned_features(
        self,
        frame_idx: int,
        is_init_cond_frame: bool,
        current_vision_feats: Sequence[Tensor],
        current_vision_pos_embeds: Sequence[Tensor],
        feat_sizes: Sequence[tuple[int, int]],
        output_dict: Mapping[str, Mapping[int, Mapping[str, Any]]],
        num_frames: int | None,
        track_in_reverse: bool = False,
    ) -> Tensor:
        """Condition a frame's features on memory; arguments as for `track_step`.

        Returns:
            `[B, C, H, W]`.
        """
        x, pos, size = current_vision_feats[-1], current_vision_pos_embeds[-1], feat_sizes[-1]
        rules = self.selection_rules
        if rules.num_maskmem == 0:
            return _map(x, size)
        if is_init_cond_frame:
            return _map(self._attend_to_no_memory(x, pos), size)
        if not output_dict["cond_frame_outputs"]:
            raise StateError(
                f"frame {frame_idx} has no conditioning frame to read: prompt one first"
            )
        selection = select_memory(
            frame_idx,
            output_dict["cond_frame_outputs"],
            output_dict["non_cond_frame_outputs"],
            rules,
            num_frames=num_frames,
            reverse=track_in_reverse,
        )
        return _map(self._attend_to_memory(x, pos, selection), size)

    def _attend_to_memory(self, x: Tensor, pos: Tensor, selection: MemorySelection) -> Tensor:
        """Run memory attention of a frame `x` `[H * W, B, C]` with positions `pos`.

        Args:
            selection: the memories to read; each output holds B objects.

        Returns:
            `[H * W, B, C]`.
        """
        tokens, positions = [], []
        for t_pos, output in selection.frames:
            memory, place = output["maskmem_features"], output["maskmem_pos_enc"][-1]
            time = self.maskmem_tpos_enc[self.num_maskmem - t_pos - 1]
            tokens.append(_tokens(memory.to(self.device, self.dtype, non_blocking=True)))
            positions.append(_tokens(place.to(self.device, self.dtype, non_blocking=True)) + time)
        num_obj_ptr_tokens = 0
        if selection.pointers:
            distances, pointers = zip(*selection.pointers, strict=True)
            scaled = torch.tensor([d / selection.pointer_span for d in distances], device=x.device)
            stacked = torch.stack(pointers, dim=1).to(self.device, self.dtype)
            pointer_tokens, pointer_pos = self.pointer_tokens(stacked, scaled)
            tokens.append(pointer_tokens.transpose(0, 1))
            positions.append(pointer_pos[:, None].expand_as(tokens[-1]))
            num_obj_ptr_tokens = len(tokens[-1])
        return self.memory_attention(
            curr=[x],
            curr_pos=[pos],
            memory=torch.cat(tokens),
            memory_pos=torch.cat(positions),
            num_obj_ptr_tokens=num_obj_ptr_tokens,
        )

    def _attend_to_no_memory(self, x: Tensor, pos: Tensor) -> Tensor:
        """Condition a frame on the no-memory embedding, for a prompt on a frame without memory."""
        if self.directly_add_no_mem_embed:
            return x + self.no_mem_embed
        batch = x.shape[1]
        return self.memory_attention(
            curr=[x],
            curr_pos=[pos],
            memory=self.no_mem_embed.expand(1, batch, self.mem_dim),
            memory_pos=self.no_mem_pos_enc.expand(1, batch, self.mem_dim),
            num_obj_ptr_tokens=0,
        )

    def pointer_tokens(self, pointers: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Split object pointers into memory tokens; a pointer is C / M tokens wide.

        Args:
            pointers: `[..., P, C]`.
            distances: temporal distance of each in units of the pointer span, float32 `[..., P]`.

        Returns:
            Tokens and their positions, `[..., P * C / M, M]` each.
        """
        pieces = self.hidden_dim // self.mem_dim
        tokens = pointers.unflatten(-1, (pieces, self.mem_dim)).flatten(-3, -2)
        if not self.add_tpos_enc_to_obj_ptrs:
            return tokens, tokens.new_zeros(*distances.shape[:-1], *tokens.shape[-2:])
        width = self.hidden_dim if self.proj_tpos_enc_in_obj_ptrs else self.mem_dim
        codes = get_1d_sine_pe(distances, width).to(self.dtype)
        return tokens, self.obj_ptr_tpos_proj(codes).repeat_interleave(pieces, dim=-2)

    def _forward_sam_heads(
        self,
        backbone_features: Tensor,
        point_inputs: Mapping[str, Tensor] | None = None,
        mask_inputs: Tensor | None = None,
        high_res_features: list[Tensor] | None = None,
        multimask_output: bool = False,
    ) -> Heads:
        """Decode masks, choose the best by predicted IoU, and compute its object pointer.

        Args:
            backbone_features: features conditioned on memory, `[B, C, H, W]`.
            point_inputs, mask_inputs: prompts as in `track_step`; mask logits of another size than
                `[B, 1, S / 4, S / 4]` are resized.
            high_res_features: maps of strides 4 and 8.
            multimask_output: choose among three masks.
        """
        batch, device = len(backbone_features), backbone_features.device
        if point_inputs is None:
            points = (
                torch.zeros(batch, 1, 2, device=device),
                torch.full((batch, 1), -1, dtype=torch.int32, device=device),
            )
        else:
            points = (point_inputs["point_coords"], point_inputs["point_labels"])
        size = self.sam_prompt_encoder.mask_input_size
        if mask_inputs is not None and mask_inputs.shape[-2:] != size:
            mask_inputs = F.interpolate(
                at_least_float32(mask_inputs), size, mode="bilinear", antialias=True
            )
        masks, ious, tokens, presence = decode_masks(
            self, backbone_features, high_res_features, points, mask_inputs, multimask_output
        )
        masks = at_least_float32(masks)
        if self.pred_obj_scores:
            masks = torch.where(presence[..., None, None] > 0, masks, NO_OBJ_SCORE)
        high_res_masks = self._upsample_masks(masks)
        best, best_high_res, token = masks, high_res_masks, tokens[:, 0]
        if multimask_output:
            index, rows = ious.argmax(-1), torch.arange(batch, device=device)
            best = masks[rows, index].unsqueeze(1)
            best_high_res = high_res_masks[rows, index].unsqueeze(1)
            if tokens.shape[1] > 1:
                token = tokens[rows, index]
        pointer = self._object_pointer(token, presence)
        return masks, high_res_masks, ious, best, best_high_res, pointer, presence

    def _use_mask_as_output(
        self,
        backbone_features: Tensor,
        high_res_features: list[Tensor] | None,
        mask_inputs: Tensor,
    ) -> Heads:
        """Use mask prompts `[B, 1, S, S]`, 1 inside and 0 outside, as output masks.

        The decoder only computes the object pointer. An object is present if its mask is not empty.
        """
        mask = at_least_float32(mask_inputs)
        # Logits of -10 and 10, whose sigmoid is 4.5e-5 from 0 and 1.
        high_res = 20.0 * mask - 10.0
        size = [n // 4 for n in high_res.shape[-2:]]
        low_res = F.interpolate(high_res, size, mode="bilinear", antialias=True)
        present = mask.flatten(1).gt(0).any(1, keepdim=True).to(self.dtype)
        if self.use_obj_ptrs_in_encoder:
            *_, pointer, _ = self._forward_sam_heads(
                backbone_features=backbone_features,
                mask_inputs=self.mask_downsample(mask.to(self.mask_downsample.weight.dtype)),
                high_res_features=high_res_features,
            )
        else:
            pointer = backbone_features.new_zeros(len(mask), self.hidden_dim)
        if self.pred_obj_scores:
            pointer = self._mix_no_object(pointer, present)
        ious, score = torch.ones_like(present), 20.0 * present - 10.0
        return low_res, high_res, ious, low_res, high_res, pointer, score

    def _object_pointer(self, token: Tensor, presence: Tensor) -> Tensor:
        """Return the object pointers `[B, C]` of output tokens `[B, C]` with presence logits
        `[B, 1]`."""
        pointer = self.obj_ptr_proj(token)
        if not self.pred_obj_scores:
            return pointer
        if self.fixed_no_obj_ptr and not self.soft_no_obj_ptr:
            return torch.where(presence > 0, pointer, self.no_obj_ptr)
        present = presence.sigmoid() if self.soft_no_obj_ptr else (presence > 0).to(pointer.dtype)
        return self._mix_no_object(pointer, present)

    def _mix_no_object(self, pointer: Tensor, present: Tensor) -> Tensor:
        if self.fixed_no_obj_ptr:
            pointer = present * pointer
        return pointer + (1 - present) * self.no_obj_ptr

    def _encode_new_memory(
        self,
        current_vision_feats: Sequence[Tensor],
        feat_sizes: Sequence[tuple[int, int]],
        pred_masks_high_res: Tensor,
        object_score_logits: Tensor,
        is_mask_from_pts: bool,
    ) -> tuple[Tensor, list[Tensor]]:
        """Encode a frame and its masks into memory.

        Args:
            current_vision_feats, feat_sizes: as in `track_step`.
            pred_masks_high_res: mask logits `[B, 1, S, S]`.
            object_score_logits: presence logits `[B, 1]`.
            is_mask_from_pts: the masks come from prompts.

        Returns:
            Memory `[B, M, H, W]`, and its positions, a list of one such map.
        """
        pix_feat = _map(current_vision_feats[-1], feat_sizes[-1])
        if self.non_overlap_masks_for_mem_enc and not self.training:
            pred_masks_high_res = self._apply_non_overlapping_constraints(pred_masks_high_res)
        binarize = self.binarize_mask_from_pts_for_mem_enc and is_mask_from_pts
        if binarize and not self.training:
            mask = (pred_masks_high_res > 0).to(pred_masks_high_res.dtype)
        else:
            mask = pred_masks_high_res.sigmoid()
        mask = mask * self.sigmoid_scale_for_mem_enc + self.sigmoid_bias_for_mem_enc
        out = self.memory_encoder(pix_feat, mask.to(self.dtype), skip_mask_sigmoid=True)
        features = out["vision_features"]
        if self.no_obj_embed_spatial is not None:
            absent = (object_score_logits <= 0)[..., None, None]
            embedding = self.no_obj_embed_spatial[..., None, None]
            features = torch.where(absent, features + embedding, features)
        return features, out["vision_pos_enc"]

    def _upsample_masks(self, low_res_masks: Tensor) -> Tensor:
        """Resize mask logits `[B, K, h, w]` to the model's input size, `[B, K, S, S]`."""
        size = (self.image_size, self.image_size)
        return F.interpolate(low_res_masks, size, mode="bilinear", align_corners=False)

    def _use_multimask(
        self, is_init_cond_frame: bool, point_inputs: Mapping[str, Any] | None
    ) -> bool:
        """True if the prompt is ambiguous enough to decode three masks."""
        num_points = 0 if point_inputs is None else point_inputs["point_labels"].shape[1]
        return (
            self.multimask_output_in_sam
            and (is_init_cond_frame or self.multimask_output_for_tracking)
            and self.multimask_min_pt_num <= num_points <= self.multimask_max_pt_num
        )

    def _apply_non_overlapping_constraints(self, pred_masks: Tensor) -> Tensor:
        """Call `without_overlap`; overridable under the official name."""
        return without_overlap(pred_masks)


def _map(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Reshape tokens `[H * W, B, C]` to a map `[B, C, H, W]`."""
    return x.permute(1, 2, 0).unflatten(2, size)


def _maps(levels: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    return [_map(x, size) for x, size in zip(levels, sizes, strict=True)]


def _tokens(x: Tensor) -> Tensor:
    """Flatten a map `[B, C, H, W]` to tokens `[H * W, B, C]`."""
    return x.flatten(2).permute(2, 0, 1)


def _mask_decoder(model: SAM2Base) -> MaskDecoder:
    extra = {
        "depth": 2,
        "num_heads": 8,
        "mlp_dim": 2048,
        **(model.sam_mask_decoder_extra_args or {}),
    }
    of_transformer = {name: extra.pop(name) for name in ("depth", "num_heads", "mlp_dim")}
    return MaskDecoder(
        transformer_dim=model.hidden_dim,
        transformer=TwoWayTransformer(embedding_dim=model.hidden_dim, **of_transformer),
        use_high_res_features=model.use_high_res_features_in_sam,
        iou_prediction_use_sigmoid=model.iou_prediction_use_sigmoid,
        pred_obj_scores=model.pred_obj_scores,
        pred_obj_scores_mlp=model.pred_obj_scores_mlp,
        use_multimask_token_for_obj_ptr=model.use_multimask_token_for_obj_ptr,
        **extra,
    )


def decode_masks(
    model: Any,
    pix_feat: Tensor,
    high_res_features: list[Tensor] | None,
    points: tuple[Tensor, Tensor] | None,
    mask_prompt: Tensor | None,
    multimask_output: bool,
    repeat_image: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the prompt encoder and the mask decoder.

    Args:
        model: a `SAM2Base`, or any module with the same prompt encoder and mask decoder.
        pix_feat: features `[B, C, H, W]`, conditioned on memory in a video.
        high_res_features: maps of strides 4 and 8.
        points: (x, y) in pixels of the model's input `[B, P, 2]`, and labels `[B, P]`.
        mask_prompt: mask logits `[B, 1, S / 4, S / 4]`.
        multimask_output: return three masks instead of one.
        repeat_image: `pix_feat` has batch 1 and serves all prompts.

    Returns:
        Mask logits `[B, K, S / 4, S / 4]`, predicted IoU `[B, K]`, output tokens `[B, K, C]` or
        `[B, 1, C]`, presence logits `[B, 1]`.
    """
    sparse, dense = model.sam_prompt_encoder(points=points, boxes=None, masks=mask_prompt)
    return model.sam_mask_decoder(
        image_embeddings=pix_feat,
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask_output,
        repeat_image=repeat_image,
        high_res_features=high_res_features,
    )
