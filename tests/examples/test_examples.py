"""The examples run as they stand, in a folder of their own."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.server  # the commands start a Prefect server of their own


def run(name: str, folder: Path, cwd: Path) -> str:
    finished = subprocess.run(
        [sys.executable, ROOT / "examples" / name, folder],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=280,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


def test_score_and_attach_then_read_the_features(tmp_path: Path) -> None:
    printed = run("score_and_attach.py", tmp_path / "example", tmp_path)
    share = float(printed.split("%")[-2].split()[-1])
    assert 50 < share < 99  # two strong components of the masked model are gone
    (line,) = run("read_features.py", tmp_path / "example" / "store", tmp_path).splitlines()
    assert "'channel': 192" in line
    assert 1 < float(line.split()[-1].rstrip("%")) < 100


def test_watch_training(tmp_path: Path) -> None:
    run("watch_training.py", tmp_path / "example", tmp_path)
    (table,) = (tmp_path / "example" / "store" / "watch").rglob("*.csv")
    with table.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["step"] for row in rows] == ["0", "1000"]
    assert all(0.7 < float(row["top_si"]) < 1 for row in rows)
