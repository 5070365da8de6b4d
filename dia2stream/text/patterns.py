"""The constructs that the lexer knows, each as a pattern that ends in the character which closes the construct.

So no further text changes a match, and a partial match means that the construct may still be completed.
"""

import re

import regex

from dia2stream.text.tables import LEFT_OUT_TAGS

# What only the beginning of a line makes a mark.
LINE_MARKS = frozenset("[-*_=`~|#+>\u2013\u2022\u2023\u25aa\u25cf\u25e60123456789:")
RULE = regex.compile(r"([-*_=])[ \t]*(?:\1[ \t]*){2,}\r?(?=\n)")
FENCE = regex.compile(r"(?:`{3,}|~{3,})[^`\n]*(?=\n)")
TABLE_RULE = regex.compile(r"\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*\r?(?=\n)")
HEADING = regex.compile(r"#{1,6}[ \t]+")
BULLET = regex.compile(r"[-*+\u2013\u2022\u2023\u25aa\u25cf\u25e6][ \t]+(?=\S)")
NUMBER = regex.compile(r"\d{1,3}[.)][ \t]")
QUOTE = regex.compile(r">[ \t]?(?=[^=\d])")
ROW = regex.compile(r"\|")

OR = regex.compile(r"\|\|(?=\s)")  # of a program: "a || b"
SPEAKER = regex.compile(r"\[[sS](\d{1,3})\]")
CHECKBOX = regex.compile(r"\[[ xX]\](?=\s)")
CITATION = regex.compile(r"\u3010[^\u3011\n]*\u3011")
# A definition that references go to: `[docs]: https://example.com "Title"`; "[S1]: Hello" is none.
DEFINITION = regex.compile(
    r"""\[(?![sS]\d)[^\[\]\s^]{1,60}\]:[ \t]*<?(?:https?://|www\.|mailto:|/|\#)\S*"""
    r"""(?:[ \t]+(?:"[^"\n]*"|'[^'\n]*'))?[ \t]*\r?(?=\n)"""
)
LINK = regex.compile(r"""\](?:\((?:[^()\s]|\([^()\s]*\))*(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)|\[[^\[\]\s]*\])""")
ESCAPE = regex.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[PX^_][^\x1b]*\x1b\\|[ -/]*[0-OQ-WYZ\\`-~])"
)
ADDRESS = regex.compile(r"<((?:https?://|mailto:)[^\s<>]*)>")
COMMENT = regex.compile(r"<!--")
MARKUP = regex.compile(
    r"""<(?P<close>/?)(?P<name>[A-Za-z][\w:-]*)"""
    r"""(?P<attributes>(?:\s+[\w:-]+(?:\s*=\s*(?:"[^"<]*"|'[^'<]*'|[^\s"'<>`=]+))?)*)\s*(?P<void>/?)>"""
)
# Raised figures: a power, as in "x<sup>2</sup>", or behind a word of text the mark of a footnote.
POWER = regex.compile(r"<sup>([-+\u2212]?\d{1,3}|[nx])</sup>", regex.IGNORECASE)
SPECIAL_TOKEN = regex.compile(r"<\|[A-Za-z_][\w ]{0,40}\|>")  # of a language model: "<|im_end|>"
ALIAS = regex.compile(r"""\balias\s*=\s*(?:"([^"]*)"|'([^']*)')""")
DECLARATION = regex.compile(r"<[!?][A-Za-z][^<>]*>")

ENDS = {name: regex.compile(rf"</{name}[ \t\n]{{0,8}}>", regex.IGNORECASE) for name in LEFT_OUT_TAGS | {"sub"}} | {
    "!--": regex.compile("-->")
}


# The one spelling that the script reader knows, to which a colon is a space.
EXACT_BREAK = regex.compile(r"""<break[\s:\x1c-\x1f]+time="([0-9]+(?:\.[0-9]+)?|\.[0-9]+)s"[\s:\x1c-\x1f]*/?>""")
NO_BREAK = re.compile(r"[^\s\x00-\x1f\x7f-\x9f<]+")
