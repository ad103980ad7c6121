"""The image formats that are read, told apart by content.

The list is what Pillow's own wheels always read without outside programs, so a file is judged the
same way on every machine. A suffix decides which files are *listed*; the first bytes alone decide
how one is *read* (a PNG named ``.jpg`` is a PNG), and only that one decoder ever sees the data.
"""

import re

IMAGE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff"),
        *(".webp", ".ppm", ".pgm", ".pbm", ".pnm"),
    )
)
"""Lower-case suffixes of the files that count as images."""

FORMAT_NAMES = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WebP", "PNM")
"""The formats behind the suffixes, as messages name them."""

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_JPEG_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])", re.DOTALL)
_START_OF_SCAN, _END_OF_IMAGE = b"\xda", b"\xd9"
_WITHOUT_LENGTH = (b"\x01", b"\xd8")


def suffix_of(path: str) -> str:
    """Return the lower-case suffix of a POSIX path with its dot, or ``""``.

    Parameters
    ----------
    path
        Any path; only its last component counts. A leading dot makes no suffix.
    """
    name = path.rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def identify_format(data: bytes) -> str | None:
    """Return which of `FORMAT_NAMES` the first bytes announce, or None.

    Parameters
    ----------
    data
        The whole file, or at least its first 12 bytes.
    """
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if len(data) > 2 and data[0:1] == b"P" and data[1] in b"123456" and data[2:3].isspace():
        return "PNM"
    return None


def webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) that a WebP file declares, or None when its header does not say.

    Pillow's WebP decoder allocates the canvas as soon as a file is opened, so its size has to be
    known before. Source: the WebP container specification (RFC 9649), sections 2.5 to 2.7.

    Parameters
    ----------
    data
        The whole file, or at least its first 30 bytes.
    """
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        return (
            int.from_bytes(data[24:27], "little") + 1,
            int.from_bytes(data[27:30], "little") + 1,
        )
    if kind == b"VP8 " and len(data) >= 30:
        return (
            int.from_bytes(data[26:28], "little") & 0x3FFF,
            int.from_bytes(data[28:30], "little") & 0x3FFF,
        )
    if kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def has_more_scans(data: bytes, limit: int) -> bool:
    """Tell whether a JPEG's first image holds more than `limit` scans.

    A progressive JPEG may refine the whole picture once more with every hundred bytes, which
    costs a decoder minutes. Usual files have 1 to 20 scans. Source: ITU-T T.81, annex B.

    Parameters
    ----------
    data
        The whole file.
    limit
        Number of scans that is still fine.
    """
    # Metadata and appended videos hold such bytes by chance, so many of them prove nothing.
    if data.count(b"\xff" + _START_OF_SCAN) <= limit:
        return False
    n_scans, position = 0, 2
    while n_scans <= limit and (match := _JPEG_MARKER.search(data, position)):
        marker, position = match[1], match.end()
        if marker == _END_OF_IMAGE:
            break
        n_scans += marker == _START_OF_SCAN
        if marker not in _WITHOUT_LENGTH:
            position += int.from_bytes(data[position : position + 2], "big")
    return n_scans > limit
