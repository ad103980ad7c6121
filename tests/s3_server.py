"""A real S3 server on loopback, rclone's: it keeps objects as files in a folder.

It knows no conditional puts (``If-None-Match``), as quite some servers do not; moto's server
(``s3_endpoint`` in conftest) does.
"""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KEY, SECRET = "works", "works-secret"
_DEADLINE = 60.0


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    endpoint: str
    data: Path
    """Folder whose folders are the buckets."""

    @property
    def environment(self) -> dict[str, str]:
        """The usual AWS settings that lead to it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def running_s3_server(folder: Path, *options: str) -> Iterator[S3Server]:
    """Serve the folders in a folder as buckets, on a port that is free; with rclone's options."""
    data = folder / "buckets"
    data.mkdir(parents=True)
    log = folder / "rclone.log"
    command = [
        *(str(Path(sys.executable).with_name("rclone")), "serve", "s3", str(data)),
        *("--addr", "127.0.0.1:0", "--auth-key", f"{KEY},{SECRET}"),
        # Files that are written to the folder beside the server are seen at once.
        *("--vfs-cache-mode", "off", "--config", "", "--cache-dir"),
        str(folder / "cache"),
        *options,
    ]
    with log.open("wb") as file:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        yield S3Server(_address(server, log), data)
    finally:
        server.kill()
        server.wait()


def _address(server: "subprocess.Popen[bytes]", log: Path) -> str:
    end = time.monotonic() + _DEADLINE
    while server.poll() is None and time.monotonic() < end:
        found = re.search(rb"\[(http://127\.0\.0\.1:\d+)/\]", log.read_bytes())
        if found:
            return found[1].decode()
        time.sleep(0.02)
    raise RuntimeError(f"rclone's S3 server did not start:\n{log.read_text()}")


def forget_connections() -> None:
    """Let the next use of ``s3://`` read the environment again: open file systems are kept."""
    import s3fs

    from soapworks.storage_schemas.locations.location import _driver

    s3fs.S3FileSystem.clear_instance_cache()
    _driver.cache_clear()
