"""The image formats that are read, recognised by their content.

A suffix decides which files are *listed*; the first bytes alone decide how one is *read* (a PNG
named ``.jpg`` is a PNG), and only that one decoder ever sees the data. All decoders but the one for
HEIF come with Pillow's own wheels, so a file is judged the same way on every machine.
"""

import re

IMAGE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".bmp"),
        *(".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm"),
        *(".avif", ".heic", ".heif", ".hif"),
    )
)
"""Lower-case suffixes of the files that are read as images."""

UNREAD_SUFFIXES = frozenset(
    (
        *(".jp2", ".j2k", ".j2c", ".jpf", ".jpx", ".jxl", ".jxr", ".wdp", ".qoi", ".tga", ".pcx"),
        *(".psd", ".psb", ".xcf", ".exr", ".dcm", ".svs", ".ndpi", ".dng", ".cr2", ".cr3", ".crw"),
        *(".nef", ".nrw", ".arw", ".sr2", ".orf", ".rw2", ".raf", ".pef", ".srw"),
    )
)
"""Lower-case suffixes of images in formats that are not read; such files count as left out."""

FORMAT_NAMES = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WebP", "PNM", "AVIF", "HEIF")
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
_BRANDS = (
    ("AVIF", {b"avif", b"avis"}),
    ("HEIF", {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}),
)
_MOST_BRANDS = 32
_JPEG_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])", re.DOTALL)
_START_OF_SCAN, _END_OF_IMAGE = b"\xda", b"\xd9"
_WITHOUT_LENGTH = (b"\x01", b"\xd8")
_LONGEST_HEADER, _LONGEST_GAP, _MOST_SEGMENTS, _MOST_COMMENTS = 2**25, 2**16, 10_000, 1000


def suffix_of(path: str) -> str:
    """Return the lower-case suffix of a POSIX path with its dot, or ``""``.

    Parameters
    ----------
    path
        Any path; only its last component counts. A leading dot makes no suffix.

    Examples
    --------
    >>> suffix_of("train.v2/A.JPG")
    '.jpg'
    """
    name = path.rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def identify_format(data: bytes) -> str | None:
    """Return which of `FORMAT_NAMES` the first bytes announce, or None.

    Parameters
    ----------
    data
        The whole file, or at least its first 144 bytes.

    Examples
    --------
    >>> identify_format(b"GIF89a...")
    'GIF'
    """
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if len(data) > 2 and data[0:1] == b"P" and data[1] in b"123456" and data[2:3].isspace():
        return "PNM"
    if data[4:8] == b"ftyp":
        end = min(int.from_bytes(data[:4], "big"), 16 + 4 * _MOST_BRANDS, len(data))
        brands = {data[8:12], *(data[start : start + 4] for start in range(16, end, 4))}
        return next((name for name, known in _BRANDS if brands & known), None)
    return None


def webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Return the declared (width, height) of a WebP file, or None.

    Pillow's WebP decoder allocates the canvas as soon as a file is opened, so its size has to be
    known before. Source: the WebP container specification (RFC 9649), sections 2.5 to 2.7.

    Parameters
    ----------
    data
        The whole file, or at least its first 30 bytes.

    Examples
    --------
    >>> webp_canvas(b"RIFF....WEBPVP8X" + bytes(8) + bytes([9, 0, 0, 4, 0, 0]))
    (10, 5)
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


def excess_of_jpeg(data: bytes, most_scans: int) -> str | None:
    r"""Return why a JPEG would cost a decoder minutes, or None.

    A progressive JPEG may refine the whole picture once more with every hundred bytes; usual files
    have 1 to 20 scans. Source of the structure: ITU-T T.81, annex B.

    Parameters
    ----------
    data
        The whole file.
    most_scans
        Largest number of scans of its first image that is still fine.

    Examples
    --------
    >>> excess_of_jpeg(b"\xff\xd8" + 3 * b"\xff\xda\x00\x02", most_scans=2)
    'more than 2 scans'
    """
    # Metadata and appended videos hold such bytes by chance, so many of them prove nothing.
    may_have_scans = data.count(b"\xff" + _START_OF_SCAN) > most_scans
    n_scans = n_segments = 0
    position = 2
    while match := _JPEG_MARKER.search(data, position):
        if not n_scans and (
            n_segments > _MOST_SEGMENTS
            or match.end() - position > _LONGEST_GAP
            or match.end() > _LONGEST_HEADER
        ):
            return "an oversized header"
        marker, position = match[1], match.end()
        n_scans += marker == _START_OF_SCAN
        n_segments += 1
        if n_scans > most_scans:
            return f"more than {most_scans} scans"
        if marker == _END_OF_IMAGE or (n_scans and not may_have_scans):
            return None
        if marker not in _WITHOUT_LENGTH:
            position += int.from_bytes(data[position : position + 2], "big")
    return None


def excess_of_pnm(data: bytes) -> str | None:
    r"""Return why a PNM would cost a decoder minutes, or None.

    Pillow reads its header byte by byte, and copies the rest of a plain one for every comment.

    Parameters
    ----------
    data
        The whole file.

    Examples
    --------
    >>> excess_of_pnm(b"P5 #" + 99_999 * b"x" + b"\n2 1 255\n\x00\xff")
    'an oversized header'
    """
    header = re.sub(rb"#[^\r\n]*", b"", data[:_LONGEST_GAP]).split(None, 4)
    if len(data) > _LONGEST_GAP and len(header) < (3 if data[1] in b"14" else 4):
        return "an oversized header"
    is_plain = data[1] in b"123"
    return "too many comments" if is_plain and data.count(b"#") > _MOST_COMMENTS else None
