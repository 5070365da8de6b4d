"""Breaks: every usual way to write a pause as a tag, -> its seconds."""

import re

_STRENGTHS = {"none": 0.0, "x-weak": 0.1, "weak": 0.2, "medium": 0.4, "strong": 0.8, "x-strong": 1.2}
_ATTRIBUTE = re.compile(r"""([\w:-]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'<>=]+))""")
_TIME = re.compile(r"\+?([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(ms|msecs?|milliseconds?|s|secs?|seconds?)", re.IGNORECASE)


def break_seconds(attributes: str) -> float | None:
    """The length of a break with these attributes, as `time="500ms"` or `strength='weak'`; None where it says none."""
    given = {name.lower(): a or b or c for name, a, b, c in _ATTRIBUTE.findall(attributes)}
    if "time" in given:
        match = _TIME.fullmatch(given["time"].strip())
        if match is None:
            return None
        return float(match[1]) / (1000 if match[2].lower().startswith("m") else 1)
    if "strength" in given:
        return _STRENGTHS.get(given["strength"].strip().lower())
    return None if attributes.strip(" /") else _STRENGTHS["medium"]
