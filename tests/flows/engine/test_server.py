"""The server's process and the database that is kept for the next one."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from soapworks.errors import EngineError
from soapworks.flows.engine import server as engine_server
from soapworks.flows.engine.server import OwnServer
from soapworks.flows.engine.settings import own_server_environment


@pytest.fixture
def migrated(tmp_path: Path) -> Path:
    path = tmp_path / "kept.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE alembic_version (version_num)")
        database.execute("INSERT INTO alembic_version VALUES ('a')")
        database.execute("CREATE TABLE flow (name)")
        database.executemany("INSERT INTO flow VALUES (?)", [("n" * 500,)] * 100)
    return path


def test_sound_database_is_copied(migrated: Path, tmp_path: Path) -> None:
    assert engine_server._copy_database(migrated, tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_bytes() == migrated.read_bytes()


@pytest.mark.parametrize("damage", ["absent", "cut", "noise", "empty", "no tables"])
def test_damaged_database_is_not_used(migrated: Path, tmp_path: Path, damage: str) -> None:
    match damage:
        case "absent":
            migrated.unlink()
        case "cut":
            migrated.write_bytes(migrated.read_bytes()[:10_000])
        case "noise":
            migrated.write_bytes(b"noise" * 1000)
        case "empty":
            migrated.write_bytes(b"")
        case "no tables":
            migrated.unlink()
            with closing(sqlite3.connect(migrated)) as database, database:
                database.execute("CREATE TABLE other (x)")
    assert not engine_server._copy_database(migrated, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


def test_kept_database_holds_what_is_still_in_the_log(tmp_path: Path) -> None:
    source, kept = tmp_path / "live.db", tmp_path / "home" / "kept.db"
    with closing(sqlite3.connect(source)) as live:
        live.execute("PRAGMA journal_mode = WAL")
        live.execute("CREATE TABLE alembic_version AS SELECT 'a' AS version_num")
        live.commit()
        engine_server._keep_database(source, kept)
    assert [path.name for path in kept.parent.iterdir()] == ["kept.db"]
    assert engine_server._copy_database(kept, tmp_path / "copy.db")


def test_home_that_cannot_be_written_is_done_without(tmp_path: Path, migrated: Path) -> None:
    (tmp_path / "file").touch()
    engine_server._keep_database(migrated, tmp_path / "file" / "kept.db")


def test_failure_of_the_server_shows_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "broken.py"
    program.write_text("raise SystemExit('Body() got an unexpected keyword argument')")
    monkeypatch.setattr(engine_server, "_PROGRAM", program)
    server = OwnServer(tmp_path)
    with pytest.raises(EngineError, match=r"status 1: install .*ends with:\nBody\(\) got"):
        server.wait_until_healthy(30)
    server.stop()
    assert not server._scratch.exists()


def test_server_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "hanging.py"
    program.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(engine_server, "_PROGRAM", program)
    server = OwnServer(tmp_path)
    with pytest.raises(EngineError, match=r"did not answer within 0 s: .*its log is empty"):
        server.wait_until_healthy(0.2)
    server.stop()
    assert server._process.returncode is not None


def test_no_room_for_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(EngineError, match="cannot create a folder"):
        OwnServer(tmp_path)


def test_settings_of_a_person_do_not_reach_our_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "postgresql://production")
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "admin:pass")
    made = own_server_environment(tmp_path, migrated=False, auth="us:ours")
    assert "PREFECT_SERVER_DATABASE_CONNECTION_URL" not in made
    assert made["PREFECT_SERVER_API_AUTH_STRING"] == "us:ours"
    assert made["PREFECT_HOME"] == str(tmp_path)


def test_server_settings_exist_in_this_prefect(tmp_path: Path) -> None:
    from prefect.settings.models.root import Settings

    known = {name.upper() for name in Settings().to_environment_variables(include_aliases=True)}
    ours = own_server_environment(tmp_path, migrated=True, auth="us:ours")
    assert {n for n in ours if n.startswith("PREFECT_")} - known <= {
        "PREFECT__SERVER_EPHEMERAL",  # read by prefect.server.api.server itself
        "PREFECT__SERVER_FINAL",
        "PREFECT_SERVER_API_AUTH_STRING",  # unset by default, and so not listed
    }
