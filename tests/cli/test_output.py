from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastsam2.cli.output import prepare_folder


def test_several_programs_may_write_into_one_folder(tmp_path: Path) -> None:
    def prepare(number: int) -> None:
        prepare_folder(tmp_path / "out", [f"{number}.json"], overwrite=False)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(prepare, range(400)))
    assert list((tmp_path / "out").iterdir()) == []
