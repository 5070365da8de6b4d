"""What the codec of a slot has heard: all that was played, in order, and nothing else, however often it goes back."""

from typing import Any, cast

import pytest
import torch
from conversations import ToyCodec
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from dia2.steps.history import ARCHIVE_FRAMES, History
from dia2.steps.playback import Opening, Playback

CODEBOOKS, SILENCE = 5, Opening(0, None)


def state_of(*codes: Tensor) -> list[int]:
    """The state of a codec that has heard frames in this order, each int64 [C, n]."""
    codec = ToyCodec()
    for frames in codes:
        codec.hear(frames)
    return codec.state


class Player:
    """A playback over a toy codec, and in a plain list what its codec must have heard: (place, codes [C, 1]).

    A place is the number of a frame; the frames that a cut has made forgotten lie half a place before it.
    """

    def __init__(self) -> None:
        self.codec, self.history = ToyCodec(), History(torch.zeros(CODEBOOKS, ARCHIVE_FRAMES, dtype=torch.int16))
        self.playback = Playback(cast(Any, self.codec), self.history)
        self.playback.begin(SILENCE)
        self.heard: list[tuple[float, Tensor]] = []
        self.frame = self._seed = 0

    def make(self, count: int, played: bool = True) -> None:
        """More frames, which are played or are the caller's."""
        self._seed += 1
        generator = torch.Generator().manual_seed(self._seed)
        codes = torch.randint(0, 64, (CODEBOOKS, count), generator=generator)
        self.history.keep(self.frame, codes)
        if played:
            for number in range(count):
                self.playback.decode(self.frame + number)
                self.heard.append((self.frame + number, codes[:, number : number + 1]))
        else:
            self.playback.skip(range(self.frame, self.frame + count))
        self.frame += count

    def go_back(self, frame: int, opening: Opening | None = SILENCE) -> None:
        near = self.playback.remembers(frame)
        self.playback.go_back(frame, 0, opening)
        # A codec that hears again cannot hear what the conversation has forgotten.
        self.heard = [(at, codes) for at, codes in self.heard if at < frame and (near or at == int(at))]
        self.frame = frame

    def cut(self, frame: int, heard: int) -> None:
        """As a context does it: the codec stays behind what was heard, and the frames go on before it."""
        self.go_back(heard)
        self.playback.cut(frame, heard)
        self.heard = [(at if at < frame else frame - 0.5, codes) for at, codes in self.heard]
        self.go_back(frame)

    @property
    def expected(self) -> list[int]:
        return state_of(*(codes for _, codes in self.heard))


# ---- What is heard ----


def test_frames_of_the_caller_never_reach_the_codec() -> None:
    player = Player()
    player.make(3)
    player.make(4, played=False)
    player.make(2)
    frames = player.history.frames
    assert player.codec.state == state_of(frames(0, 3), frames(7, 9))
    assert player.playback.decoded == 9


def test_a_conversation_in_a_voice_goes_on_from_the_state_behind_its_clips() -> None:
    player = Player()
    clips = torch.randint(0, 64, (CODEBOOKS, 6))
    state = player.playback.hear_clips(clips)
    player.make(3)
    player.playback.begin(Opening(6, state))
    assert player.playback.decoded == 6
    assert player.codec.state == state_of(clips)


def test_a_new_conversation_knows_nothing_of_what_the_one_before_has_skipped_or_cut() -> None:
    player = Player()
    player.make(5)
    player.make(5, played=False)
    player.make(5)
    player.cut(11, 14)
    player.playback.begin(SILENCE)
    player.heard, player.frame = [], 0
    player.make(20)
    player.go_back(12)
    assert player.codec.state == player.expected


# ---- Ways back ----

operations = st.lists(
    st.one_of(
        st.tuples(st.just("play"), st.integers(1, 40)),
        st.tuples(st.just("skip"), st.integers(1, 8)),
        st.tuples(st.just("back"), st.integers(0, 45)),
        st.tuples(st.just("far back"), st.integers(0, 400)),
        st.tuples(st.just("cut"), st.tuples(st.integers(0, 20), st.integers(0, 12))),
    ),
    max_size=14,
)


@given(operations)
@example([("skip", 2), ("back", 1), ("play", 1), ("back", 1)])  # into the midst of what the caller said
def test_the_codec_has_heard_what_was_played_wherever_it_goes_back_to(done: list[tuple[str, Any]]) -> None:
    player = Player()
    for what, value in done:
        if what in ("play", "skip"):
            player.make(value, played=what == "play")
        elif what == "cut":
            unheard, cut = value
            heard = max(0, player.frame - unheard)
            player.cut(max(0, heard - cut), heard)
        else:
            player.go_back(max(0, player.frame - value))
        assert player.codec.state == player.expected, what


def test_going_back_a_little_costs_nothing_and_going_back_far_hears_again() -> None:
    player = Player()
    player.make(60)
    assert player.playback.remembers(30)
    assert not player.playback.remembers(29)
    player.make(50, played=False)  # the codec knows nothing of these, so they do not count
    assert player.playback.remembers(30)


def test_where_the_voice_has_changed_it_hears_the_last_seconds_from_silence() -> None:
    player = Player()
    player.make(300)
    player.go_back(260, opening=None)
    frames = player.history.frames
    assert player.codec.state == state_of(frames(10, 260))


def test_it_hears_no_frames_again_that_the_history_has_lost() -> None:
    player = Player()
    player.make(200)
    player.playback.go_back(100, oldest=60, opening=SILENCE)
    assert player.codec.state == state_of(player.history.frames(60, 100))


def test_what_was_played_of_a_word_that_was_cut_stays_heard_and_can_be_gone_back_over() -> None:
    player = Player()
    player.make(20)
    first = player.history.frames(0, 16)
    player.cut(13, 16)  # 16 frames were heard, and the conversation goes on as if there had been 13
    assert player.codec.state == state_of(first)
    assert player.playback.decoded == 13
    player.make(5)
    player.go_back(13)
    assert player.codec.state == state_of(first)
    player.go_back(12)
    assert player.codec.state == state_of(first[:, :12])


# ---- Several of them ----


def test_a_draft_goes_its_own_way_over_the_same_codec() -> None:
    player = Player()
    player.make(3)
    draft = player.playback.draft(player.history.draft())
    draft.skip(range(3, 7))
    draft.cut(2, 3)
    assert (player.playback.decoded, draft.decoded) == (3, 2)
    player.make(2)
    player.go_back(4)
    assert player.codec.state == player.expected


@pytest.mark.parametrize("again", [0, 2, 7])
def test_one_that_goes_on_elsewhere_has_heard_all_but_the_frames_that_are_decoded_again(again: int) -> None:
    player, there = Player(), Player()
    player.make(6)
    player.make(3, played=False)
    player.make(4)
    there.history.copy(player.history)
    heard = [codes for _, codes in player.heard]
    first = player.frame - again
    there.playback.adopt(player.playback, heard, first, player.frame, before=0)
    decoded = there.playback.decode_again(first, player.frame)
    assert [number for run, _ in decoded for number in run] == [n for n in range(first, player.frame) if not 6 <= n < 9]
    assert there.codec.state == player.codec.state
    assert there.playback.decoded == player.frame


def test_one_that_goes_on_elsewhere_hears_no_more_than_a_warm_up_and_what_goes_before_it() -> None:
    player, there = Player(), Player()
    player.make(400)
    heard = [codes for _, codes in player.heard]
    counted: list[int] = []
    hear = there.codec.hear
    there.codec.hear = lambda codes: (counted.append(codes.shape[1]), hear(codes))  # type: ignore[method-assign, assignment, func-returns-value]
    there.playback.adopt(player.playback, heard, 400, 400, before=7)
    assert counted == [257]
