"""Fingerprints: cheap identities of files that change whenever the content may have.

On a disk size, dates of change and inode; behind a URL size and what the storage reports of the
version. Equal fingerprints mean unread, not proven, equality.
"""

import os
from collections.abc import Mapping
from typing import Any

VERSION_MARKS = (
    *("ETag", "etag", "md5Hash", "content_md5", "crc32c", "generation", "VersionId"),
    *("LastModified", "last_modified", "updated", "mtime", "modified", "created"),
)
"""Facts that tell one version of a remote file from another, as file systems call them."""


def disk_marks(facts: os.stat_result) -> list[int]:
    """Return [bytes, mtime and ctime in ns, inode] of a file."""
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]


def disk_fingerprint(facts: os.stat_result) -> str:
    """Return ``size:mtime:ctime:inode`` of a file, times in ns."""
    return ":".join(map(str, disk_marks(facts)))


def remote_version(facts: Mapping[str, Any]) -> str:
    """Return what tells this version of a remote file from others.

    Examples
    --------
    >>> remote_version({"name": "a.pth", "size": 3, "ETag": "abc"})
    'ETag=abc'
    """
    known = [mark for mark in VERSION_MARKS if facts.get(mark) is not None]
    return ":".join(f"{mark}={facts[mark]}" for mark in known)


def remote_fingerprint(n_bytes: int, facts: Mapping[str, Any]) -> str:
    """Return size and version of a remote file."""
    return ":".join(filter(None, (str(n_bytes), remote_version(facts))))
