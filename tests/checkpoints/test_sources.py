"""Find checkpoints by name, on the hub or on disk; errors of the hub are one line."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import errors as hub_errors

import fastsam2
from fastsam2.checkpoints.sources import download, resolve_model
from fastsam2.config import HF_MODEL_IDS, checkpoint_name
from fastsam2.errors import CheckpointError, ConfigError
from tests.messages import one_line


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str]]:
    """Stand-in for a hub that has every file; the list records the requests."""
    asked: list[tuple[str, str]] = []

    def hf_hub_download(*, repo_id: str, filename: str) -> str:
        asked.append((repo_id, filename))
        path = tmp_path / repo_id / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return asked


@pytest.mark.parametrize(("repo_id", "name"), HF_MODEL_IDS.items())
def test_download_official(repo_id: str, name: str, hub: list[tuple[str, str]]) -> None:
    assert download(name) == download(repo_id)
    assert hub == [(repo_id, checkpoint_name(name))] * 2


def test_download_transformers_repository(hub: list[tuple[str, str]]) -> None:
    folder = download("someone/sam2.1-tuned")
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]


def hub_error(kind: str) -> Exception:
    cls = getattr(hub_errors, kind)
    error: Exception = cls.__new__(cls)  # the constructors want an HTTP response
    error.args = ("first line\nsecond line",)
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (hub_error("GatedRepoError"), "hf auth login"),
        (hub_error("RepositoryNotFoundError"), "no such repository"),
        (hub_error("LocalEntryNotFoundError"), "pass its path"),
        (hub_error("EntryNotFoundError"), "no such file"),
        (hub_error("HfHubHTTPError"), "first line"),
        (OSError("no space left on device"), "no space left"),
        (TimeoutError(), "TimeoutError"),
        (getattr(hub_errors, "HTTPError", OSError)("no route to host"), "no route to host"),
    ],
)
def test_download_failure_is_one_line(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: str) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(CheckpointError, match=message) as caught:
        download("sam2.1-tiny")
    assert "sam2.1_hiera_tiny.pt of facebook/sam2.1-hiera-tiny" in one_line(caught)


def test_download_suggests_a_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: str) -> str:
        raise hub_error("RepositoryNotFoundError")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(CheckpointError, match="did you mean 'facebook/sam2"):
        download("facebook/sam2.1-hiera-tinny")


def test_download_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Uses the real hub client, offline and with an empty cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="cannot get sam2_hiera_small") as caught:
        download("sam2-small")
    one_line(caught)


def test_resolve_model(
    tmp_path: Path, hub: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for spelling in ("sam2-large", "facebook/sam2-hiera-large", "configs/sam2/sam2_hiera_l.yaml"):
        name, path = resolve_model(spelling)
        assert name == "sam2-large"
        assert path.name == "sam2_hiera_large.pt"
    assert resolve_model("someone/tuned") == (None, tmp_path / "someone" / "tuned")

    file = tmp_path / "any.pt"
    file.touch()
    assert resolve_model(file) == (None, file)
    assert resolve_model(str(file)) == (None, file)
    assert resolve_model(tmp_path) == (None, tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_model("~/any.pt") == (None, file)
    monkeypatch.chdir(tmp_path)
    assert resolve_model("any.pt") == (None, Path("any.pt"))


@pytest.mark.parametrize("path", ["none.pt", "./none", "/no/such/folder", Path("none")])
def test_resolve_path_that_does_not_exist(path: str | Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        resolve_model(path)


def test_resolve_unknown_name() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown model 'sam2\.1-tinny'; nearest is 'sam2\.1-tiny'"
    ):
        resolve_model("sam2.1-tinny")


def test_nano_is_bundled() -> None:
    bundled = Path(fastsam2.__file__).parent / "nano" / "nano.safetensors"
    assert resolve_model("nano") == ("nano", bundled)
    assert bundled.exists()
