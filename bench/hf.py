"""Benchmark peer: transformers' `Sam2VideoModel`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.clips import Clip, Prepared
from bench.peers import Setting, import_error, weights
from bench.rows import NAMES
from fastsam2.checkpoints.transformers_format import convert_hf_state_dict
from fastsam2.config import CONFIGS

__all__ = ["Transformers"]


class Transformers:
    """`Sam2VideoModel`, with weights in half precision, as in its documentation."""

    name = "transformers"

    def missing(self, setting: Setting) -> str:
        if setting.model == "nano":
            return "its configuration does not support nano"
        # Defines the ops of a missing torchvision binary; `sam2` itself is not needed.
        import_error("tests.reference")
        return import_error("transformers.models.sam2_video.modeling_sam2_video")

    def build(self, setting: Setting) -> Any:
        from transformers import Sam2VideoConfig, Sam2VideoModel

        config, grid = CONFIGS[setting.model], setting.image_size // 16
        trunk, dim = config.image_encoder.trunk, config.image_encoder.neck.d_model
        widths = list(config.image_encoder.neck.backbone_channel_list)
        backbone = {
            "model_type": "sam2_hiera_det_model",
            "image_size": [setting.image_size] * 2,
            "hidden_size": trunk.embed_dim,
            "num_attention_heads": trunk.num_heads,
            "blocks_per_stage": list(trunk.stages),
            "embed_dim_per_stage": widths[::-1],
            "num_attention_heads_per_stage": [trunk.num_heads * 2**i for i in range(4)],
            "window_size_per_stage": list(trunk.window_spec),
            "global_attention_blocks": list(trunk.global_att_blocks),
            "window_positional_embedding_background_size": list(
                trunk.window_pos_embed_bkg_spatial_size
            ),
        }
        model = Sam2VideoModel(
            Sam2VideoConfig(
                vision_config={
                    "model_type": "sam2_vision_model",
                    "backbone_config": backbone,
                    "backbone_channel_list": widths,
                    "backbone_feature_sizes": [[4 * grid] * 2, [2 * grid] * 2, [grid] * 2],
                    "fpn_hidden_size": dim,
                },
                prompt_encoder_config={"image_size": setting.image_size},
                image_size=setting.image_size,
                memory_attention_rope_feat_sizes=[grid, grid],
                enable_temporal_pos_encoding_for_object_pointers=config.add_tpos_enc_to_obj_ptrs,
                enable_occlusion_spatial_embedding=config.no_obj_embed_spatial,
            )
        ).eval()
        # Copy the official weights through views of its parameters under the official names.
        known, official = model.state_dict(), weights(setting.model)
        image_matrix = known.pop("shared_image_embedding.positional_embedding")
        for name, view in convert_hf_state_dict(known).items():
            view.copy_(official[name])
        matrix = "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
        image_matrix.copy_(official[matrix])
        return model.to(setting.device, NAMES[setting.dtype])

    def open(self, model: Any, setting: Setting, clip: Clip) -> Any:
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        dtype = NAMES[setting.dtype]
        session = Sam2VideoInferenceSession(
            video=None,
            video_height=clip.size[0],
            video_width=clip.size[1],
            inference_device=setting.device,
            inference_state_device=setting.device,
            video_storage_device=setting.device,
            dtype=dtype,
        )
        frames = Prepared(clip, setting.image_size, setting.device, dtype)
        session.processed_frames = {t: frames[t] for t in range(clip.length)}
        scale = torch.tensor([setting.image_size / clip.size[1], setting.image_size / clip.size[0]])
        for obj_id, box in enumerate(torch.as_tensor(clip.boxes, dtype=torch.float32)):
            corners = (box.view(1, 1, 2, 2) * scale).to(setting.device)
            labels = torch.tensor([[[2, 3]]], dtype=torch.int32, device=setting.device)
            inputs = {"point_coords": corners, "point_labels": labels}
            session.add_point_inputs(session.obj_id_to_idx(obj_id), 0, inputs)
        session.obj_with_new_inputs = list(range(len(clip.boxes)))
        return session

    def go(self, model: Any, state: Any, setting: Setting, start: int) -> Iterator[Tensor]:
        size = (state.video_height, state.video_width)
        frames = model.propagate_in_video_iterator(state, start_frame_idx=start)
        while True:
            with torch.inference_mode():
                found = next(frames, None)
                if found is None:
                    return
                masks = F.interpolate(
                    found.pred_masks.float(), size, mode="bilinear", align_corners=False
                )
            yield masks

    def outputs(self, state: Any) -> Iterator[dict[int, Any]]:
        for outputs in state.output_dict_per_obj.values():
            yield outputs["non_cond_frame_outputs"]
