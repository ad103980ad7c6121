"""Prefect's settings as the user configured them, and the API that they name."""

import io
import os
import sys
import tomllib
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

from soapworks.errors import EngineError

if TYPE_CHECKING:
    from prefect.settings import Settings


def configured_api_url() -> str | None:
    """Return the Prefect API that the environment or the active profile names.

    Prefect is imported only where some file could hold the answer; so our own server can start
    while Prefect is still being imported.

    Raises
    ------
    EngineError
        If Prefect cannot read its settings.
    """
    configured = _some_file_configures_prefect()
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    return load_settings().api.url if configured or "prefect" in sys.modules else None


def load_settings() -> "Settings":
    """Import Prefect and return its settings.

    Raises
    ------
    EngineError
        If Prefect cannot read its settings.
    """
    report = io.StringIO()  # Prefect's own, of a failed import, shows values, which may be secret
    try:
        with redirect_stderr(report):
            from prefect.settings import get_current_settings

            settings = get_current_settings()
        sys.stderr.write(report.getvalue())
        return settings
    except ImportError:
        raise
    except Exception as error:  # pydantic's, tomllib's, those of the file system
        reason = str(error).strip().partition("\n")[0]
        if callable(errors := getattr(error, "errors", None)):  # its text would show the values
            first = errors(include_input=False, include_url=False)[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise EngineError(
            f"Prefect cannot use its settings ({reason}): correct the PREFECT_* environment "
            f"variables, {_profiles()}, or prefect.toml, pyproject.toml and .env in this folder"
        ) from error


def _profiles() -> Path:
    home = os.environ.get("PREFECT_HOME") or "~/.prefect"
    path = os.environ.get("PREFECT_PROFILES_PATH") or f"{home}/profiles.toml"
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib's fails without a home


def _some_file_configures_prefect() -> bool:
    """Return whether a file may hold settings of Prefect, having read each of them."""
    candidates = {
        _profiles(): "",
        Path("prefect.toml"): "",
        Path("pyproject.toml"): "tool.prefect",
        Path(".env"): "PREFECT_",
    }
    found = False
    for path, word in candidates.items():
        try:
            if not path.is_file():
                continue
            text = path.read_text(encoding="utf-8")
            if path.suffix == ".toml":
                tomllib.loads(text)
        except (OSError, ValueError) as error:
            raise EngineError(
                f"Prefect's settings cannot be read from {path} ({error}): correct or remove that "
                "file"
            ) from error
        found = found or word in text
    return found
