"""The set-up: what is installed is what was locked, and commits meet the checks of CI."""

import re
import shlex
from pathlib import Path

import yaml
from packaging.requirements import Requirement

PROJECT = Path(__file__).parents[2]
LOCK = (PROJECT / "requirements.lock").read_text()
MAKEFILE = (PROJECT / "Makefile").read_text()


def test_every_locked_file_has_its_hash() -> None:
    blocks = re.split(r"^(?=[a-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert len(blocks) > 150
    for block in blocks:
        lines = block.splitlines()
        (specifier,) = Requirement(lines[0].rstrip("\\ ")).specifier
        assert specifier.operator == "=="
        hashes = [
            line for line in lines if re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}( \\)?", line)
        ]
        assert hashes, lines[0]


def test_the_lock_names_no_server() -> None:
    assert "://" not in LOCK
    assert not re.search(r"--(extra-)?index|--find-links|--trusted-host", LOCK)


def test_commits_meet_the_checks_of_ci() -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert recipe
    checks = [shlex.split(line.replace("$(BIN)", ".venv/bin")) for line in recipe[1].splitlines()]
    (repo,) = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repo["repo"] == "local"
    assert [shlex.split(hook["entry"]) for hook in repo["hooks"]] == checks
    assert all(hook["language"] == "system" for hook in repo["hooks"])
