"""Mask decoder: predicts masks and scores from image and prompt embeddings (arXiv 2304.02643)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastsam2.modeling.sam2_utils import MLP, LayerNorm2d

__all__ = ["MaskDecoder"]


class MaskDecoder(nn.Module):
    """Predicts one mask, or three when the prompt is ambiguous, with their IoU and presence.

    Args:
        transformer_dim: channels C of image embedding and tokens.
        transformer: the two-way transformer.
        num_multimask_outputs: masks for an ambiguous prompt.
        use_high_res_features: add stride-8 and stride-4 features while upscaling.
        dynamic_multimask_via_stability: in evaluation, replace the single mask by the best of the
            three if its stability is below `dynamic_multimask_stability_thresh`; the stability is
            the IoU of the mask at thresholds `+-dynamic_multimask_stability_delta`.
        pred_obj_scores: predict whether the object is present.
        use_multimask_token_for_obj_ptr: return the token of each mask, not only of the first.
    """

    def __init__(
        self,
        *,
        transformer_dim: int,
        transformer: nn.Module,
        num_multimask_outputs: int = 3,
        activation: type[nn.Module] = nn.GELU,
        iou_head_depth: int = 3,
        iou_head_hidden_dim: int = 256,
        use_high_res_features: bool = False,
        iou_prediction_use_sigmoid: bool = False,
        dynamic_multimask_via_stability: bool = False,
        dynamic_multimask_stability_delta: float = 0.05,
        dynamic_multimask_stability_thresh: float = 0.98,
        pred_obj_scores: bool = False,
        pred_obj_scores_mlp: bool = False,
        use_multimask_token_for_obj_ptr: bool = False,
    ) -> None:
        super().__init__()
        dim = transformer_dim
        self.transformer_dim = dim
        self.transformer = transformer
        self.num_multimask_outputs = num_multimask_outputs
        self.num_mask_tokens = num_multimask_outputs + 1
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, dim)
        self.pred_obj_scores = pred_obj_scores
        if pred_obj_scores:
            self.obj_score_token = nn.Embedding(1, dim)
        self.use_multimask_token_for_obj_ptr = use_multimask_token_for_obj_ptr
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(dim // 4),
            activation(),
            nn.ConvTranspose2d(dim // 4, dim // 8, kernel_size=2, stride=2),
            activation(),
        )
        self.use_high_res_features = use_high_res_features
        if use_high_res_features:
            self.conv_s0 = nn.Conv2d(dim, dim // 8, kernel_size=1)
            self.conv_s1 = nn.Conv2d(dim, dim // 4, kernel_size=1)
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(dim, dim, dim // 8, 3) for _ in range(self.num_mask_tokens)
        )
        self.iou_prediction_head = MLP(
            dim,
            iou_head_hidden_dim,
            self.num_mask_tokens,
            iou_head_depth,
            sigmoid_output=iou_prediction_use_sigmoid,
        )
        if pred_obj_scores:
            self.pred_obj_score_head: nn.Module = (
                MLP(dim, dim, 1, 3) if pred_obj_scores_mlp else nn.Linear(dim, 1)
            )
        self.dynamic_multimask_via_stability = dynamic_multimask_via_stability
        self.dynamic_multimask_stability_delta = dynamic_multimask_stability_delta
        self.dynamic_multimask_stability_thresh = dynamic_multimask_stability_thresh

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
        repeat_image: bool,
        high_res_features: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decode masks.

        Args:
            image_embeddings: `[B, C, H, W]`, or `[1, C, H, W]` with `repeat_image`.
            image_pe: positions `[1, C, H, W]`.
            sparse_prompt_embeddings: `[B, T, C]`.
            dense_prompt_embeddings: `[B, C, H, W]`.
            multimask_output: return three masks instead of one.
            repeat_image: repeat the single image for every prompt.
            high_res_features: `[B, C / 8, 4 H, 4 W]` and `[B, C / 4, 2 H, 2 W]`.

        Returns:
            Mask logits `[B, M, 4 H, 4 W]`, predicted IoU `[B, M]`, output tokens `[B, 1 or 3, C]`
            and presence logits `[B, 1]`, where M is 3 or 1.
        """
        masks, ious, tokens, presence = self.predict_masks(
            image_embeddings=image_embeddings,
            image_pe=image_pe,
            sparse_prompt_embeddings=sparse_prompt_embeddings,
            dense_prompt_embeddings=dense_prompt_embeddings,
            repeat_image=repeat_image,
            high_res_features=high_res_features,
        )
        if multimask_output:
            masks, ious = masks[:, 1:], ious[:, 1:]
            # Without the option the object pointer always comes from the single-mask token, which
            # training uses for prompts of several clicks.
            chosen = slice(1, None) if self.use_multimask_token_for_obj_ptr else slice(0, 1)
            return masks, ious, tokens[:, chosen], presence
        if self.dynamic_multimask_via_stability and not self.training:
            masks, ious = self._dynamic_multimask_via_stability(masks, ious)
        else:
            masks, ious = masks[:, :1], ious[:, :1]
        return masks, ious, tokens[:, :1], presence

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        repeat_image: bool,
        high_res_features: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decode all four masks, IoUs and tokens, the single-mask one first; arguments and results
        as for `forward`."""
        embeddings = [self.iou_token.weight, self.mask_tokens.weight]
        if self.pred_obj_scores:
            embeddings.insert(0, self.obj_score_token.weight)
        batch = sparse_prompt_embeddings.shape[0]  # len() would not be traced
        output_tokens = torch.cat(embeddings).expand(batch, -1, -1)
        tokens = torch.cat((output_tokens, sparse_prompt_embeddings), dim=1)
        if repeat_image:
            image_embeddings = image_embeddings.repeat_interleave(batch, dim=0)
        elif image_embeddings.shape[0] != batch:
            raise ValueError(f"{image_embeddings.shape[0]} image embeddings for {batch} prompts")
        if image_pe.shape[0] != 1:
            raise ValueError(f"image_pe must have batch 1, not {image_pe.shape[0]}")
        src = image_embeddings + dense_prompt_embeddings

        hidden, image = self.transformer(src, image_pe, tokens)
        first = int(self.pred_obj_scores)
        iou_out = hidden[:, first]
        mask_tokens_out = hidden[:, first + 1 : first + 1 + self.num_mask_tokens]
        image = image.transpose(1, 2).reshape(src.shape)
        upscaled = self._upscale(image, high_res_features)
        weights = torch.stack(
            [mlp(mask_tokens_out[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)],
            dim=1,
        )
        masks = (weights @ upscaled.flatten(2)).unflatten(2, upscaled.shape[2:])
        ious = self.iou_prediction_head(iou_out)
        if self.pred_obj_scores:
            presence = self.pred_obj_score_head(hidden[:, 0])
        else:
            presence = ious.new_full((batch, 1), 10.0)  # sigmoid(10): present
        return masks, ious, mask_tokens_out, presence

    def _upscale(self, image: Tensor, high_res_features: list[Tensor] | None) -> Tensor:
        """Upscale by 4: `[B, C, H, W]` to `[B, C / 8, 4 H, 4 W]`."""
        if not self.use_high_res_features or high_res_features is None:
            return self.output_upscaling(image)
        up1, norm, act1, up2, act2 = self.output_upscaling
        stride4, stride8 = high_res_features
        return act2(up2(act1(norm(up1(image) + stride8))) + stride4)

    def _get_stability_scores(self, mask_logits: Tensor) -> Tensor:
        """Return the IoU `[B, M]` of each mask at thresholds +delta and -delta."""
        delta = self.dynamic_multimask_stability_delta
        logits = mask_logits.flatten(-2)
        inner = (logits > delta).sum(-1).float()
        outer = (logits > -delta).sum(-1).float()
        return torch.where(outer > 0, inner / outer, 1.0)

    def _dynamic_multimask_via_stability(
        self, all_mask_logits: Tensor, all_iou_scores: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Select the single mask if it is stable, else the one of three with the best predicted
        IoU."""
        single, single_iou = all_mask_logits[:, :1], all_iou_scores[:, :1]
        best = 1 + all_iou_scores[:, 1:].argmax(-1)
        rows = torch.arange(best.shape[0], device=best.device)
        best_mask = all_mask_logits[rows, best].unsqueeze(1)
        best_iou = all_iou_scores[rows, best].unsqueeze(1)
        stable = self._get_stability_scores(single) >= self.dynamic_multimask_stability_thresh
        masks = torch.where(stable[..., None, None], single, best_mask)
        return masks, torch.where(stable, single_iou, best_iou)
