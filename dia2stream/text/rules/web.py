"""E-mail addresses, URLs, file names, handles and hashtags, as they are read aloud."""

import re

from dia2stream.text.numbers import cardinal, digits
from dia2stream.text.rules.acronyms import letters
from dia2stream.text.rules.versions import version_said
from dia2stream.text.tables import ENDINGS, FILE_ENDINGS, SPELLED_LABELS
from dia2stream.text.window import Reading, Said, Window

_EMAIL = re.compile(r"(?:mailto:)?([\w.+%-]+@[\w-]+(?:\.[\w-]+)+)")
_URL = re.compile(r"(?:(?:https?|ftp|wss?)://|(?=www\.))(.+)", re.IGNORECASE)
_DOMAIN = re.compile(r"(?:[\w-]+\.)+([A-Za-z]{2,4})(?::\d+)?(?:[/?#]\S*)?")
_FILE = re.compile(
    rf"[\w-]+(?:\.[\w-]+)*\.(?:{'|'.join(sorted(FILE_ENDINGS))})(?::\d+){{0,2}}|(?-i:[\w-]{{2,}}\.[ch])", re.IGNORECASE
)
_COPY = re.compile(rf"(\d+)\)(\.(?:{'|'.join(sorted(FILE_ENDINGS))}))")  # of "invoice (3).pdf"
_DOT_FILE = re.compile(r"\.[a-z][\w.-]+")
_LOCAL = re.compile(r"localhost(?::\d+)?(?:[/?#]\S*)?")
_FORUM = re.compile(r"[ru]/\w+")
_HANDLE = re.compile(r"@([A-Za-z_][\w.-]*)")
_PACKAGE = re.compile(r"(@?[A-Za-z][\w/-]*)@v?(\d+(?:\.\d+)+)")  # with its version: "eslint@9.1.0"
_HASHTAG = re.compile(r"#(\d*[A-Za-z]\w*)")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z\d])|(?<=\d)(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
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
        if match := _PACKAGE.fullmatch(core):
            return (Said(1, f"{read_aloud(match[1])} at {version_said(match[2])}"),)
        if match := _EMAIL.fullmatch(core):
            return (Said(1, read_aloud(match[1])),)
        match = _HANDLE.fullmatch(core)
        return match and (Said(1, " ".join(["at", *map(_tag_part, _HUMP.split(match[1]))])),)
    if core.startswith("#"):
        match = _HASHTAG.fullmatch(core)
        return match and (Said(1, " ".join(["hashtag", *map(_tag_part, _HUMP.split(match[1]))])),)
    if match := _COPY.fullmatch(core):
        return (Said(1, read_aloud("".join(match.groups()))),)
    if match := _URL.fullmatch(core):
        return (Said(1, _url(match[1])),)
    domain = _DOMAIN.fullmatch(core)
    if (domain and domain[1].lower() in ENDINGS and not core[0].isdecimal()) or _FILE.fullmatch(core):
        return (Said(1, _url(core)),)
    if _LOCAL.fullmatch(core) or _DOT_FILE.fullmatch(core) or _FORUM.fullmatch(core):
        return (Said(1, _url(core)),)
    return None


def _tag_part(text: str) -> str:
    return cardinal(int(text)) if text.isdecimal() else letters(text) if text.isupper() else read_aloud(text)


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
