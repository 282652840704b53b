"""Programs that use Hydra themselves, each in a process of its own: Hydra's state is global."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fastsam2.config import CONFIGS
from fastsam2.config_file import write_config

ROOT = Path(__file__).parent.parent.parent


def run(program: str, *arguments: str) -> str:
    path = [str(ROOT), str(ROOT / "kernels")]
    program = f"import sys; sys.path[:0] = {path!r}\n{program}"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


GUEST = """
import fastsam2, torch
from hydra import compose
from hydra.utils import instantiate
small = ["++model.image_size=128", "++model.image_encoder.trunk.stages=[1,1,2,1]",
         "++model.image_encoder.trunk.global_att_blocks=[3]"]
cfg = compose("configs/sam2.1/sam2.1_hiera_t.yaml", overrides=small)
model = instantiate(cfg.model, _recursive_=True).eval()
from fastsam2.build_sam import build_sam2
built = build_sam2("sam2.1-tiny", device="cpu", hydra_overrides_extra=small)
print(type(model).__module__, model.load_state_dict(built.state_dict()))
x = torch.randn(1, 3, 128, 128)
with torch.no_grad():
    a, b = (m.forward_image(x)["vision_features"] for m in (model, built))
print(torch.equal(a, b))
cfg = compose("configs/sam2.1/sam2.1_hiera_t.yaml", overrides=[
    *small, "++model._target_=fastsam2.sam2_video_predictor.SAM2VideoPredictor",
    "++model.fill_hole_area=8"])
print(type(instantiate(cfg.model)).__name__)
"""

OWN = """
import sys
import fastsam2
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
GlobalHydra.instance().clear()
initialize_config_dir(sys.argv[1], version_base="1.2")
from fastsam2.build_sam import build_sam2
model = build_sam2("mine.yaml", device="cpu", hydra_overrides_extra=["++model.image_size=128"])
print(model.image_size, model.hidden_dim, type(build_sam2("nano", device="cpu")).__module__)
"""


@pytest.mark.slow
def test_compose_and_instantiate() -> None:
    out = run(GUEST).splitlines()
    assert out == [
        "fastsam2.modeling.sam2_base <All keys matched successfully>",
        "True",
        "SAM2VideoPredictor",
    ]


@pytest.mark.slow
def test_a_folder_of_the_client(tmp_path: Path) -> None:
    write_config(CONFIGS["nano"], tmp_path / "mine.yaml")
    text = (tmp_path / "mine.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("fastsam2.modeling", "sam2.modeling"))
    assert run(OWN, str(tmp_path)).split() == ["128", "128", "fastsam2.modeling.sam2_base"]


@pytest.mark.slow
def test_hydra_is_left_to_a_program_that_uses_it(tmp_path: Path) -> None:
    program = """
import sys
from hydra import initialize_config_dir, compose
initialize_config_dir(sys.argv[1], version_base="1.2")
import fastsam2
print(compose("mine.yaml").model.image_size)
"""
    write_config(CONFIGS["nano"], tmp_path / "mine.yaml")
    assert run(program, str(tmp_path)) == "256\n"
