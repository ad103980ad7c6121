"""``soapworks verify`` and ``soapworks gc`` as their users meet them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from soapworks.flows.cli import main
from soapworks.storage_schemas.store import Product, Store
from soapworks.tasks.plan.request import ScoreRequest
from soapworks.tasks.settings import RunOptions, ScoreSettings
from tests.small import write_checkpoint, write_photographs
from tests.tasks.conftest import run_stages
from tests.tasks.test_resume import contents

SETTINGS = {"layers": "norm", "synthetic_images": 6, "block_images": 4, "segment_images": 8}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, photographs and a store with everything."""
    folder = tmp_path_factory.mktemp("verify_gc")
    request = ScoreRequest(
        checkpoint=str(write_checkpoint(folder / "model")),
        images=str(write_photographs(folder / "photographs", 10)),
        settings=ScoreSettings(**SETTINGS),
        options=RunOptions(store=str(folder / "store"), device="cpu", batch_size=4, workers=2),
    )
    run_stages(request)
    return folder


@pytest.fixture
def store(place: Path, tmp_path: Path) -> Store:
    shutil.copytree(place / "store", tmp_path / "store")
    return Store(tmp_path / "store")


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Return exit status, standard output and standard error of a command."""
    capsys.readouterr()
    status = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as leaving:
        status = int(leaving.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def score_arguments(place: Path, store: Store, *more: str) -> list[str]:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    folders = [str(place / "model"), "--images", str(place / "photographs"), "--store", store.url]
    return [*folders, *options, "--device=cpu", *more]


def damage(product: Product, part: str) -> Path:
    """Flip a bit in the first file of a product whose path holds ``part``."""
    path = Path(product.data.url) / next(name for name in product.files if part in name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


def test_a_whole_store(capsys, store: Store) -> None:
    status, out, err = call(capsys, "verify", "--store", store.url)
    assert status == 0
    assert out.strip().endswith("all whole")
    assert "verify" in err
    assert "B/s" in err


def test_an_empty_store(capsys, tmp_path: Path) -> None:
    status, out, _ = call(capsys, "verify", "--store", tmp_path / "nothing")
    assert (status, "nothing to verify" in out) == (0, True)
    status, out, _ = call(capsys, "gc", "--store", tmp_path / "nothing")
    assert (status, out) == (0, "nothing to delete\n")
    assert not (tmp_path / "nothing").exists()


def test_damage_is_named_and_mended(capsys, store: Store) -> None:
    before = contents(store)
    (head,), (pca,) = store.products("heads"), store.products("pca")
    damage(head, "safetensors")
    damage(pca, "components/c")
    status, out, _ = call(capsys, "verify", "--store", store.url, "--quiet")
    assert status == 1
    assert f"{head.address} is damaged:\n  {head.data.name}/head.safetensors was changed" in out
    assert f"{pca.address} is damaged:" in out
    assert "run soapworks verify --repair" in out
    status, out, _ = call(capsys, "verify", "--store", store.url, "--repair")
    assert status == 0
    assert f"{head.address}: made again" in out
    assert contents(store) == before
    assert call(capsys, "verify", "--store", store.url)[0] == 0


def test_one_product_and_json(capsys, store: Store) -> None:
    (head,) = store.products("heads")
    damage(head, "parquet")
    status, out, err = call(
        capsys, "verify", head.key[:8], "--store", store.url, "--json", "--quiet", "--workers", 1
    )
    found = json.loads(out)
    assert (status, err) == (1, "")
    assert (found["n_products"], found["left"], found["repairs"]) == (1, 1, None)
    (one,) = found["damaged"]
    assert (one["address"], one["key"]) == (head.address, head.key)
    assert one["damages"] == [
        {"path": f"{head.data.name}/scores.parquet", "reason": "was changed", "certain": True}
    ]
    assert call(capsys, "verify", "pca", "--store", store.url)[0] == 0
    status, out, _ = call(capsys, "verify", "--store", store.url, "--json", "--repair")
    found = json.loads(out)
    assert (status, found["left"]) == (0, 0)
    assert found["repairs"] == [{"address": head.address, "outcome": "remade", "note": ""}]


def test_an_unknown_product(capsys, store: Store) -> None:
    status, out, err = call(capsys, "verify", "abcdef", "--store", store.url)
    assert (status, out) == (1, "")
    assert err.startswith("soapworks: no product 'abcdef'")
    assert len(err.splitlines()) == 1


@pytest.mark.server
def test_a_run_that_meets_damage_says_so_and_goes_on_when_it_is_mended(
    capsys, place: Path, store: Store, prefect_server: str
) -> None:
    before = contents(store)
    product = max(store.products("features"), key=lambda p: len(p.files))
    damage(product, "/c/1/")
    arguments = score_arguments(place, store, "--moments-precision=float64", "--quiet")

    def soapworks(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "soapworks.flows.cli", *words],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PREFECT_API_URL": prefect_server, "OMP_NUM_THREADS": "1"},
            timeout=280,
            check=False,
        )

    refused = soapworks("score", *arguments)
    assert (refused.returncode, refused.stdout) == (1, "")
    (sentence,) = refused.stderr.strip().splitlines()
    assert product.address in sentence
    assert sentence.endswith("run soapworks verify --repair.")
    status, out, _ = call(capsys, "verify", "--repair", "--store", store.url)
    assert status == 0
    assert "1 of 2 blocks are lost" in out
    done = soapworks("score", *arguments)
    assert done.returncode == 0, done.stderr
    after = contents(store)
    assert before.items() <= after.items()
    assert sum(name.startswith("heads") for name in after) == 4


def test_dry_run_prints_exactly_what_goes(capsys, store: Store) -> None:
    options = ["--store", store.url, "--keep-features", "none", "--quiet"]
    files = {p: p.stat().st_size for p in Path(store.url).rglob("*") if p.is_file()}
    status, told, _ = call(capsys, "gc", *options, "--dry-run")
    plain = json.loads(call(capsys, "gc", *options, "--dry-run", "--json")[1])
    assert status == 0
    assert {p for p in Path(store.url).rglob("*") if p.is_file()} == files.keys()
    addresses = [product.address for product in store.products("features")]
    assert [choice["path"] for choice in plain["chosen"]] == sorted(addresses)
    status, done, _ = call(capsys, "gc", *options)
    assert status == 0
    assert done.splitlines()[:-1] == told.splitlines()[:-1]
    assert told.splitlines()[-1] == done.splitlines()[-1].replace("freed", "would free")
    gone = sum(size for path, size in files.items() if not path.exists())
    assert gone == plain["n_bytes"]
    assert "nothing to delete" in call(capsys, "gc", *options)[1]


def test_what_was_deleted_in_json(capsys, store: Store) -> None:
    status, out, err = call(
        capsys, "gc", "--store", store.url, "--keep-features", "6", "--json", "--quiet"
    )
    found = json.loads(out)
    assert (status, err) == (0, "")
    assert found["freed_bytes"] == found["n_bytes"] > 0
    assert all(choice["deleted"] for choice in found["chosen"])
    assert 0 < sum(p.record["facts"]["n_images"] for p in store.products("features")) <= 6


def test_plan_after_gc(capsys, place: Path, store: Store) -> None:
    plan = ["plan", *score_arguments(place, store), "--quiet"]
    assert "without features" not in call(capsys, *plan)[1]
    call(capsys, "gc", "--store", store.url, "--keep-features", "none")
    assert "16 images" in next(
        line for line in call(capsys, *plan)[1].splitlines() if "without features" in line
    )
    (projection,) = json.loads(call(capsys, *plan, "--json")[1])
    assert projection["images_without_features"] == 16


@pytest.mark.parametrize("value", ["some", "-1", "1.5", "²"])
def test_a_wrong_number_of_images(capsys, store: Store, value: str) -> None:
    status, _, err = call(capsys, "gc", "--store", store.url, "--keep-features", value)
    assert status == 2
    assert "all, none nor a number" in err
