"""Compatibility with `sam2`: the model as an `nn.Module` whose parts are the ones that run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.compat.clients import (
    SIZE,
    TINY,
    Client,
    Package,
    agree,
    assert_same,
    click,
    logits_of,
    overrides,
)

Both = tuple[Package, Package]


def short_session(package: Package, video: Path) -> Any:
    """One object: clicked, tracked, corrected by a mask, tracked again."""
    predictor = package.predictor
    state = predictor.init_state(str(video))
    click(package, state)
    shown = logits_of(predictor.propagate_in_video(state, max_frame_num_to_track=2))
    mask = torch.zeros(120, 160, dtype=torch.bool)
    mask[30:90, 40:110] = True
    shown.append(predictor.add_new_mask(state, 3, 1, mask))
    return shown + logits_of(predictor.propagate_in_video(state, start_frame_idx=3))


# Weights


def test_state_dicts_fit_both_ways(fresh: Both, video: Path) -> None:
    """Each package loads the other's state dict, strictly and with all values."""
    ref, ours = (p.predictor for p in fresh)
    assert set(ours.state_dict()) == set(ref.state_dict())
    for source, target in ((ref, ours), (ours, ref)):
        changed = {k: v * 0.9 for k, v in source.state_dict().items()}
        missing, unexpected = target.load_state_dict(changed, strict=True)
        assert not missing
        assert not unexpected
        assert all(torch.equal(v, changed[k]) for k, v in target.state_dict().items())
    with pytest.raises(RuntimeError, match="no_mem_embed"):
        ours.load_state_dict({k: v for k, v in changed.items() if k != "no_mem_embed"})


def load_as_trainers_do(package: Package, weights: Path) -> Any:
    """lang-sam builds without weights and loads them itself."""
    model = package.module("build_sam").build_sam2(
        TINY, None, device="cpu", mode="eval", hydra_overrides_extra=overrides()
    )
    state_dict = torch.load(weights, map_location="cpu", weights_only=True)["model"]
    model.load_state_dict(state_dict, strict=True)
    package.module("build_sam")._load_checkpoint(model, str(weights))
    base = package.module("modeling.sam2_base").SAM2Base
    assert isinstance(model, base)
    assert isinstance(package.predictor, base)
    model.image_encoder.eval()
    model.sam_mask_decoder.train(True)
    frozen = [p.requires_grad_(False) for p in model.image_encoder.parameters()]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return len(frozen), trained, model.image_encoder.training, model.sam_mask_decoder.training


@pytest.mark.slow
def test_load_as_trainers_do(packages: Both, weights: Path) -> None:
    assert not isinstance(agree(load_as_trainers_do, packages, weights), Exception)


# Parts replaced, wrapped and watched


class Recorder(nn.Module):
    """A wrapper like that of `torch.compile`; records its arguments and forwards them."""

    def __init__(self, inner: nn.Module, notes: list[Any]) -> None:
        super().__init__()
        self.inner = inner
        self.notes = notes

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.notes.append(shapes((list(args), kwargs)))
        return self.inner(*args, **kwargs)


def shapes(value: Any) -> Any:
    """Return the structure of arguments, with tensors replaced by their shapes."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, dict):
        return {key: shapes(value[key]) for key in sorted(value)}
    return [shapes(x) for x in value] if isinstance(value, (list, tuple)) else value


WRAPPED = ["image_encoder", "memory_attention", "memory_encoder"]


def wrapped(package: Package, video: Path) -> Any:
    """Each part is called as often as by `sam2`, with arguments of the same names and shapes."""
    notes: dict[str, list[Any]] = {name: [] for name in WRAPPED}
    for name, note in notes.items():
        setattr(package.predictor, name, Recorder(getattr(package.predictor, name), note))
    shown = short_session(package, video)
    assert all(notes.values())
    return shown, notes


HEADS = ["sam_prompt_encoder", "sam_mask_decoder", "obj_ptr_proj", "mask_downsample"]


def watched_heads(package: Package, video: Path) -> Any:
    """The heads through hooks: wrapping them would hide `conv_s0` and `get_dense_pe`."""
    notes: dict[str, list[Any]] = {name: [] for name in HEADS}

    def watch(name: str) -> None:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            notes[name].append((shapes(args), shapes(kwargs), shapes(output)))

        getattr(package.predictor, name).register_forward_hook(hook, with_kwargs=True)

    for name in HEADS:
        watch(name)
    short_session(package, video)
    return notes


def forward_replaced(package: Package, video: Path) -> Any:
    """Meta's benchmark and cvat put compiled functions in place of `forward`."""
    predictor = package.predictor
    calls: list[str] = []

    def replace(path: str, scale: float) -> None:
        module = predictor.get_submodule(path)
        inner = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            calls.append(path)
            out = inner(*args, **kwargs)
            return out * scale if isinstance(out, Tensor) else out

        module.forward = forward

    replace("image_encoder.trunk", 1.0)
    replace("image_encoder.neck", 1.0)
    replace("memory_attention", 0.9)
    replace("memory_encoder", 1.0)
    replace("sam_prompt_encoder", 1.0)
    replace("sam_mask_decoder", 1.0)
    replace("sam_mask_decoder.transformer", 1.0)
    replace("memory_attention.layers.1.cross_attn_image", 0.8)
    replace("memory_encoder.mask_downsampler", 1.1)
    return short_session(package, video), calls


def outputs_changed_by_hooks(package: Package, video: Path) -> Any:
    """A hook that returns a value replaces the output, at any depth."""
    for path in (
        "image_encoder.trunk.blocks.3",
        "image_encoder.neck.convs.2",
        "memory_attention.layers.0.self_attn",
        "memory_attention.layers.0.linear2",
        "memory_encoder.fuser.layers.0",
        "memory_encoder.pix_feat_proj",
        "sam_mask_decoder.conv_s0",
        "sam_mask_decoder.output_hypernetworks_mlps.2",
        "sam_prompt_encoder.mask_downscaling",
        "obj_ptr_proj",
        "obj_ptr_tpos_proj",
    ):
        package.predictor.get_submodule(path).register_forward_hook(
            lambda module, args, output: output * 0.9
        )
    return short_session(package, video)


CHANGES: list[Client] = [wrapped, watched_heads, forward_replaced, outputs_changed_by_hooks]


@pytest.mark.slow
@pytest.mark.parametrize("client", CHANGES)
def test_changed_parts(client: Client, fresh: Both, video: Path) -> None:
    result = agree(client, fresh, video)
    assert not isinstance(result, Exception), result


def test_every_part_runs(fresh: Both, video: Path) -> None:
    """Every module of `sam2` with weights is called equally often here, by the same name."""
    counts: list[dict[str, int]] = []
    for package in fresh:
        seen: dict[str, int] = {}
        for name, module in package.predictor.named_modules():
            if any(True for _ in module.parameters()) and name:
                module.register_forward_hook(
                    lambda *_, name=name, seen=seen: seen.update({name: seen.get(name, 0) + 1})
                )
        with package.exact():
            short_session(package, video)
        counts.append(seen)
    expected, actual = counts
    assert len(expected) > 200
    different = {k: (expected.get(k), actual.get(k)) for k in expected | actual}
    assert {k: v for k, v in different.items() if v[0] != v[1]} == {}


# Parts deleted, rebuilt and trained


class Adapter(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        dim = block.attn.qkv.in_features
        self.prompt_learn = nn.Sequential(
            nn.Linear(dim, 32), nn.GELU(), nn.Linear(32, dim), nn.GELU()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x + self.prompt_learn(x))


class Unet(nn.Module):
    """SAM2-UNet and similar programs: only the trunk, frozen, with adapters, at another size."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        del model.sam_mask_decoder
        del model.sam_prompt_encoder
        del model.memory_encoder
        del model.memory_attention
        del model.mask_downsample
        del model.obj_ptr_tpos_proj
        del model.obj_ptr_proj
        del model.image_encoder.neck
        self.encoder = model.image_encoder.trunk
        for param in self.encoder.parameters():
            param.requires_grad = False
        torch.manual_seed(3)
        self.encoder.blocks = nn.Sequential(*(Adapter(block) for block in self.encoder.blocks))
        self.heads = nn.ModuleList(nn.Conv2d(96 * 2**i, 1, 1) for i in range(4))

    def forward(self, x: Tensor) -> Tensor:
        maps = [head(x) for head, x in zip(self.heads, self.encoder(x), strict=True)]
        return sum(F.interpolate(m, (88, 88), mode="bilinear") for m in maps)


def adapted_trunk(package: Package) -> Any:
    net = Unet(package.predictor)
    net.train()
    image = torch.randn(1, 3, 352, 352, generator=torch.Generator().manual_seed(4))
    target = torch.zeros(1, 1, 88, 88)
    target[..., 20:60, 30:70] = 1
    out = net(image)
    F.binary_cross_entropy_with_logits(out, target).backward()
    gradients = {
        name: p.grad / p.grad.abs().max()
        for name, p in net.named_parameters()
        if p.grad is not None
    }
    assert len(gradients) > 20
    assert all("block." not in name for name in gradients)
    return out.detach(), dict(sorted(gradients.items()))


@pytest.mark.slow
def test_adapted_trunk(fresh: Both) -> None:
    assert not isinstance(agree(adapted_trunk, fresh), Exception)


# Export


class EncoderForExport(nn.Module):
    """Image to the three maps that the decoder takes, as in samexporter and ai-hub-models."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.image_encoder = model.image_encoder
        self.no_mem_embed = model.no_mem_embed
        self.prepare_backbone_features = model._prepare_backbone_features

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        backbone_out = self.image_encoder(x)
        decoder = self.model.sam_mask_decoder
        backbone_out["backbone_fpn"][0] = decoder.conv_s0(backbone_out["backbone_fpn"][0])
        backbone_out["backbone_fpn"][1] = decoder.conv_s1(backbone_out["backbone_fpn"][1])
        _, vision_feats, _, feat_sizes = self.prepare_backbone_features(backbone_out)
        vision_feats[-1] = vision_feats[-1] + self.no_mem_embed
        feats = [
            feat.permute(1, 2, 0).reshape(1, -1, *size)
            for feat, size in zip(vision_feats, feat_sizes, strict=True)
        ]
        return feats[0], feats[1], feats[2]


class ShortEncoderForExport(nn.Module):
    """The same through `forward_image`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        backbone_out = self.model.forward_image(x)
        _, vision_feats, vision_pos, _ = self.model._prepare_backbone_features(backbone_out)
        return (*vision_feats, *vision_pos)


class DecoderForExport(nn.Module):
    """Decoder with prompts embedded from the parts of the prompt encoder, as in samexporter."""

    def __init__(self, model: Any, multimask_output: bool) -> None:
        super().__init__()
        self.model = model
        self.mask_decoder = model.sam_mask_decoder
        self.prompt_encoder = model.sam_prompt_encoder
        self.multimask_output = multimask_output

    def forward(
        self,
        image_embed: Tensor,
        high_res_0: Tensor,
        high_res_1: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor]:
        sparse = self.embed_points(point_coords, point_labels)
        dense = has_mask_input * self.prompt_encoder.mask_downscaling(mask_input)
        no_mask = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        dense = dense + (1 - has_mask_input) * no_mask
        masks, ious, _, _ = self.mask_decoder.predict_masks(
            image_embeddings=image_embed,
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            repeat_image=False,
            high_res_features=[high_res_0, high_res_1],
        )
        if self.multimask_output:
            return masks[:, 1:], ious[:, 1:]
        masks, ious = self.mask_decoder._dynamic_multimask_via_stability(masks, ious)
        return masks.clamp(-32.0, 32.0), ious

    def embed_points(self, coords: Tensor, labels: Tensor) -> Tensor:
        encoder = self.prompt_encoder
        coords = torch.cat([coords + 0.5, torch.zeros(coords.shape[0], 1, 2)], dim=1)
        labels = torch.cat([labels, -torch.ones(labels.shape[0], 1)], dim=1)
        coords = coords / self.model.image_size
        embedding = encoder.pe_layer._pe_encoding(coords)
        labels = labels.unsqueeze(-1).expand_as(embedding)
        embedding = embedding * (labels != -1)
        embedding = embedding + encoder.not_a_point_embed.weight * (labels == -1)
        for i in range(encoder.num_point_embeddings):
            embedding = embedding + encoder.point_embeddings[i].weight * (labels == i)
        return embedding


def exported(kind: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    with torch.no_grad():
        if kind == "trace":
            return torch.jit.trace(module, inputs, check_trace=False)
        return torch.export.export(module, inputs).module()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["trace", "export"])
@pytest.mark.parametrize("wrapper", [EncoderForExport, ShortEncoderForExport])
@pytest.mark.filterwarnings("ignore")  # exporters warn about values they cannot trace
def test_encoder_export(fresh: Both, kind: str, wrapper: type[nn.Module]) -> None:
    """The model is exported before its first call, and still runs afterwards."""
    ref, ours = (wrapper(p.predictor).eval() for p in fresh)
    first, second = torch.randn(2, 1, 3, SIZE, SIZE)
    program = exported(kind, ours, (first,))
    with torch.no_grad():
        for image in (first, second):
            expected = ref(image)
            assert_same(tuple(program(image)), expected)
            assert_same(ours(image), expected)
        # Other sizes of batch and image are not bound by the export.
        assert_same(
            ours.model.forward_image(torch.cat([first, second]))["backbone_fpn"],
            ref.model.forward_image(torch.cat([first, second]))["backbone_fpn"],
        )


def decoder_inputs(labels: list[float], has_mask: float, batch: int = 1) -> tuple[Tensor, ...]:
    grid = SIZE // 16
    return (
        torch.randn(batch, 256, grid, grid),
        torch.randn(batch, 32, 4 * grid, 4 * grid),
        torch.randn(batch, 64, 2 * grid, 2 * grid),
        torch.rand(batch, len(labels), 2) * SIZE,
        torch.tensor([labels]).expand(batch, -1),
        torch.randn(batch, 1, 4 * grid, 4 * grid),
        torch.tensor([has_mask]),
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["trace", "export"])
@pytest.mark.parametrize("multimask_output", [True, False])
@pytest.mark.filterwarnings("ignore")  # exporters warn about values they cannot trace
def test_decoder_export(packages: Both, kind: str, multimask_output: bool) -> None:
    """A traced decoder serves any number of prompts and points, the dynamic axes of ONNX files."""
    ref, ours = (DecoderForExport(p.predictor, multimask_output).eval() for p in packages)
    program = exported(kind, ours, decoder_inputs([1.0, 0.0], 0.0))
    cases = [decoder_inputs([2.0, 3.0], 1.0), decoder_inputs([1.0, -1.0], 0.0)]
    if kind == "trace":
        cases += [decoder_inputs([1.0, 0.0, 1.0], 0.0), decoder_inputs([1.0], 1.0, batch=3)]
    with torch.no_grad():
        for inputs in cases:
            expected = ref(*inputs)
            assert_same(ours(*inputs), expected)
            assert_same(tuple(program(*inputs)), expected)


# Names to import


NAMES = {
    "build_sam": "_load_checkpoint HF_MODEL_ID_TO_FILENAMES",
    "modeling.sam2_base": "SAM2Base NO_OBJ_SCORE",
    "modeling.sam2_utils": """MLP LayerNorm2d DropPath get_1d_sine_pe select_closest_cond_frames
        get_next_point sample_box_points sample_random_points_from_errors
        sample_one_point_from_error_center""",
    "modeling.backbones.hieradet": "Hiera MultiScaleBlock MultiScaleAttention do_pool",
    "modeling.backbones.utils": "PatchEmbed window_partition window_unpartition",
    "modeling.backbones.image_encoder": "ImageEncoder FpnNeck",
    "modeling.sam.transformer": "RoPEAttention Attention TwoWayTransformer TwoWayAttentionBlock",
    "modeling.sam.prompt_encoder": "PromptEncoder",
    "modeling.sam.mask_decoder": "MaskDecoder",
    "modeling.position_encoding": "PositionEmbeddingSine PositionEmbeddingRandom",
    "modeling.memory_attention": "MemoryAttention MemoryAttentionLayer",
    "modeling.memory_encoder": "MemoryEncoder MaskDownSampler Fuser CXBlock",
    "utils.misc": """fill_holes_in_mask_scores _load_img_as_tensor concat_points mask_to_box
        AsyncVideoFrameLoader get_connected_components load_video_frames tqdm get_sdpa_settings
        load_video_frames_from_jpg_images load_video_frames_from_video_file""",
    "utils.transforms": "SAM2Transforms",
    "utils.amg": """rle_to_mask mask_to_rle_pytorch build_all_layer_point_grids MaskData
        calculate_stability_score generate_crop_boxes batched_mask_to_box batch_iterator
        is_box_near_crop_edge uncrop_boxes_xyxy uncrop_masks uncrop_points area_from_rle
        coco_encode_rle box_xyxy_to_xywh remove_small_regions build_point_grid""",
}


@pytest.mark.parametrize("path", NAMES)
def test_names_to_import(packages: Both, path: str) -> None:
    """Includes names that a module only imports, such as `window_partition` in `hieradet`."""
    for package in packages:
        module = package.module(path)
        assert [name for name in NAMES[path].split() if not hasattr(module, name)] == []
        if path.endswith("hieradet"):
            assert callable(module.window_partition)


def small_values(package: Package, video: Path) -> Any:
    """Call the helpers on small inputs."""
    generator = torch.Generator().manual_seed(5)
    misc, amg = package.module("utils.misc"), package.module("utils.amg")
    utils, hiera = (
        package.module("modeling.sam2_utils"),
        package.module("modeling.backbones.hieradet"),
    )
    masks = torch.rand(3, 20, 30, generator=generator) > 0.5
    maps = torch.randn(2, 10, 12, 8, generator=generator)
    points, labels = torch.rand(1, 2, 2, generator=generator), torch.ones(1, 2, dtype=torch.int32)
    old = misc.concat_points(None, points, labels)
    image, height, width = misc._load_img_as_tensor(str(video / "00000.jpg"), 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    loader = misc.AsyncVideoFrameLoader(
        sorted(str(path) for path in video.glob("*.jpg")),
        64,
        offload_video_to_cpu=True,
        img_mean=mean[:, None, None],
        img_std=std[:, None, None],
        compute_device=torch.device("cpu"),
    )
    frames, frames_height, frames_width = misc.load_video_frames(
        str(video), 64, offload_video_to_cpu=True, compute_device=torch.device("cpu")
    )
    windows, padded = hiera.window_partition(maps, 4)
    rles = amg.mask_to_rle_pytorch(masks)
    outputs: dict[int, str] = {0: "a", 4: "b", 9: "c", 12: "d"}
    mlp = utils.MLP(8, 16, 4, 3, sigmoid_output=True)
    return {
        "joined": misc.concat_points(old, points + 1, 1 - labels),
        "boxes": misc.mask_to_box(masks[:, None]),
        "image": (image, height, width),
        "lazy": (len(loader), loader.video_height, loader.video_width),
        "lazy frames": [loader[i].float() for i in (0, 3)],
        "frames": (torch.stack([frames[i] for i in range(5)]), frames_height, frames_width),
        "sdpa": misc.get_sdpa_settings(),
        "windows": (windows, padded),
        "pooled": hiera.do_pool(maps, nn.MaxPool2d(2), nn.LayerNorm(8)),
        "sine": utils.get_1d_sine_pe(torch.arange(5) / 4, dim=16),
        "nearest": utils.select_closest_cond_frames(8, outputs, 2),
        "mlp": [tuple(p.shape) for p in mlp.parameters()],
        "norm": utils.LayerNorm2d(8)(maps.permute(0, 3, 1, 2)),
        "rles": rles,
        "decoded": [amg.rle_to_mask(rle) for rle in rles],
        "areas": [int(amg.area_from_rle(rle)) for rle in rles],
        "stability": amg.calculate_stability_score(maps[..., 0], 0.0, 0.5),
        "grids": amg.build_all_layer_point_grids(4, 1, 2),
        "crops": amg.generate_crop_boxes((20, 30), 1, 0.3),
        "mask boxes": amg.batched_mask_to_box(masks),
        "no object": package.module("modeling.sam2_base").NO_OBJ_SCORE,
        "positions": package.module("modeling.position_encoding").PositionEmbeddingSine(16)(
            maps.permute(0, 3, 1, 2)
        ),
    }


def test_values_of_helpers(packages: Both, video: Path) -> None:
    assert not isinstance(agree(small_values, packages, video), Exception)


def built_by_hand(package: Package) -> Any:
    """Parts made from the arguments of the official constructors, by keyword."""
    hiera = package.module("modeling.backbones.hieradet")
    encoder = package.module("modeling.backbones.image_encoder")
    transformer = package.module("modeling.sam.transformer")
    position = package.module("modeling.position_encoding")
    trunk = hiera.Hiera(embed_dim=16, num_heads=1, stages=[1, 1, 2, 1], global_att_blocks=[3])
    neck = encoder.FpnNeck(
        position_encoding=position.PositionEmbeddingSine(
            num_pos_feats=32, normalize=True, scale=None, temperature=10000
        ),
        d_model=32,
        backbone_channel_list=[128, 64, 32, 16],
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )
    modules: dict[str, nn.Module] = {
        "encoder": encoder.ImageEncoder(trunk=trunk, neck=neck, scalp=1),
        "rope": transformer.RoPEAttention(
            embedding_dim=32, num_heads=1, downsample_rate=1, feat_sizes=[4, 4]
        ),
        "two way": transformer.TwoWayTransformer(
            depth=1, embedding_dim=32, mlp_dim=64, num_heads=4
        ),
        "prompts": package.module("modeling.sam.prompt_encoder").PromptEncoder(
            embed_dim=32, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_chans=16
        ),
    }
    for i, module in enumerate(modules.values()):
        generator = torch.Generator().manual_seed(i)
        with torch.no_grad():
            for _, tensor in sorted(module.state_dict().items()):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
        module.eval()
    generator = torch.Generator().manual_seed(9)
    tokens = torch.randn(1, 16, 32, generator=generator)
    grid = tokens.transpose(1, 2).reshape(1, 32, 4, 4)
    image = torch.randn(1, 3, 64, 64, generator=generator)
    with torch.no_grad():
        features = modules["encoder"](image)
        return {
            "encoder": {key: features[key] for key in sorted(features)},
            "rope": modules["rope"](tokens, tokens, tokens),
            "two way": modules["two way"](grid, grid, tokens[:, :3]),
            "prompts": modules["prompts"](
                (torch.ones(1, 1, 2), torch.ones(1, 1)), torch.ones(1, 4), None
            ),
        }


def test_parts_built_by_hand(packages: Both) -> None:
    assert not isinstance(agree(built_by_hand, packages), Exception)
