"""The interface that the README and notebooks of `sam2` document, as programs use it."""

from __future__ import annotations

import contextlib
import functools
import importlib
import pkgutil
import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests import support
from tests.compat.clients import (
    CLICK,
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
from tests.data.videos import write_video
from tests.predictors.image_cases import let_work, photograph

import sam2  # isort: skip

Both = tuple[Package, Package]
HUB_ID = "facebook/sam2.1-hiera-tiny"


def options(model: Any) -> dict[str, Any]:
    """Return the options of a model that the builder's arguments set."""
    decoder = model.sam_mask_decoder
    names = ["binarize_mask_from_pts_for_mem_enc"]
    if hasattr(model, "init_state"):
        names += ["fill_hole_area", "non_overlap_masks"]
    return {
        "stability": decoder.dynamic_multimask_via_stability,
        "delta": decoder.dynamic_multimask_stability_delta,
        "threshold": decoder.dynamic_multimask_stability_thresh,
        "training": model.training,
        "image_size": model.image_size,
        "device": str(model.device),
        "class": type(model).__name__,
        "sum": float(sum(p.detach().double().sum() for p in model.parameters())),
        **{name: getattr(model, name) for name in names},
    }


# Building


BUILDS: dict[str, dict[str, Any]] = {
    "as the README does": {"device": "cpu"},
    "device object, no clean-up": {"device": torch.device("cpu"), "apply_postprocessing": False},
    "for training, with unknown keywords": {"device": "cpu", "mode": "train", "token": None},
}


@pytest.mark.slow
@pytest.mark.parametrize("builder", ["build_sam2", "build_sam2_video_predictor"])
@pytest.mark.parametrize("arguments", BUILDS.values(), ids=BUILDS)
def test_builders(packages: Both, weights: Path, builder: str, arguments: dict[str, Any]) -> None:
    def client(package: Package) -> Any:
        build = getattr(package.module("build_sam"), builder)
        # The caller's list: in-place additions to it would change the next call.
        extra = overrides("++model.non_overlap_masks=true") if "video" in builder else overrides()
        given = list(extra)
        model = build(TINY, weights, hydra_overrides_extra=extra, **arguments)
        assert extra == given
        return options(model)

    agree(client, packages)


@pytest.mark.parametrize("checkpoint", [None, str])
def test_checkpoint_none_or_text(packages: Both, weights: Path, checkpoint: Any) -> None:
    """Without weights SAM2-UNet builds the model to load its own; see `test_builders` for Path."""
    path = None if checkpoint is None else str(weights)

    def client(package: Package) -> Any:
        build = package.module("build_sam").build_sam2
        model = build(TINY, path, device="cpu", hydra_overrides_extra=overrides())
        shown = options(model)
        if path is None:
            del shown["sum"]
            assert all(p.isfinite().all() for p in model.parameters())
        return shown, sorted((name, tuple(p.shape)) for name, p in model.named_parameters())

    agree(client, packages)


def test_checkpoint_that_does_not_fit(packages: Both, weights: Path) -> None:
    def client(package: Package) -> Any:
        package.module("build_sam").build_sam2(TINY.replace("_t.", "_s."), weights, device="cpu")

    assert isinstance(agree(client, packages), RuntimeError)


def test_device_is_optional(weights: Path) -> None:
    """`sam2` requires CUDA by default; fastsam2 uses the CPU without it."""
    from fastsam2.build_sam import build_sam2

    model = build_sam2(TINY, weights, hydra_overrides_extra=overrides())
    assert model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_vos_optimized(packages: Both) -> None:
    """Compilation waits for the first frame: this only checks the flag."""

    def client(package: Package) -> Any:
        predictor = package.module("build_sam").build_sam2_video_predictor(
            TINY, device="cpu", hydra_overrides_extra=overrides(), vos_optimized=True
        )
        assert isinstance(predictor, package.module("sam2_video_predictor").SAM2VideoPredictor)
        return predictor.fill_hole_area, sorted(predictor.state_dict())

    agree(client, packages)


class Built(nn.Module):
    """Replacement of a model that stores the arguments of its constructor."""

    def __init__(self, trunk: Any, is_2_1: bool) -> None:
        super().__init__()
        # base_plus is the one whose YAML leaves the depth to its default.
        stages = tuple(trunk.get("stages", (2, 3, 16, 3)))
        self.made_of = (trunk["embed_dim"], stages, is_2_1)
        self.anchor = nn.Parameter(torch.zeros(1))


def build_named(package: Package, spelling: str) -> Any:
    """Return the model that a spelling of its name selects."""

    def official(config: Any, **_: Any) -> Built:
        is_2_1 = "no_obj_embed_spatial" in config
        return Built(config.image_encoder.trunk, is_2_1)

    def ours(config: Any) -> dict[str, Any]:
        return {"trunk": vars(config.image_encoder.trunk), "is_2_1": config.no_obj_embed_spatial}

    patches = {
        "sam2": {"sam2.build_sam.instantiate": official},
        "fastsam2": {
            "fastsam2.predictors.building.model_arguments": ours,
            "fastsam2.predictors.building.SAM2Base": Built,
        },
    }
    module = package.module("build_sam")
    with contextlib.ExitStack() as stack:
        for name, stand_in in patches[package.name].items():
            stack.enter_context(mock.patch(name, stand_in))
        return module.build_sam2(spelling, device="cpu", apply_postprocessing=False).made_of


ACCEPTED = [
    *(f"configs/sam2/sam2_hiera_{x}.yaml" for x in ("t", "s", "b+", "l")),
    *(f"configs/sam2.1/sam2.1_hiera_{x}.yaml" for x in ("t", "s", "b+", "l")),
    "configs/sam2.1/sam2.1_hiera_s",
    "./configs/sam2.1/sam2.1_hiera_s.yaml",
    "/configs/sam2.1/sam2.1_hiera_s.yaml",
    "../sam2/configs/sam2.1/sam2.1_hiera_s.yaml",
    *(f"sam2_hiera_{x}.yaml" for x in ("t", "s", "b+", "l")),
    "sam2_hiera_l",
]


@pytest.mark.parametrize("spelling", ACCEPTED)
def test_config_spelling(packages: Both, spelling: str) -> None:
    assert isinstance(agree(build_named, packages, spelling), tuple)


@pytest.mark.parametrize(
    "spelling",
    [
        "sam2.1_hiera_s.yaml",
        "sam2.1_hiera_s",
        "sam2.1/sam2.1_hiera_s.yaml",
        "/srv/models/configs/sam2.1/sam2.1_hiera_s.yaml",
        "facebook/sam2.1-hiera-small",
    ],
)
def test_config_spelling_that_sam2_refuses(packages: Both, spelling: str) -> None:
    ref, ours = packages
    with pytest.raises(Exception, match="Cannot find primary config"):
        build_named(ref, spelling)
    assert build_named(ours, spelling) == build_named(ours, "configs/sam2.1/sam2.1_hiera_s.yaml")


def test_names_of_the_hub(packages: Both) -> None:
    agree(lambda p: p.module("build_sam").HF_MODEL_ID_TO_FILENAMES, packages)


SWALLOWED = {"device": "cpu", "token": "hf_none", "trust_remote_code": True}


def from_hub_image(package: Package) -> Any:
    """cvat and segment-geospatial build the image predictor by its id."""
    cls = package.module("sam2_image_predictor").SAM2ImagePredictor
    predictor = cls.from_pretrained(HUB_ID, hydra_overrides_extra=overrides(), **SWALLOWED)
    return options(predictor.model), str(predictor.device), predictor.mask_threshold


def from_hub_generator(package: Package) -> Any:
    """segment-geospatial passes the same keywords to the builder and the generator."""
    cls = package.module("automatic_mask_generator").SAM2AutomaticMaskGenerator
    generator = cls.from_pretrained(
        HUB_ID, hydra_overrides_extra=overrides(), points_per_side=3, **SWALLOWED
    )
    return options(generator.predictor.model), len(generator.point_grids[0])


def from_hub_video(package: Package) -> Any:
    cls = package.module("sam2_video_predictor").SAM2VideoPredictor
    predictor = cls.from_pretrained(HUB_ID, hydra_overrides_extra=overrides(), **SWALLOWED)
    assert isinstance(predictor, cls)
    return options(predictor)


def from_hub_functions(package: Package) -> Any:
    build = package.module("build_sam")
    kwargs = {"device": "cpu", "hydra_overrides_extra": overrides()}
    return [
        options(build.build_sam2_hf(HUB_ID, **kwargs)),
        options(build.build_sam2_video_predictor_hf(HUB_ID, **kwargs)),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "client", [from_hub_image, from_hub_generator, from_hub_video, from_hub_functions]
)
def test_from_the_hub(packages: Both, hub: Callable[..., str], client: Client) -> None:
    with mock.patch.object(huggingface_hub, "hf_hub_download", hub):
        agree(client, packages)


def test_readme_snippet(packages: Both, hub: Callable[..., str], tmp_path: Path) -> None:
    """A hub id, two black frames, one click."""
    for i in range(2):
        Image.new("RGB", (256, 256)).save(tmp_path / f"{i}.jpg")

    def client(package: Package) -> Any:
        predictor = package.module("build_sam").build_sam2_video_predictor_hf(
            HUB_ID,
            device="cpu",
            # Without its compiled extension, sam2 fills no holes.
            hydra_overrides_extra=overrides("++model.fill_hole_area=0"),
            memory_dtype=torch.float32,  # which sam2 ignores
        )
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            state = predictor.init_state(str(tmp_path))
            frame_idx, object_ids, masks = predictor.add_new_points_or_box(
                state,
                frame_idx=0,
                obj_id=1,
                points=np.array([[128, 128]], dtype=np.float32),
                labels=np.array([1], dtype=np.int32),
            )
            found = {}
            for out_frame_idx, out_obj_ids, out_mask_logits in predictor.propagate_in_video(state):
                found[out_frame_idx] = {
                    out_obj_id: (out_mask_logits[i] > 0.0).cpu().numpy()
                    for i, out_obj_id in enumerate(out_obj_ids)
                }
        return frame_idx, object_ids, masks, found

    with mock.patch.object(huggingface_hub, "hf_hub_download", hub):
        agree(client, packages)


# Prompts


def prompts_of_annotation_tools(package: Package, video: Path) -> Any:
    """Prompts as arrays, lists and tensors, positional and by keyword, in the forms in use."""
    predictor = package.predictor
    state = predictor.init_state(video_path=str(video))
    add = functools.partial(predictor.add_new_points_or_box, state)
    out = [
        # State positional, prompts as arrays: Grounded-SAM-2.
        add(frame_idx=0, obj_id=1, points=np.array([CLICK], np.float32), labels=np.array([1])),
        # [1, N, 2] points: MONAILabel.
        add(0, 2, torch.tensor([[[90.0, 60.0], [20.0, 20.0]]]), torch.tensor([[1, 0]])),
        # Labels as floats: Petingo.
        add(frame_idx=1, obj_id=1, points=[[52.0, 61.0]], labels=np.array([1.0])),
        # A box alone, as an array, as a list, and with a click: Grounded-SAM-2, SAM2-GUI.
        add(frame_idx=2, obj_id=3, box=np.array([20, 30, 90, 100], np.float32)),
        add(frame_idx=2, obj_id=4, box=[20, 30, 90, 100]),
        add(0, 4, [[60, 60]], [0], box=torch.tensor([[20, 30, 90, 100]])),
        # Fractions of the frame: Meta's demo.
        add(0, 5, points=[[0.4, 0.5]], labels=[1], clear_old_points=True, normalize_coords=False),
        add(0, 5, points=[[0.6, 0.7]], labels=[0], clear_old_points=False, normalize_coords=False),
        # The older name: label-studio.
        predictor.add_new_points(
            inference_state=state, frame_idx=0, obj_id=6, points=np.array([CLICK]), labels=[1]
        ),
    ]
    return [(frame, list(ids), masks) for frame, ids, masks in out]


def masks_of_annotation_tools(package: Package, video: Path) -> Any:
    predictor = package.predictor
    state = predictor.init_state(str(video))
    array = np.zeros((120, 160), dtype=bool)
    array[30:90, 40:110] = True
    square = torch.zeros(SIZE, SIZE)
    square[20:60, 20:70] = 1
    out = [
        predictor.add_new_mask(state, 0, 1, array),
        predictor.add_new_mask(inference_state=state, frame_idx=0, obj_id=2, mask=~array),
        predictor.add_new_mask(state, 0, 3, torch.from_numpy(array)),
        predictor.add_new_mask(state, 0, 4, array.astype(np.uint8) * 255),
        predictor.add_new_mask(state, 1, 4, square),
        predictor.add_new_mask(state, 1, 5, torch.from_numpy(array.astype(np.uint8))),
    ]
    return [(frame, list(ids), masks) for frame, ids, masks in out]


def masks_of_floats(package: Package, video: Path) -> Any:
    """Nonzero is object in arrays, as OpenCV reads them (0 and 255) or as weights; float tensors
    are thresholded at 0.5 after resizing."""
    predictor = package.predictor
    state = predictor.init_state(str(video))
    array = np.zeros((120, 160), dtype=np.float32)
    array[30:90, 40:110] = 1
    square = torch.zeros(SIZE, SIZE)
    square[20:60, 20:70] = 1
    out = [
        predictor.add_new_mask(state, 0, i, mask)
        for i, mask in enumerate(
            [
                array * 255,
                array * 0.3,
                array.astype(np.float64) * 1e-9,
                (array * 0.3).tolist(),
                torch.from_numpy(array * 255),
                torch.from_numpy(array * 0.7),
                torch.from_numpy(array).half() * 0.3,
                square * 255,
                square * 0.3,
                square.numpy() * 0.3,
            ]
        )
    ]
    tracked = logits_of(predictor.propagate_in_video(state, max_frame_num_to_track=1))
    return [(frame, list(ids), masks) for frame, ids, masks in out], tracked


def ids_of_any_kind(package: Package, video: Path) -> Any:
    predictor = package.predictor
    state = predictor.init_state(str(video))
    for obj in (7, "left hand", np.int64(3), (1, 2)):
        click(package, state, obj=obj)
    click(package, state, frame=1, obj=3)
    return list(state["obj_ids"]), [len(x) for x in state["point_inputs_per_obj"].values()]


def wrong_prompts(package: Package, video: Path) -> Any:
    """Each mistake raises an error of the same built-in class."""
    predictor = package.predictor
    state = predictor.init_state(str(video))
    click(package, state)
    empty = video.parent / "empty"
    empty.mkdir(exist_ok=True)
    calls: list[Callable[[], Any]] = [
        lambda: predictor.add_new_points_or_box(state, 0, 1, points=[[1, 2]]),
        lambda: predictor.add_new_points_or_box(state, 0, 1, labels=[1]),
        lambda: predictor.add_new_points_or_box(state, 0, 1),
        lambda: predictor.add_new_points_or_box(
            state, 0, 1, box=[1, 2, 3, 4], clear_old_points=False
        ),
        lambda: predictor.remove_object(state, 99, strict=True),
        lambda: list(predictor.propagate_in_video(predictor.init_state(str(video)))),
        lambda: predictor.propagate_in_video_preflight(predictor.init_state(str(video))),
        lambda: predictor.init_state(str(empty)),
    ]
    errors = []
    for call in calls:
        try:
            call()
        except Exception as error:
            errors.append(error)
    assert len(errors) == len(calls)
    return errors


def prompts_ahead(package: Package, video: Path) -> Any:
    """Removing, clearing and resetting, as the demo does."""
    predictor = package.predictor
    state = predictor.init_state(str(video))
    click(package, state, obj=1)
    predictor.add_new_points_or_box(state, 0, 2, box=[20, 30, 90, 100])
    predictor.add_new_points_or_box(state, 1, 2, points=[[90, 60]], labels=[1])
    out: list[Any] = [predictor.clear_all_prompts_in_frame(state, 1, 2)]
    out.append(predictor.clear_all_prompts_in_frame(state, 1, 2, need_output=False))
    out.append(logits_of(predictor.propagate_in_video(state, 0, 1)))
    out.append(predictor.remove_object(state, 99))
    ids, updated = predictor.remove_object(state, 2)
    out += [list(ids), updated]
    out.append(predictor.remove_object(state, 1, strict=True, need_output=False))
    predictor.reset_state(state)
    return [*out, list(state["obj_ids"])]


# Propagation


def what_is_yielded(package: Package, video: Path) -> Any:
    predictor = package.predictor
    state = predictor.init_state(str(video))
    for obj in (4, 9):
        click(package, state, obj=obj)
    seen = []
    for frame, ids, masks in predictor.propagate_in_video(state):
        assert ids is state["obj_ids"]
        assert type(frame) is int
        assert masks.dtype == torch.float32
        assert masks.shape == (2, 1, 120, 160)
        seen.append((frame, list(ids), masks, masks.requires_grad, masks.is_inference()))
    return seen


def parts_of_a_video(package: Package, video: Path) -> Any:
    """`max_frame_num_to_track=k` is k frames beyond the first."""
    predictor = package.predictor
    state = predictor.init_state(str(video), offload_video_to_cpu=True, offload_state_to_cpu=True)
    click(package, state, frame=2)
    runs: list[dict[str, Any]] = [
        {"max_frame_num_to_track": 1},
        {"start_frame_idx": 3, "max_frame_num_to_track": 0},
        {"start_frame_idx": 1, "max_frame_num_to_track": 99, "reverse": False},
        {"start_frame_idx": 2, "max_frame_num_to_track": 1, "reverse": True},
        {"start_frame_idx": 0, "reverse": True},
        {"reverse": True},
    ]
    return [logits_of(predictor.propagate_in_video(state, **kwargs)) for kwargs in runs]


def steps_in_another_thread(package: Package, video: Path) -> Any:
    """A server (Meta's demo, label-studio) propagates each frame in any free worker thread."""
    predictor = package.predictor
    state = predictor.init_state(str(video))
    click(package, state)
    generator = predictor.propagate_in_video(state)
    drawn: list[Any] = []

    def draw() -> None:
        frame, ids, masks = next(generator)
        drawn.append((frame, list(ids), masks))

    for _ in range(3):
        worker = threading.Thread(target=draw)
        worker.start()
        worker.join()
    return drawn


def left_midway(package: Package, video: Path) -> Any:
    """A session remains usable after a propagation is closed, left by `break`, or dropped."""
    predictor = package.predictor
    state = predictor.init_state(str(video))
    click(package, state)
    generator = predictor.propagate_in_video(state)
    first = next(generator)[0]
    generator.close()
    ended = next(generator, "nothing more")
    for frame, _, _ in predictor.propagate_in_video(state):
        if frame == 2:
            break
    assert not torch.is_inference_mode_enabled()
    click(package, state, frame=3, obj=2)
    rest = logits_of(predictor.propagate_in_video(state, start_frame_idx=1))
    return first, ended, sorted(state["frames_tracked_per_obj"][0]), rest


def async_loading(package: Package, video: Path) -> Any:
    predictor = package.predictor
    state = predictor.init_state(str(video), async_loading_frames=True)
    click(package, state)
    return logits_of(predictor.propagate_in_video(state, max_frame_num_to_track=1))


def one_model_several_predictors(package: Package, video: Path) -> Any:
    """label-studio and napari segment images with the video predictor during a session."""
    predictor = package.predictor
    state = predictor.init_state(str(video))
    click(package, state)
    before = logits_of(predictor.propagate_in_video(state, max_frame_num_to_track=1))
    on_images = package.module("sam2_image_predictor").SAM2ImagePredictor(predictor)
    if package.name == "sam2":
        let_work(on_images, SIZE)
    on_images.set_image(photograph(90, 120))
    answer = on_images.predict(np.array([[60, 40]]), np.array([1]), return_logits=True)
    generator = package.module("automatic_mask_generator").SAM2AutomaticMaskGenerator(
        predictor, points_per_side=2, output_mode="binary_mask"
    )
    assert generator.predictor.model is on_images.model is predictor
    after = logits_of(predictor.propagate_in_video(state, start_frame_idx=2))
    return before, list(answer), after


SESSIONS: list[Client] = [
    prompts_of_annotation_tools,
    masks_of_annotation_tools,
    masks_of_floats,
    ids_of_any_kind,
    wrong_prompts,
    prompts_ahead,
    what_is_yielded,
    parts_of_a_video,
    steps_in_another_thread,
    left_midway,
    async_loading,
    one_model_several_predictors,
]


@pytest.mark.slow
@pytest.mark.parametrize("client", SESSIONS)
def test_session(client: Client, packages: Both, video: Path) -> None:
    result = agree(client, packages, video)
    assert not isinstance(result, Exception), result


# Beyond sam2


def as_path(video: Path, folder: Path) -> Any:
    return video


def as_named_frames(video: Path, folder: Path) -> Any:
    for path in video.iterdir():
        (folder / f"frame_{path.name}").write_bytes(path.read_bytes())
    return str(folder)


def as_png(video: Path, folder: Path) -> Any:
    for path in video.iterdir():
        Image.open(path).save(folder / f"{path.stem}.png")
    return str(folder)


def as_mp4(video: Path, folder: Path) -> Any:
    return str(write_video(folder / "clip.mp4", support.frames_rgb(5)))


@pytest.mark.parametrize("form", [as_path, as_named_frames, as_png, as_mp4])
def test_inputs_that_sam2_refuses(
    packages: Both, video: Path, tmp_path: Path, form: Callable[[Path, Path], Any]
) -> None:
    ref, ours = packages
    source = form(video, tmp_path)
    with pytest.raises((NotImplementedError, ValueError, RuntimeError, ModuleNotFoundError)):
        ref.predictor.init_state(source)
    state, plain = ours.predictor.init_state(source), ours.predictor.init_state(str(video))
    assert state["num_frames"] == 5
    assert (state["video_height"], state["video_width"]) == (120, 160)
    difference = (state["images"][3] - plain["images"][3]).abs().mean()
    assert difference <= (0.2 if form is as_mp4 else 0.0)


def test_reverse_with_memory_in_half_precision(packages: Both, video: Path) -> None:
    """`sam2` fails: without a past pointer it passes bfloat16 memory to float32 weights."""
    ref, ours = packages
    state = ref.predictor.init_state(str(video))
    click(ref, state, frame=3)
    with pytest.raises(RuntimeError, match="dtype"):
        list(ref.predictor.propagate_in_video(state, start_frame_idx=2))
    state = ours.predictor.init_state(str(video))
    click(ours, state, frame=3)
    ours.predictor.memory_dtype = torch.bfloat16
    try:
        half = logits_of(ours.predictor.propagate_in_video(state, start_frame_idx=2))
    finally:
        ours.predictor.memory_dtype = torch.float32
    state = ours.predictor.init_state(str(video))
    click(ours, state, frame=3)
    full = logits_of(ours.predictor.propagate_in_video(state, start_frame_idx=2))
    for (_, _, a), (_, _, b) in zip(half, full, strict=True):
        assert ((a > 0) != (b > 0)).float().mean() < 0.01


def test_images_with_a_small_model(packages: Both) -> None:
    """`sam2` supports feature sizes of 1024 pixels only."""
    ref, ours = (p.module("sam2_image_predictor").SAM2ImagePredictor(p.predictor) for p in packages)
    with pytest.raises(RuntimeError, match="size"):
        ref.set_image(photograph(90, 120))
    ours.set_image(photograph(90, 120))
    let_work(ref, SIZE)
    ref.set_image(photograph(90, 120))
    assert_same(ours._features, ref._features)


def test_memory_cleared_around_corrections(fresh: Both, video: Path) -> None:
    """The method that `sam2` calls under this option does not exist."""

    def client(package: Package) -> Any:
        predictor = package.predictor
        predictor.clear_non_cond_mem_around_input = True
        state = predictor.init_state(str(video))
        click(package, state)
        return logits_of(predictor.propagate_in_video(state, max_frame_num_to_track=2))

    ref, ours = fresh
    with pytest.raises(AttributeError):
        client(ref)
    assert len(client(ours)) == 3


def test_every_name_of_the_official_modules() -> None:
    """Training, the legacy predictor and the CUDA extension apart."""
    left_out = re.compile(r"sam2\.(_C|benchmark|sam2_video_predictor_legacy|csrc.*)")
    missing = []
    for info in pkgutil.walk_packages(sam2.__path__, "sam2."):
        if left_out.fullmatch(info.name):
            continue
        official = importlib.import_module(info.name)
        ours = importlib.import_module(info.name.replace("sam2.", "fastsam2.", 1))
        for name, value in vars(official).items():
            own = getattr(value, "__module__", info.name) == info.name
            if own and not name.startswith("__") and not isinstance(value, ModuleType):
                missing += [f"{info.name}.{name}"] * (not hasattr(ours, name))
    assert missing == []
