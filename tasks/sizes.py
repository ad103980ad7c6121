"""Numbers of bytes in words."""


def size(n_bytes: int | None) -> str:
    """Return a number of bytes in words."""
    if n_bytes is None:
        return "unlimited"
    value = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
