"""The command line as its users meet it: what it prints, how it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from soapworks.flows.cli import main
from tests.small import write_checkpoint, write_photographs


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("images") / "photographs", 12)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Return exit status and what was said, which must be one line on stderr."""
    with pytest.raises(SystemExit) as leaving:
        main([*(str(argument) for argument in arguments), "--quiet"])
    captured = capsys.readouterr()
    assert captured.out == ""
    return int(leaving.value.code or 0), captured.err


def one_sentence(said: str) -> str:
    lines = said.strip().splitlines()
    assert len(lines) == 1, said
    assert "Traceback" not in said
    return lines[0]


def code_running_pickle(path: Path, proof: Path) -> Path:
    import os

    class Run:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {proof}",)

    torch.save({"model": Run()}, path)
    return path


def test_empty_folder(capsys, checkpoint, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    status, said = refused(
        capsys, "score", checkpoint, "--images", tmp_path / "empty", "--store", tmp_path / "store"
    )
    assert status == 1
    assert "empty" in one_sentence(said)
    assert not (tmp_path / "store").exists()


def test_folder_of_text_files(capsys, checkpoint, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(3):
        (tmp_path / "texts" / f"{number}.txt").write_text("no photograph")
    status, said = refused(
        capsys, "score", checkpoint, "--images", tmp_path / "texts", "--store", tmp_path / "store"
    )
    assert status == 1
    assert ".txt" in one_sentence(said)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--layers", "blocks.7"], 1, "blocks.0"),
        (["--image-size", "36"], 1, "32 or 40"),
        (["--mu", "many"], 2, "threshold"),
        (["--mu", "-1"], 2, "0 or more"),
        (["--precision", "float8"], 2, "bfloat16"),
        (["--device", "cuda:7"], 1, "cuda:7"),
        (["--no-such-option"], 2, "no-such-option"),
        (["--memory", "lots"], 2, "4GiB"),
    ],
)
def test_wrong_options(capsys, checkpoint, photographs, tmp_path, arguments, status, words) -> None:
    got, said = refused(
        capsys,
        "score",
        checkpoint,
        "--images",
        photographs,
        "--store",
        tmp_path / "store",
        *arguments,
    )
    assert (got, words in said) == (status, True), said
    assert not (tmp_path / "store" / "heads").exists()


def test_wrong_architecture_lists_what_does_not_fit(
    capsys, checkpoint, photographs, tmp_path: Path
) -> None:
    status, said = refused(
        capsys,
        "plan",
        checkpoint / "model.safetensors",
        "--architecture",
        "vit_small_patch16_224",
        "--images",
        photographs,
        "--store",
        tmp_path / "store",
    )
    assert status == 1
    assert "vit_small_patch16_224" in one_sentence(said)


def test_unknown_model_names_close_ones(capsys, photographs, tmp_path: Path) -> None:
    status, said = refused(
        capsys, "plan", "vit_bse_patch16_224", "--images", photographs, "--store", tmp_path / "s"
    )
    assert status == 1
    assert "vit_base_patch16_224" in one_sentence(said)


def test_checkpoint_cut_short(capsys, checkpoint, photographs, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((checkpoint / "model.safetensors").read_bytes()[:5000])
    status, said = refused(
        capsys,
        "plan",
        cut,
        "--architecture",
        "vit_tiny_patch16_224",
        "--images",
        photographs,
        "--store",
        tmp_path / "store",
    )
    assert status == 1
    assert "cut.safetensors" in one_sentence(said)


def test_pickle_that_runs_code_is_not_run(capsys, photographs, tmp_path: Path) -> None:
    file = code_running_pickle(tmp_path / "evil.pth", tmp_path / "proof")
    status, said = refused(
        capsys,
        "plan",
        file,
        "--architecture",
        "vit_tiny_patch16_224",
        "--images",
        photographs,
        "--store",
        tmp_path / "store",
    )
    assert status == 1
    assert "evil.pth" in one_sentence(said)
    assert not (tmp_path / "proof").exists()


def test_debug_shows_where_an_error_came_from(checkpoint, tmp_path: Path) -> None:
    from soapworks.errors import InputError

    with pytest.raises(InputError):
        main(["plan", str(checkpoint), "--images", str(tmp_path / "nowhere"), "--debug"])


def test_plan_in_json(capsys, checkpoint, photographs, tmp_path: Path) -> None:
    main(
        [
            *("plan", str(checkpoint), "--images", str(photographs), "--synthetic-images", "5"),
            *("--store", str(tmp_path / "store"), "--json", "--quiet"),
        ]
    )
    (plan,) = json.loads(capsys.readouterr().out)
    assert plan["forward_passes"] == 17
    assert plan["layers"] == ["blocks.0", "blocks.1", "norm"]


def test_ls_of_an_empty_store(capsys, tmp_path: Path) -> None:
    main(["ls", "--store", str(tmp_path)])
    assert "empty" in capsys.readouterr().out


def test_help_loads_nothing_heavy() -> None:
    heavy = ["torch", "timm", "prefect", "pandas", "zarr", "dask", "numpy", "pydantic"]
    program = (
        "import sys\nfrom soapworks.flows.cli import soapworks\n"
        "soapworks(args=['--help'], standalone_mode=False)\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "[]"
    assert "score" in run.stdout


def test_every_setting_is_an_option() -> None:
    from soapworks.flows.commands.score import score
    from soapworks.tasks.settings import RunOptions, ScoreSettings

    help_text = CliRunner().invoke(score, ["--help"]).output
    for name in (*ScoreSettings.model_fields, *RunOptions.model_fields):
        assert f"--{name.replace('_', '-')}" in help_text
