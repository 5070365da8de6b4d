"""E-mail addresses, URLs, file names, handles and hashtags, as they are read aloud."""

import re

from dia2stream.text.numbers import cardinal, digits
from dia2stream.text.tables import ENDINGS, FILE_ENDINGS, SPELLED_LABELS
from dia2stream.text.window import Reading, Said, Window

_EMAIL = re.compile(r"(?:mailto:)?([\w.+%-]+@[\w-]+(?:\.[\w-]+)+)")
_URL = re.compile(r"(?:(?:https?|ftp|wss?)://|(?=www\.))(.+)", re.IGNORECASE)
_DOMAIN = re.compile(r"(?:[\w-]+\.)+([A-Za-z]{2,4})(?::\d+)?(?:[/?#]\S*)?")
_FILE = re.compile(rf"[\w-]+(?:\.[\w-]+)*\.(?:{'|'.join(sorted(FILE_ENDINGS))})", re.IGNORECASE)
_HANDLE = re.compile(r"@([A-Za-z_][\w.-]*)")
_HASHTAG = re.compile(r"#([A-Za-z]\w*)")
_PIECE = re.compile(r"[A-Za-z]+|\d+|[^A-Za-z\d]")
_NAMES = {
    ".": "dot", "/": "slash", "-": "dash", "_": "underscore", ":": "colon", "?": "question mark", "=": "equals",
    "&": "and", "%": "percent", "#": "hash", "+": "plus", "~": "tilde", "@": "at", ",": "comma", ";": "semicolon",
    "\\": "backslash",
}  # fmt: skip
_LONGEST = 60  # characters of a URL that are read; of a longer one only the host is


def web(window: Window) -> Reading | None:
    """Anything of the web."""
    core = window.first.core
    if "@" in core:
        if match := _EMAIL.fullmatch(core):
            return (Said(1, read_aloud(match[1])),)
        return (Said(1, f"at {read_aloud(core[1:])}"),) if _HANDLE.fullmatch(core) else None
    if core.startswith("#"):
        return (Said(1, f"hashtag {read_aloud(core[1:])}"),) if _HASHTAG.fullmatch(core) else None
    if match := _URL.fullmatch(core):
        return (Said(1, _url(match[1])),)
    domain = _DOMAIN.fullmatch(core)
    if (domain and domain[1].lower() in ENDINGS and not core[0].isdecimal()) or _FILE.fullmatch(core):
        return (Said(1, _url(core)),)
    return None


def _url(text: str) -> str:
    text = text.rstrip("/")
    return read_aloud(text if len(text) <= _LONGEST else re.split(r"[/?#]", text)[0])


def read_aloud(text: str) -> str:
    """Words, figures and signs one by one: "a.b/c" -> "a dot b slash c"."""
    return " ".join(filter(None, (_piece(piece) for piece in _PIECE.findall(text))))


def _piece(piece: str) -> str:
    if piece.isdecimal():
        return digits(piece) if len(piece) > 2 or piece.startswith("0") else cardinal(int(piece))
    if piece.isalpha():
        spelled = piece.lower() in SPELLED_LABELS or (
            1 < len(piece) <= 5 and not re.search(r"[aeiouy]", piece, re.IGNORECASE)
        )
        return " ".join(piece.upper()) if spelled else piece
    return _NAMES.get(piece, "")
