"""Training objective of nano: run a clip through the model and compute the losses.

The recipe follows SAM 2 (arXiv 2408.00714, appendix C.2) at a small scale: short clips, many
objects per frame (they share its features), and supervision of all four mask tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsam2.modeling.click_sampling import get_next_point, sample_box_points
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2.predictors.object_memory import ObjectMemory
from fastsam2.types import FrameOutput

__all__ = ["ClipBatch", "Losses", "clip_losses", "resize_model"]


@dataclass(frozen=True)
class ClipBatch:
    """C clips of T frames with N objects in total."""

    images: Tensor  #: normalised, `[C, T, 3, S, S]`
    masks: Tensor  #: bool `[N, T, S, S]`
    clip: Tensor  #: clip index of each object, `[N]`
    burn_in: int = 0  #: frames after the first that are tracked without learning

    def to(self, device: torch.device) -> ClipBatch:
        return replace(
            self,
            images=self.images.to(device),
            masks=self.masks.to(device),
            clip=self.clip.to(device),
        )


@dataclass(frozen=True)
class Losses:
    """Means over the batch; `total` is minimised."""

    total: Tensor
    mask: Tensor
    dice: Tensor
    iou: Tensor
    presence: Tensor
    first_iou: Tensor  #: true IoU of the masks on the prompted frame
    tracked_iou: Tensor  #: true IoU on later frames; NaN if there are none


@dataclass
class _Answer:
    """The four masks of N objects on one frame, and the selected one."""

    masks: Tensor  #: logits `[N, 4, h, w]`
    ious: Tensor  #: predicted, `[N, 4]`
    presence: Tensor  #: logits `[N, 1]`
    tokens: Tensor  #: `[N, 4, D]`
    shown: Tensor  #: index of the shown mask, `[N]`

    @property
    def mask(self) -> Tensor:
        rows = torch.arange(len(self.shown), device=self.shown.device)
        return self.masks[rows, self.shown].unsqueeze(1)

    @property
    def token(self) -> Tensor:
        rows = torch.arange(len(self.shown), device=self.shown.device)
        return self.tokens[rows, self.shown]


def resize_model(model: SAM2Base, image_size: int) -> None:
    """Set the model's image size, in place; no weight depends on it."""
    grid = image_size // model.backbone_stride
    model.image_size = image_size
    model.sam_image_embedding_size = grid
    encoder = model.sam_prompt_encoder
    encoder.input_image_size = (image_size, image_size)
    encoder.image_embedding_size = (grid, grid)
    encoder.mask_input_size = (4 * grid, 4 * grid)


def clip_losses(
    model: SAM2Base,
    batch: ClipBatch,
    generator: torch.Generator,
    refine: float = 0.3,
    masks: float = 0.3,
) -> Losses:
    """Prompt every object on the first frame, track it through the clip, and sum the losses.

    Burn-in frames cost a third of those learnt from, and yield memories as old and as inaccurate as
    those of a long video.

    Args:
        model: nano, in training mode.
        batch: clips and masks.
        generator: source of randomness, on the CPU.
        refine: probability that the first mask is corrected by a click.
        masks: probability that the prompts are the true masks.
    """
    frames = batch.images.shape[1]
    features, position = _features(model, batch)
    position = position[:1].expand(len(batch.clip), -1, -1, -1)
    memory = ObjectMemory()
    terms: list[dict[str, Tensor]] = []
    by_mask = float(torch.rand((), generator=generator)) < masks
    for t in range(frames):
        # Each object sees the features of its own clip.
        *high_res, pix_feat = (x[batch.clip] for x in features[t])
        truth = batch.masks[:, t]
        learns = t == 0 or t > batch.burn_in
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            answers: list[_Answer] = []
            if t == 0 and by_mask:
                answers.append(_given_mask(model, pix_feat, high_res, truth))
            elif t == 0:
                given = _conditioned(model, pix_feat, position, t, memory)
                answers += _prompted(model, given, high_res, truth, generator, refine)
            else:
                given = _conditioned(model, pix_feat, position, t, memory)
                answers.append(_decode(model, given, high_res, None, None, multimask=None))
            if learns:
                terms += [_frame_losses(answer, truth, tracked=t > 0) for answer in answers]
            if t + 1 < frames:
                true_mask = (1.0 if by_mask else 0.5) if t == 0 else None
                output = _remember(
                    model,
                    answers[-1],
                    pix_feat,
                    truth,
                    true_mask=true_mask,
                    true_presence=0.5 if learns else 0.0,
                    generator=generator,
                )
                kept = memory.cond_frame_outputs if t == 0 else memory.non_cond_frame_outputs
                kept[t] = output
        if not learns:
            # PyTorch 2.7 would reuse casts of weights that were made without gradients.
            torch.clear_autocast_cache()
    return _sum(terms)


def _features(model: SAM2Base, batch: ClipBatch) -> tuple[list[list[Tensor]], Tensor]:
    """Encode all frames.

    Returns:
        Feature maps of each frame, from high to low resolution, `[C, c, h, w]` each; and position
        encodings of the last.
    """
    clips, frames = batch.images.shape[:2]
    features: list[list[Tensor]] = [[] for _ in range(frames)]

    def encode(chosen: list[int]) -> Tensor:
        backbone = model.forward_image(batch.images[:, chosen].flatten(0, 1))
        for level in backbone["backbone_fpn"][-model.num_feature_levels :]:
            for t, x in zip(chosen, level.unflatten(0, (clips, -1)).unbind(1), strict=True):
                features[t].append(x)
        return backbone["vision_pos_enc"][-1]

    position = encode([0, *range(1 + batch.burn_in, frames)])
    if batch.burn_in:
        with torch.no_grad():
            encode(list(range(1, 1 + batch.burn_in)))
    return features, position


def _conditioned(
    model: SAM2Base, pix_feat: Tensor, position: Tensor, frame_idx: int, memory: ObjectMemory
) -> Tensor:
    """Features `[N, C, H, W]` conditioned on memory; the first frame is prompted without any."""
    return model._prepare_memory_conditioned_features(
        frame_idx=frame_idx,
        is_init_cond_frame=frame_idx == 0,
        current_vision_feats=[pix_feat.flatten(2).permute(2, 0, 1)],
        current_vision_pos_embeds=[position.flatten(2).permute(2, 0, 1)],
        feat_sizes=[(pix_feat.shape[-2], pix_feat.shape[-1])],
        output_dict=memory,
        num_frames=None,
    )


def _decode(
    model: SAM2Base,
    pix_feat: Tensor,
    high_res: list[Tensor],
    points: tuple[Tensor, Tensor] | None,
    previous: Tensor | None,
    multimask: Tensor | None,
) -> _Answer:
    """Run prompt encoder and mask decoder.

    The selected mask is the best of three, or the single one where `multimask` `[N]` is False.
    """
    count, device = len(pix_feat), pix_feat.device
    if points is None:
        labels = torch.full((count, 1), -1, dtype=torch.int32, device=device)
        points = (torch.zeros(count, 1, 2, device=device), labels)
    sparse, dense = model.sam_prompt_encoder(points=points, boxes=None, masks=previous)
    masks, ious, tokens, presence = model.sam_mask_decoder.predict_masks(
        image_embeddings=pix_feat,
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        repeat_image=False,
        high_res_features=high_res,
    )
    shown = 1 + ious[:, 1:].argmax(1)
    if multimask is not None:
        shown = torch.where(multimask, shown, 0)
    return _Answer(masks.float(), ious.float(), presence.float(), tokens, shown)


def _prompted(
    model: SAM2Base,
    pix_feat: Tensor,
    high_res: list[Tensor],
    truth: Tensor,
    generator: torch.Generator,
    refine: float,
) -> list[_Answer]:
    """Prompt each object with a click or a box; with probability `refine`, add a correction."""
    count, device = len(truth), truth.device
    click = torch.rand(count, generator=generator).to(device) < 0.7
    centre = torch.rand(count, generator=generator).to(device) < 0.5
    masks = truth[:, None]
    random_point, positive = get_next_point(masks, None, "uniform")
    # On a coarse grid: finding the centre at full resolution would cost more than the model.
    coarse = truth.shape[-1] // 4
    central_point, _ = get_next_point(_shrink(truth, coarse) > 0.5, None, "center")
    central_point = central_point * 4 + 2
    point = torch.where(centre[:, None, None], central_point, random_point)
    corners, corner_labels = sample_box_points(masks)
    nothing = torch.full_like(positive, -1)
    coords = torch.where(
        click[:, None, None], torch.cat([point, torch.zeros_like(point)], dim=1), corners
    )
    labels = torch.where(
        click[:, None], torch.cat([positive, nothing], dim=1), corner_labels.to(positive.dtype)
    )
    # A click is ambiguous, a box is not.
    answers = [_decode(model, pix_feat, high_res, (coords, labels), None, multimask=click)]
    if float(torch.rand((), generator=generator)) < refine:
        shown = answers[0].mask.detach()
        seen = F.interpolate(shown, truth.shape[-2:], mode="bilinear", align_corners=False) > 0
        extra, extra_labels = get_next_point(masks, seen, "uniform")
        points = (torch.cat([coords, extra], 1), torch.cat([labels, extra_labels], 1))
        previous = shown.clamp(-32.0, 32.0).to(pix_feat.dtype)
        single = torch.zeros_like(click)
        answers.append(_decode(model, pix_feat, high_res, points, previous, multimask=single))
    return answers


def _given_mask(
    model: SAM2Base, pix_feat: Tensor, high_res: list[Tensor], truth: Tensor
) -> _Answer:
    """Decode a given mask into a pointer, as `SAM2Base._use_mask_as_output`."""
    prompt = model.mask_downsample(truth[:, None].to(model.dtype))
    single = torch.zeros(len(truth), dtype=torch.bool, device=truth.device)
    return _decode(model, pix_feat, high_res, None, prompt, multimask=single)


def _remember(
    model: SAM2Base,
    answer: _Answer,
    pix_feat: Tensor,
    truth: Tensor,
    *,
    true_mask: float | None,
    true_presence: float,
    generator: torch.Generator,
) -> FrameOutput:
    """Encode the memory of a frame from the predicted or the true mask.

    Args:
        true_mask: probability of using the true mask; None on a frame without a prompt.
        true_presence: probability of using the true presence to hide the mask of an absent object:
            the predicted presence, wrong at first, would leave nothing to track.
    """
    present = truth.flatten(1).any(1, keepdim=True)
    low_res = answer.mask
    presence = answer.presence
    if true_mask is not None:
        given = torch.rand(len(truth), 1, generator=generator).to(truth.device) < true_mask
        mask = _shrink(truth, low_res.shape[-1]) * 20.0 - 10.0
        low_res = torch.where(given[..., None, None], mask, low_res)
        presence = torch.where(given, torch.where(present, 10.0, -10.0), presence)
    trust = torch.rand(len(truth), 1, generator=generator).to(truth.device) < true_presence
    shown = torch.where(trust, torch.where(present, 10.0, -10.0), presence)
    hidden = torch.where(shown[..., None, None] > 0, low_res, -1024.0)
    features, pos_enc = model._encode_new_memory(
        current_vision_feats=[pix_feat.flatten(2).permute(2, 0, 1)],
        feat_sizes=[(pix_feat.shape[-2], pix_feat.shape[-1])],
        pred_masks_high_res=model._upsample_masks(hidden),
        object_score_logits=shown,
        is_mask_from_pts=true_mask is not None,
    )
    return FrameOutput(
        maskmem_features=features,
        maskmem_pos_enc=pos_enc,
        pred_masks=hidden,
        obj_ptr=model._object_pointer(answer.token, shown.to(answer.token.dtype)),
        object_score_logits=shown,
    )


def _shrink(masks: Tensor, side: int) -> Tensor:
    """Downsample bool `[N, S, S]` to coverage in 0..1, `[N, 1, side, side]`."""
    return F.adaptive_avg_pool2d(masks[:, None].float(), side)


def _frame_losses(answer: _Answer, truth: Tensor, tracked: bool) -> dict[str, Tensor]:
    target = _shrink(truth, answer.masks.shape[-1])
    present = truth.flatten(1).any(1).float()
    weight = present / present.sum().clamp(min=1)
    focal = _focal(answer.masks, target).flatten(2).mean(2)
    dice = _dice(answer.masks, target)
    with torch.no_grad():
        inside, wanted = answer.masks > 0, target > 0.5
        union = (inside | wanted).flatten(2).sum(2).clamp(min=1)
        true_iou = (inside & wanted).flatten(2).sum(2) / union
    # Full weight for the single mask and mainly the best of three; some for all three.
    mask_terms = 5.0 * focal + 2.0 * dice
    best = mask_terms[:, 1:].min(1).values
    mask_loss = mask_terms[:, 0] + 0.7 * best + 0.3 * mask_terms[:, 1:].mean(1)
    rows = torch.arange(len(truth), device=truth.device)
    return {
        "mask": (mask_loss * weight).sum(),
        "dice": (dice[rows, answer.shown] * weight).sum(),
        "iou": ((answer.ious - true_iou).abs().mean(1) * weight).sum(),
        "presence": F.binary_cross_entropy_with_logits(answer.presence[:, 0], present),
        "tracked_iou" if tracked else "first_iou": (true_iou[rows, answer.shown] * weight).sum(),
    }


def _focal(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Focal loss (arXiv 1708.02002) with equal class weights, for soft targets."""
    error = (logits.sigmoid() - target).abs()
    cross_entropy = F.binary_cross_entropy_with_logits(
        logits, target.expand_as(logits), reduction="none"
    )
    return error**gamma * cross_entropy


def _dice(logits: Tensor, target: Tensor) -> Tensor:
    """Dice loss `[N, M]` of mask logits `[N, M, h, w]`."""
    chance, target = logits.sigmoid().flatten(2), target.flatten(2)
    overlap = 2 * (chance * target).sum(2)
    return 1 - (overlap + 1) / (chance.sum(2) + target.sum(2) + 1)


def _sum(terms: list[dict[str, Tensor]]) -> Losses:
    def mean(name: str) -> Tensor:
        found = [term[name] for term in terms if name in term]
        return torch.stack(found).mean() if found else torch.tensor(float("nan"))

    mask, iou, presence = mean("mask"), mean("iou"), mean("presence")
    return Losses(
        total=mask + iou + presence,
        mask=mask.detach(),
        dice=mean("dice").detach(),
        iou=iou.detach(),
        presence=presence.detach(),
        first_iou=mean("first_iou").detach(),
        tracked_iou=mean("tracked_iou").detach(),
    )
