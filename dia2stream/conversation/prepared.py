"""Prepared replies: text that may be spoken, made in advance, so that its first frame is there when it is wanted.

    prepare     the text is kept, and nothing of it is told but `prepared`
    commit      means what `inject` with that text would mean now
    discard     it never was

The audio is made in a draft: a copy of the conversation that goes on in the conversation's own slot, as if the text had
been injected (dia2/steps/draft.py). A commit goes on as the draft does. Whatever else comes meanwhile, the draft is
undone first, so no other command meets it, and a new draft is begun behind that command. So a prepared reply can only
save time: without a draft, a commit is an `inject` and nothing more.

Example: the conversation is paused at frame 60 of 100, and "b" is prepared. The draft goes back to the word that was
cut, and makes 25 frames. `resume` undoes it: frames 60 to 99 leave, and the model goes on behind frame 99.

A draft is begun while nothing is spoken, or while paused. During a turn the text just waits.
"""

from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from dia2.steps.aside import DraftRefused
from dia2.steps.context import Context
from dia2.steps.draft import Draft
from dia2.voice.voice import Prefix
from dia2stream.conversation.caller import Ear
from dia2stream.conversation.outbox import Outbox
from dia2stream.conversation.reader import TextReader
from dia2stream.conversation.settings import find_voice
from dia2stream.conversation.words import Words, check_room
from dia2stream.errors import CommandError
from dia2stream.protocol.fields import MAX_TEXT_CHARS, shown
from dia2stream.protocol.messages import (
    Cancel,
    Command,
    Commit,
    Discard,
    Discarded,
    End,
    Inject,
    Prepare,
    Prepared,
    Reset,
    Resume,
    Start,
)

Talk = TypeVar("Talk", bound="Drafting")
Watched = TypeVar("Watched", contravariant=True)


class Drafting(Protocol):
    """What preparing needs of a conversation."""

    context: Context
    words: Words
    outbox: Outbox
    voices: dict[str, Prefix]

    @property
    def paused(self) -> bool:
        """Whether the client has paused it."""

    @property
    def speaking(self) -> bool:
        """Whether a turn goes on."""

    @property
    def is_quiet(self) -> bool:
        """Whether a draft may begin."""

    def need_conversation(self) -> None:
        """Raises CommandError while none has begun."""

    def obey(self, command: Command, arrived: float) -> None:
        """Carries out a command that is about no prepared reply."""

    def draft(self: Talk, context: Context) -> Talk:
        """Another one that stands where this one does, and goes on in a draft of its context."""

    def accept(self: Talk, draft: Talk, id: str, arrived: float) -> None:
        """Goes on as its draft. The utterance of this id counts as asked for now."""


class DraftEar:
    """Hears the caller in a draft: nothing. What the caller has said is encoded when it counts."""

    def __init__(self, ear: Ear) -> None:
        self.sample_rate, self.frame_samples = ear.sample_rate, ear.frame_samples

    def begin(self) -> None:
        """No recording begins in a draft."""

    def encode(self, pcm: Tensor) -> Tensor:
        """The encoder cannot be put back."""
        raise DraftRefused("the caller's last words are not encoded yet")

    def take(self, codes: Tensor) -> None:
        """Codes that were encoded elsewhere."""

    @property
    def bare(self) -> Ear:
        """Itself."""
        return self

    def go_on_from(self, other: Ear) -> None:
        """It remembers nothing."""


class DraftKeeper(Protocol[Watched]):
    """Is told what becomes of the drafts of a conversation that is written down."""

    def begun(self, draft: Watched) -> None:
        """A draft is about to be stepped."""

    def dropped(self, draft: Watched) -> None:
        """A draft never was."""

    def accepted(self, conversation: Watched, draft: Watched, inject: Inject, step: int) -> None:
        """A conversation goes on as its draft, which began with this command. step: the model's, when it began."""


@dataclass
class Reply:
    """A prepared reply.

    inject: the command that a commit amounts to, with all text so far. reader: of its text, to refuse what cannot be
    spoken. words: in it. arrived: when it was prepared. in_pause: was it prepared in the pause that still goes on.
    since: when its audio was asked for last. tried: whether no draft can be made until something changes. told: whether
    `prepared` was.
    """

    inject: Inject
    reader: TextReader
    words: int
    arrived: float
    in_pause: bool
    since: float
    tried: bool = False
    told: bool = False

    @property
    def id(self) -> str:
        """Its name."""
        return str(self.inject.id)


class Preparation(Generic[Talk]):
    """The prepared reply of one conversation, if there is one, and its draft, if that is made.

    keeper: writes the conversation down. draft: is stepped in the conversation's place while it is there.
    """

    def __init__(self, conversation: Talk) -> None:
        self.keeper: DraftKeeper[Talk] | None = None
        self.draft: Talk | None = None
        self._conversation = conversation
        self._reply: Reply | None = None
        self._slot: Draft | None = None

    @property
    def step(self) -> int:
        """The model's next step, of the conversation itself."""
        return self._conversation.context.step if self._slot is None else self._slot.step

    # ---- Commands ----

    def handle(self, command: Command, arrived: float) -> Command | None:
        """Carries out a command. Returns the one that the conversation has carried out and that is to be written down.

        Raises CommandError, and then nothing has changed, except that a draft may have to be made anew.
        """
        match command:
            case Prepare():
                self._prepare(command, arrived)
            case Commit():
                return self._commit(self._named(command.id), arrived)
            case Discard():
                self._named(command.id)
                self.drop()
            case Cancel(id=id) if self._has(id):
                self.drop()
            case Inject(id=id) | End(id=id) if self._has(id):
                self._feed(command, self._named(id), arrived)
            case _:
                self.make_way(arrived)
                self._conversation.obey(command, arrived)
                self._follow(command)
                return command
        return None

    def _has(self, id: str | None) -> bool:
        return id is not None and self._reply is not None and self._reply.id == id

    def _named(self, id: str | None) -> Reply:
        self._conversation.need_conversation()
        if self._reply is None:
            raise CommandError("bad_field", f"id {shown(id)}: no reply is prepared", field="id")
        if self._reply.id != id:
            problem = f"id {shown(id)} is not that of the prepared reply, which is {shown(self._reply.id)}"
            raise CommandError("bad_field", problem, field="id")
        return self._reply

    def _prepare(self, command: Prepare, arrived: float) -> None:
        conversation = self._conversation
        conversation.need_conversation()
        if any(utterance.id == command.id for utterance in conversation.words.utterances):
            problem = f"id {shown(command.id)} is that of an utterance that is not done; a reply needs one of its own"
            raise CommandError("bad_field", problem, field="id")
        if command.voice is not None:
            find_voice(conversation.voices, command.voice)
        inject = Inject("", command.id, final=False, voice=command.voice)
        reply = Reply(inject, conversation.words.draft(), 0, arrived, conversation.paused, since=arrived)
        self._extend(reply, command.text, command.final)
        self.drop()
        self._reply = reply

    def _feed(self, command: Inject | End, reply: Reply, arrived: float) -> None:
        """More of the prepared text."""
        if isinstance(command, End):
            if not reply.inject.final:
                self._extend(reply, "", final=True)
        elif reply.inject.final:
            problem = f"id {shown(reply.id)}: the text of the prepared reply is complete; commit it, or prepare another"
            raise CommandError("bad_field", problem, field="id")
        elif command.voice not in (None, reply.inject.voice):
            raise CommandError("bad_field", "voice: the prepared reply has begun in another one", field="voice")
        else:
            self._extend(reply, command.text, command.final)
        reply.tried = False
        if self.draft is not None:
            try:
                self.draft.obey(command, arrived)
            except CommandError:  # the commit meets the same problem
                self.make_way(arrived)
                reply.tried = True

    def _extend(self, reply: Reply, text: str, final: bool) -> None:
        """Reads more text into a reply. Raises CommandError for what cannot be spoken."""
        whole = reply.inject.text + text
        if len(whole) > MAX_TEXT_CHARS:
            problem = f"text: a prepared reply has at most {MAX_TEXT_CHARS} characters; commit it, then send the rest"
            raise CommandError("too_long", problem, field="text")
        reader = reply.reader.copy()
        entries = reader.read(text, final)
        check_room(entries, reply.words)
        reply.reader, reply.words = reader, reply.words + len(entries)
        reply.inject = replace(reply.inject, text=whole, final=final)

    def _commit(self, reply: Reply, arrived: float) -> Command | None:
        conversation, draft, slot = self._conversation, self.draft, self._slot
        if draft is None or slot is None:
            conversation.obey(reply.inject, arrived)
            self._reply = None
            return reply.inject
        slot.accept()
        conversation.accept(draft, reply.id, arrived)
        if self.keeper is not None:
            self.keeper.accepted(conversation, draft, reply.inject, slot.step)
        self._reply = self.draft = self._slot = None
        return None

    def _follow(self, command: Command) -> None:
        """What a command of the conversation means for the prepared reply."""
        reply = self._reply
        if reply is None:
            return
        if isinstance(command, Start | Reset) or (isinstance(command, Resume) and reply.in_pause):
            self.drop()
        reply.in_pause = reply.in_pause and self._conversation.paused

    def drop(self) -> None:
        """The prepared reply is not wanted, if there is one."""
        self.make_way()
        reply, self._reply = self._reply, None
        if reply is not None:
            self._conversation.words.know(reply.id)
            self._conversation.outbox.answer(Discarded(reply.id))

    # ---- Drafts ----

    def make_way(self, now: float | None = None) -> None:
        """Undoes the draft, because something else comes. now: when it came."""
        reply, draft, slot = self._reply, self.draft, self._slot
        if reply is not None:
            reply.tried = False
        if reply is None or draft is None or slot is None:
            return
        slot.undo()
        reply.told, reply.since = False, reply.since if now is None else now
        self._end_draft(draft)

    def forget(self) -> None:
        """The conversation is over, and nobody needs its slot as it was."""
        if self.draft is not None and self._slot is not None:
            self._slot.forget()
            self._end_draft(self.draft)
        self._reply = None

    def _end_draft(self, draft: Talk) -> None:
        self.draft = self._slot = None
        if self.keeper is not None:
            self.keeper.dropped(draft)

    def advance(self, now: float) -> bool:
        """Between steps: begins a draft where one can be made. Returns whether `prepared` was told."""
        reply = self._reply
        if reply is None:
            return False
        if self.draft is None and not reply.tried and self._conversation.is_quiet:
            reply.tried = True
            self._begin(reply)
        if self.draft is None or reply.told or not self.draft.outbox.waiting:
            return False
        reply.told = True
        self._conversation.outbox.answer(Prepared(reply.id, max(0.0, now - reply.since) * 1000))
        return True

    def _begin(self, reply: Reply) -> None:
        """Begins a draft, unless it would have to wait for words or overwrite too much."""
        slot = Draft(self._conversation.context)
        draft = self._conversation.draft(slot.context)
        begun = False
        try:
            draft.obey(reply.inject, reply.arrived)
            if draft.speaking:
                slot.begin(draft.outbox.capacity)
                begun = True
        except (CommandError, DraftRefused):
            pass  # the commit meets the same problem, or does the work
        finally:
            if not begun:
                slot.undo()
        if begun:
            self.draft, self._slot = draft, slot
        if self.keeper is not None:
            self.keeper.begun(draft) if begun else self.keeper.dropped(draft)
