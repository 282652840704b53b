from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastsam2.data.rle import decode_rle
from fastsam2.data.writers import read_labels
from fastsam2.engine import plan
from fastsam2.engine.fused.image_encoder import FusedImageEncoder
from tests.cli.running import fastsam2
from tests.data.videos import Frames


@pytest.fixture
def image(tmp_path: Path, frames: Frames) -> Path:
    Image.fromarray(frames[0]).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_objects_in_an_image(tmp_path: Path, image: Path, checkpoint: Path) -> None:
    out = tmp_path / "out"
    prompts = ["--point", "9,9", "--box", "20,10,50,40:2", "--point", "5,40,0:2"]
    model = ["-m", checkpoint, "--image-size", "128", "--device", "cpu"]
    outcome = fastsam2("segment", image, *prompts, *model, "-o", out)
    assert outcome.code == 0, outcome.err
    document = json.loads((out / "objects.json").read_text())
    assert document["image"] == {"path": str(image), "width": 64, "height": 48}
    masks = {found["id"]: decode_rle(found["rle"]) for found in document["objects"]}
    assert list(masks) == [1, 2]
    for found in document["objects"]:
        assert 0 < found["score"] < 1
        assert found["area"] == masks[found["id"]].sum()
        assert f"object {found['id']}: score {found['score']:.3f}" in outcome.out
    expected = np.where(masks[2], 2, np.where(masks[1], 1, 0))
    np.testing.assert_array_equal(read_labels(out / "mask.png"), expected)
    with Image.open(out / "overlay.png") as overlay:
        assert overlay.size == (64, 48)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "no prompts"),
        (["--point", "9,48"], 2, "lies outside image.png, which is 64x48"),
        (["--point", "9,9@1"], 2, "no frame 1"),
        (["--point", "9,9", "-m", "nowhere.pt"], 1, "nowhere.pt"),
    ],
)
def test_bad_input(
    tmp_path: Path, image: Path, arguments: list[str], code: int, message: str
) -> None:
    outcome = fastsam2("segment", image, *arguments, "-o", tmp_path / "out")
    assert outcome.code == code
    assert message in outcome.line


def test_unreadable_images(tmp_path: Path) -> None:
    outcome = fastsam2("segment", tmp_path / "no.png", "--point", "1,1", "-o", tmp_path / "out")
    assert outcome.code == 1
    assert "no such image" in outcome.line
    url = "https://example.org/a.jpg"
    outcome = fastsam2("segment", url, "--point", "1,1", "-o", tmp_path / "out")
    assert outcome.code == 2
    assert f"{url}: download the image" in outcome.line
    (tmp_path / "text.jpg").write_text("text")
    outcome = fastsam2("segment", tmp_path / "text.jpg", "--point", "1,1", "-o", tmp_path / "out")
    assert outcome.code == 1
    assert "text.jpg" in outcome.line


def test_fast(
    tmp_path: Path, image: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the precision that the plan for this device chooses."""
    monkeypatch.setattr(plan, "_cpu_multiplies_bf16", lambda: True)
    dtypes: list[torch.dtype] = []
    run = FusedImageEncoder.__call__

    def spy(self: FusedImageEncoder, images: torch.Tensor) -> Any:
        out = run(self, images)
        dtypes.append(out["vision_features"].dtype)
        return out

    monkeypatch.setattr(FusedImageEncoder, "__call__", spy)
    arguments = ["--point", "9,9", "-m", checkpoint, "--image-size", "128", "--device", "cpu"]
    for flags in ([], ["--fast"]):
        outcome = fastsam2(
            "segment", image, *arguments, *flags, "-o", tmp_path / f"out{len(flags)}"
        )
        assert outcome.code == 0, outcome.err
    assert dtypes == [torch.float32, torch.bfloat16]
