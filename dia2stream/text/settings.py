"""How text is read, as a server is told, and as one conversation asks for it."""

from collections.abc import Mapping
from dataclasses import dataclass

from dia2stream.options import SpeechOptions
from dia2stream.text.front_end import TextFrontEnd, TextRules
from dia2stream.text.lexicon import NO_LEXICON, Lexicon, read_lexicon


@dataclass(frozen=True)
class TextSettings:
    """rules: those of a conversation that asks for none, or for auto. lexicon: goes for all conversations."""

    rules: TextRules = "clean"
    lexicon: Lexicon = NO_LEXICON
    auto: TextRules = "clean"  # what suits the model
    makes_sounds: bool = True  # whether the model knows sounds such as "(laughs)"

    @classmethod
    def read(cls, options: SpeechOptions, is_bundled: bool = False) -> "TextSettings":
        """The settings of a server or a command, with the bundled voice or another model. Raises LexiconError."""
        auto: TextRules = "spoken" if is_bundled else "clean"
        rules = auto if options.text_rules == "auto" else options.text_rules
        return cls(rules, read_lexicon(options.say, options.lexicon), auto, makes_sounds=not is_bundled)

    def front_end(self, rules: str | None = None, say: Mapping[str, str] | None = None) -> TextFrontEnd:
        """A front end for one conversation, whose `start` has these fields."""
        known: dict[str | None, TextRules] = {
            None: self.rules,
            "auto": self.auto,
            "off": "off",
            "clean": "clean",
            "spoken": "spoken",
        }
        return TextFrontEnd(known[rules], self.lexicon.with_words(say or {}), self.makes_sounds)
