"""Connected components: the reference and the kernels against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from fastsam2_kernels.connected_components import connected_components
from fastsam2_kernels.connected_components.tuning import Launch
from fastsam2_kernels.dispatch import Impl, interpreting

pytest.importorskip("triton")
from fastsam2_kernels.connected_components.kernel import launch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
EIGHT = np.ones((3, 3), dtype=int)
IMPLS: list[Impl] = ["auto", "triton", "reference"]


def check(mask: np.ndarray, impl: Impl = "auto") -> None:
    """Compare with scipy on a bool mask [..., H, W]: labels up to renumbering, and areas."""
    found = connected_components(torch.from_numpy(mask).to(DEVICE), impl=impl)
    check_found(mask, *(x.cpu() for x in found))


def check_found(mask: np.ndarray, labels: torch.Tensor, areas: torch.Tensor) -> None:
    assert labels.dtype == areas.dtype == torch.int32
    assert labels.shape == areas.shape == mask.shape
    images = (x.reshape(-1, *mask.shape[-2:]) for x in (mask, labels.numpy(), areas.numpy()))
    for image, label, area in zip(*images, strict=True):
        expected, n = ndimage.label(image, EIGHT)
        pairs = np.unique(np.stack([expected[image], label[image]]), axis=1)
        assert pairs.shape[1] == n, "one label for each component and one component for each label"
        names, first = np.unique(label[image], return_index=True)
        assert list(names) == list(range(1, n + 1))
        assert (np.diff(first) > 0).all(), "numbered by their first pixels"
        assert not label[~image].any()
        sizes = np.bincount(expected.ravel(), minlength=n + 1)
        sizes[0] = 0
        np.testing.assert_array_equal(area, sizes[expected])


def spiral(size: int) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    y, x, dy, dx = 0, 0, 0, 1
    low, high = [0, 0], [size - 1, size - 1]
    while low[0] <= high[0] and low[1] <= high[1]:
        mask[y, x] = True
        ny, nx = y + dy, x + dx
        if not (low[0] <= ny <= high[0] and low[1] <= nx <= high[1]):
            # Remove the arm just drawn and a gap of one pixel from the free square.
            if dx == 1:
                low[0] += 2
            elif dy == 1:
                high[1] -= 2
            elif dx == -1:
                high[0] -= 2
            else:
                low[1] += 2
            dy, dx = dx, -dy
            ny, nx = y + dy, x + dx
        y, x = ny, nx
    return mask


def shapes() -> dict[str, np.ndarray]:
    comb = np.zeros((40, 41), dtype=bool)
    comb[:, ::2] = True
    comb_down, comb_up, snake = comb.copy(), comb.copy(), comb.copy()
    comb_down[-1] = True
    comb_up[0] = True
    snake[0, 1::4] = True
    snake[-1, 3::4] = True
    y, x = np.mgrid[:33, :35]
    return {
        "full": np.ones((7, 9), dtype=bool),
        "empty": np.zeros((7, 9), dtype=bool),
        "one pixel on": np.ones((1, 1), dtype=bool),
        "one pixel off": np.zeros((1, 1), dtype=bool),
        "one row": np.array([[1, 0, 1, 1, 0, 1]], dtype=bool),
        "one column": np.array([[1, 0, 1, 1, 0, 1]], dtype=bool).T,
        "teeth": comb,
        "comb down": comb_down,
        "comb up": comb_up,
        "snake": snake,
        "spiral": spiral(45),
        "spiral's gap": ~spiral(45),
        "spiral mirrored": spiral(45)[::-1, ::-1].copy(),
        "chessboard": (y + x) % 2 == 0,
        "dots": (y % 2 == 0) & (x % 2 == 0),
        "diagonals": (y - x) % 3 == 0,
        "antidiagonals": (y + x) % 3 == 0,
        "ends of rows": (x == 0) | (x == 34),
    }


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", shapes())
def test_shape(name: str, impl: Impl) -> None:
    check(shapes()[name], impl)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["snake", "spiral", "chessboard", "diagonals"])
@pytest.mark.parametrize("settings", [Launch(16, 1, 8, 1, 16, 1), Launch(64, 2, 64, 1, 32, 1)])
def test_programs_of_any_size(name: str, settings: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many programs on an image, components cross their borders.

    All memory that the launch allocates is filled with garbage first.
    """
    empty_like = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: empty_like(*a, **k).fill_(77))
    mask = torch.from_numpy(shapes()[name])[None].to(DEVICE)
    garbage = torch.full_like(mask, -7, dtype=torch.int32)
    out = (garbage, garbage.clone())
    labels, areas = launch(mask, params=settings, out=out)
    check_found(mask.cpu().numpy(), labels.cpu(), areas.cpu())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["snake", "spiral", "half", "most"])
def test_concurrent_programs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interleave programs, which the interpreter would run one after the other."""
    if not interpreting():
        pytest.skip("on a GPU they run concurrently anyway")
    from tests.kernels.interleaving import interleave

    random = np.random.default_rng(0).random((2, 9, 10))
    snake = shapes()["snake"][None, -9:, :12]
    mask = {"snake": snake, "spiral": spiral(12)[None], "half": random < 0.5, "most": random < 0.7}
    small = Launch(8, 1, 2, 1, 16, 1)
    for seed in range(4):
        with monkeypatch.context() as patch:
            interleave(patch, seed)
            found = launch(torch.from_numpy(mask[name].copy()), params=small)
        check_found(mask[name], *found)


def test_spiral_is_one_component() -> None:
    labels, areas = connected_components(torch.from_numpy(spiral(61)))
    assert int(labels.max()) == 1
    assert int(areas.max()) == int(spiral(61).sum()) > 61 * 61 // 3


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 14), st.integers(1, 14)).flatmap(
        lambda shape: hnp.arrays(bool, shape, elements=st.booleans(), fill=st.nothing())
    )
)
def test_random_small_masks(mask: np.ndarray) -> None:
    for impl in IMPLS:
        check(mask, impl)


@pytest.mark.slow
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("density", [0.05, 0.3, 0.4, 0.5, 0.7, 0.95])
def test_random_batches(density: float, impl: Impl) -> None:
    check(np.random.default_rng(0).random((3, 1, 41, 50)) < density, impl)


@pytest.mark.parametrize("impl", IMPLS)
def test_labels_do_not_leak_between_images(impl: Impl) -> None:
    both = np.zeros((2, 3, 4, 6), dtype=bool)
    both[..., -1, :] = True
    both[..., 0, :3] = True
    check(both, impl)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(0, 1, 4, 4), (2, 1, 0, 4), (2, 1, 4, 0)])
def test_no_pixels(shape: tuple[int, ...], impl: Impl) -> None:
    empty = torch.zeros(shape, dtype=torch.bool, device=DEVICE)
    labels, areas = connected_components(empty, impl=impl)
    assert labels.shape == areas.shape == shape
    assert labels.dtype == areas.dtype == torch.int32


@pytest.mark.parametrize("impl", IMPLS)
def test_layout_and_dtype_do_not_matter(impl: Impl) -> None:
    mask = (torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0)) < 0.5).to(DEVICE)
    expected = connected_components(mask)
    for same in (mask.to(torch.uint8) * 255, mask.mT.contiguous().mT, mask.long()):
        for a, b in zip(connected_components(same, impl=impl), expected, strict=True):
            assert torch.equal(a, b)


def test_registration() -> None:
    op = torch.ops.fastsam2.connected_components.default
    torch.library.opcheck(op, (torch.rand(2, 9, 8, device=DEVICE) < 0.5,))


def test_compiles_whole() -> None:
    mask = torch.rand(2, 9, 8, device=DEVICE) < 0.5
    compiled = torch.compile(connected_components, fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(mask), connected_components(mask), strict=True):
        assert torch.equal(a, b)


@pytest.mark.cuda
@pytest.mark.parametrize("density", [0.3, 0.41, 0.5, 0.95])
def test_real_size(density: float) -> None:
    """Many threads join one component; repeated runs give the same result."""
    if DEVICE.type != "cuda":
        pytest.skip("needs a GPU")
    mask = np.random.default_rng(0).random((2, 1, 1024, 1023)) < density
    for _ in range(5):
        check(mask)
    check(np.tile(spiral(1021), (3, 1, 1, 1)))


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"),
    [
        ((torch.zeros(3, 3),), {}, TypeError, "float32"),
        ((torch.zeros(3, dtype=torch.bool),), {}, ValueError, r"\(3,\)"),
        ((torch.zeros(3, 3, dtype=torch.complex64),), {}, TypeError, "complex64"),
        ((torch.zeros(1, 1, dtype=torch.bool).expand(2**16, 2**15),), {}, ValueError, "32768"),
        ((torch.zeros(3, 3, dtype=torch.bool),), {"impl": "cuda"}, ValueError, "'cuda'"),
    ],
)
def test_bad_input(arguments, keywords, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        connected_components(*arguments, **keywords)
