"""`dia2stream pipe` as a process: every command, clean audio, quiet ends; no bad line or slow reader breaks it.

Loading takes seconds, so what can share a process does: a `start` forgets everything before it.
"""

import base64
import json
import random
import signal
import struct
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import SimpleNamespace

import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from piping import Event, Pipe, a_second, soon

from dia2stream.conversation.words import MAX_QUEUED_WORDS
from dia2stream.engine.engine import Engine
from dia2stream.options import ModelOptions
from dia2stream.protocol.messages import MAX_COMMAND_BYTES, Inject, Start
from dia2stream.stdio import pipe as module

TEXT = "[S1] Hello there, how are you? [S2] Fine."
LONG = "[S1] " + "This goes on and on, and on. " * 5
FRAME = 4 + 3840  # bytes of 80 ms with --framed


@pytest.fixture(scope="module")
def pipe() -> Iterator[Pipe]:
    with Pipe("--framed") as pipe:
        pipe.wait_for("ready")
        yield pipe
        # Input that ends while the conversation is paused, and its text open, ends the program.
        talk = Talk(pipe)
        talk.send("start", text=LONG, id="open", final=False)
        talk.wait_for("first_audio")
        talk.send("pause")
        pipe.end_input()
        assert pipe.wait() == 0
        assert talk.events[-1]["event"] == "paused"
        assert all(event["event"] != "log" for event in pipe.events)


class Talk:
    """What comes out of a shared, framed pipe from here on."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe, self._line, self._byte = pipe, len(pipe.lines), len(pipe.audio)

    def send(self, cmd: str, **fields: object) -> None:
        self.pipe.send(cmd, **fields)

    def wait_for(self, event: str, **fields: object) -> Event:
        return self.pipe.wait_for(event, self._line, **fields)

    def wait_for_audio(self, milliseconds: int) -> None:
        self.pipe.wait_for_audio(self._byte + milliseconds // 80 * FRAME)

    def audio(self, id: str) -> bytes:
        """The samples until that utterance is done, which is exactly where the audio clock says."""
        until = self.wait_for("done", id=id)["audio_ms"]
        self.wait_for_audio(until)
        assert self.milliseconds == until
        return b"".join(self.frames)

    @property
    def events(self) -> list[Event]:
        return self.pipe.events[self._line :]

    @property
    def frames(self) -> list[bytes]:
        data, frames = bytes(self.pipe.audio[self._byte :]), []
        while data:
            (count,) = struct.unpack_from("<I", data)
            frames.append(data[4 : 4 + 2 * count])
            data = data[4 + 2 * count :]
        return frames

    @property
    def milliseconds(self) -> int:
        return sum(map(len, self.frames)) // 48


def spoken(pipe: Pipe, text: str = TEXT, seed: int = 5) -> bytes:
    talk = Talk(pipe)
    talk.send("start", text=text, seed=seed, id="all")
    return talk.audio("all")


# --- commands ---


def test_ready_says_what_is_served(pipe):
    ready = pipe.events[0]
    assert ready.items() >= {"event": "ready", "model": "random:tiny", "device": "cpu", "voices": []}.items()
    assert ready.items() >= {"sample_rate": 24000, "encoding": "pcm16", "frame_ms": 80}.items()


def test_start_speaks_in_frames_with_the_events_in_their_places(pipe):
    talk = Talk(pipe)
    talk.send("start", text=TEXT, id="a", seed=5)
    talk.audio("a")
    assert {len(frame) for frame in talk.frames} == {3840}
    names = [event["event"] for event in talk.events]
    assert names == ["started", "first_audio", *["word"] * 6, "done"]
    assert [event["word"] for event in talk.events[2:-1]] == TEXT.replace("[S1] ", "").replace("[S2] ", "").split()
    starts = [event["start_ms"] for event in talk.events[2:-1]]
    assert starts == sorted(starts)


def test_the_same_seed_gives_the_same_audio_and_another_one_other(pipe):
    assert spoken(pipe) == spoken(pipe) != spoken(pipe, seed=6)


def test_text_in_pieces_gives_the_audio_of_the_whole(pipe):
    whole, talk = spoken(pipe), Talk(pipe)
    talk.send("start", text="[S1] Hel", seed=5, id="p", final=False)
    for piece in ("lo there, how", " are you? [S", "2] Fine."):
        talk.send("inject", text=piece, final=False)
    talk.send("end")
    assert talk.audio("p") == whole


def test_pause_and_resume_change_nothing(pipe):
    whole, talk = spoken(pipe, LONG), Talk(pipe)
    talk.send("start", text=LONG, seed=5, id="p")
    talk.wait_for_audio(400)
    talk.send("pause")
    paused = talk.wait_for("paused")
    so_far = talk.milliseconds
    time.sleep(0.3)
    assert paused["heard_ms"] == talk.milliseconds == so_far  # nothing follows `paused`
    talk.send("resume")
    talk.wait_for("resumed")
    assert talk.audio("p") == whole


def test_an_interruption_goes_back_to_what_was_heard(pipe):
    talk, text = Talk(pipe), LONG + LONG.removeprefix("[S1] ") * 9  # too long to be over before it is interrupted
    talk.send("start", text=text, seed=5, id="old")
    talk.wait_for_audio(2000)
    talk.send("pause")
    sent = talk.wait_for("paused")["heard_ms"]
    talk.send("pause", played_ms=1600)
    paused = talk.wait_for("paused", heard_ms=1600)
    assert f"{paused['spoken']} {paused['pending']}".split() == text.split()[1:]
    talk.send("inject", text="Sorry, go ahead.", id="new")
    talk.audio("new")  # the clock goes on from what was sent
    assert sent <= talk.wait_for("word", id="new", word="Sorry,")["start_ms"] <= sent + 400
    assert not [event for event in talk.events if event["event"] == "done" and event["id"] == "old"]


def test_what_the_caller_said_changes_the_reply_and_is_not_in_the_audio(pipe):
    audio = base64.b64encode(random.Random(0).randbytes(2 * 24000)).decode()
    replies = []
    for heard in ({"audio": audio, "text": "Is it you?"}, {"audio": audio, "words": [["No.", 0.2, 0.6]]}, {}):
        talk = Talk(pipe)
        talk.send("start", text="", seed=5)
        if heard:
            talk.send("listen", **heard)
        talk.send("inject", text="Yes, it is.", id="reply")
        replies.append(talk.audio("reply"))
        assert [event["word"] for event in talk.events if event["event"] == "word"] == ["Yes,", "it", "is."]
    assert len(set(replies)) == 3


def test_reset_forgets_the_conversation(pipe):
    whole, talk = spoken(pipe), Talk(pipe)
    talk.send("start", text=LONG, id="gone")
    talk.wait_for("first_audio")
    talk.send("reset")
    talk.wait_for("reset")
    talk.send("inject", text="Hello.", id="x")
    assert talk.wait_for("error").items() >= {"code": "no_session", "cmd": "inject", "id": "x"}.items()
    # The next one sounds as if there had been none. Behind it, nothing of the old one is left to be read.
    talk.send("start", text=TEXT, seed=5, id="again")
    talk.pipe.wait_until(lambda: b"".join(talk.frames).endswith(whole), "the next conversation")


def test_a_new_start_cuts_the_old_conversation_off_and_its_clock_begins_again(pipe):
    whole, talk = spoken(pipe), Talk(pipe)
    talk.send("start", text=LONG, id="old")
    talk.wait_for_audio(400)
    talk.send("start", text=TEXT, seed=5, id="new")
    new = talk.wait_for("done", id="new")["audio_ms"]
    assert new == len(whole) // 48
    talk.pipe.wait_until(lambda: b"".join(talk.frames).endswith(whole), "the new conversation")


# --- bad lines ---


def bad_lines(count: int, seed: int) -> Iterator[bytes]:
    """Lines that are each refused, from noise to commands that do not fit the moment."""
    draw = random.Random(seed)

    def noise() -> bytes:
        return b"\xff" + draw.randbytes(draw.randrange(1, 200)).replace(b"\n", b"")

    def broken() -> bytes:
        line = json.dumps({"cmd": "start", "text": "Hello " * draw.randrange(20)}).encode()
        return line[: draw.randrange(1, len(line))]

    def wrong() -> bytes:
        value = draw.choice([None, True, -1, 1e999, float("nan"), "\ud800", [], {}, [[1]], 10**40])
        field = draw.choice(["text", "id", "final", "voice", "seed", "cfg_scale", "initial_padding", "played_ms", "x"])
        fields = {"cmd": draw.choice(["start", "inject", "pause", "stop", 7]), field: value, "y": 1}
        return json.dumps(fields).encode()

    def deep() -> bytes:
        return draw.choice([b"[", b'{"a":', b'{"cmd":[']) * draw.randrange(1, 5000)

    def huge() -> bytes:
        return b'{"cmd": "start", "text": "' + b"x" * draw.randrange(MAX_COMMAND_BYTES, 3 * MAX_COMMAND_BYTES)

    def not_now() -> bytes:
        return draw.choice(
            [
                b'{"cmd": "resume"}',
                b'{"cmd": "end"}',
                b'{"cmd": "start", "text": "Hello.", "voice": "nobody"}',
                b'{"cmd": "inject", "text": "Wait <break time=\\"99s\\"/> here."}',
                b'{"cmd": "inject", "text": "' + b"word " * 2100 + b'"}',
            ]
        )

    kinds = [noise, broken, wrong, not_now, deep, huge]
    weights = [200, 200, 400, 20, 10, 1]
    for _ in range(count):
        yield draw.choices(kinds, weights)[0]()


def assert_bad_lines_do_no_harm(pipe: Pipe, count: int) -> None:
    whole = spoken(pipe, LONG)
    before = pipe.memory_kb()
    talk = Talk(pipe)
    talk.send("start", text=LONG, seed=5, id="on")
    lines = list(bad_lines(count, seed=1))
    pipe.write(b"".join(line + b"\n" for line in lines))
    assert talk.audio("on") == whole
    talk.send("inject", text="Still here.", id="after")
    talk.wait_for("done", id="after")
    errors = [event for event in talk.events if event["event"] == "error"]
    assert len(errors) == count
    assert all(len(json.dumps(error)) < 1000 for error in errors)
    assert {error["code"] for error in errors} == {"bad_json", "bad_command", "bad_field", "too_long", "overloaded"} | (
        {"not_paused"} if count > 1000 else set()
    )
    assert pipe.memory_kb() < before + 30_000


def test_every_bad_line_is_one_error_and_the_conversation_is_unhurt(pipe):
    assert_bad_lines_do_no_harm(pipe, 5_000)


@pytest.mark.slow
def test_a_hundred_thousand_bad_lines_do_no_harm(pipe):
    assert_bad_lines_do_no_harm(pipe, 100_000)


@given(
    lines=st.lists(st.sampled_from([b"", b"ab", b"x" * 40, b"y" * 41, b"z" * 200])),
    cuts=st.lists(st.integers(0, 500), max_size=6),
    end=st.booleans(),
)
def test_lines_do_not_depend_on_the_chunks_they_come_in(lines, cuts, end):
    data = b"\n".join(lines) + b"\n" * end
    whole = [None if len(line) > 40 else line for line in data.split(b"\n")]
    if whole[-1] == b"":
        whole.pop()  # a newline ends a line, it does not begin one
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = iter([data[a:b] for a, b in pairwise(edges) if a < b])
    assert list(module._lines(chunks, limit=40)) == whole


# --- readers that are slow or gone ---


def assert_a_stuck_reader_costs_nothing(pipe: Pipe, whole: bytes, seconds: float) -> None:
    pipe.stall()
    pipe.send("start", text=LONG, seed=5, id="on")
    pipe.wait_for("first_audio")
    time.sleep(a_second())  # until all queues are full
    memory = pipe.memory_kb()
    pipe.send("pause")
    pipe.wait_for("paused")
    pipe.send("resume")
    pipe.wait_for("resumed")
    pipe.send("end")
    pipe.wait_for("error", code="bad_command")
    time.sleep(seconds)
    assert not [event for event in pipe.events if event["event"] == "done"]
    assert pipe.memory_kb() < memory + 2_000
    pipe.go_on()
    pipe.wait_for("done", id="on", audio_ms=len(whole) // 48)
    pipe.wait_for_audio(len(whole))
    assert bytes(pipe.audio) == whole


def test_a_stuck_reader_gets_answers_costs_no_memory_and_loses_nothing_and_one_that_quits_ends_it(pipe):
    with Pipe() as other:
        assert_a_stuck_reader_costs_nothing(other, spoken(pipe, LONG), seconds=2)
        other.send("start", text=LONG, id="cut short")
        other.wait_for("word", id="cut short")
        assert other.close_stdout() < soon()
        assert other.wait() == 0
        assert {event["event"] for event in other.events} <= {*EVENTS_OF_SPEECH, "error"}


EVENTS_OF_SPEECH = {"ready", "started", "first_audio", "word", "done", "paused", "resumed"}


@pytest.mark.slow
def test_a_reader_that_stops_for_a_minute_goes_on_where_it_was(pipe):
    with Pipe() as other:
        assert_a_stuck_reader_costs_nothing(other, spoken(pipe, LONG), seconds=60)


def test_a_reader_that_quits_while_nothing_is_said_ends_it_quietly():
    with Pipe() as pipe:
        pipe.wait_for("ready")
        assert pipe.close_stdout() < soon()
        assert pipe.wait() == 0
        assert [event["event"] for event in pipe.events] == ["ready"]


# --- the end of input ---


def test_a_telephone_gets_as_many_bytes_as_the_audio_clock_says_and_open_text_is_closed_at_the_end(tmp_path):
    flags = ("--encoding", "mulaw", "--sample-rate", "8000", "--max-lead-ms", "400", "--events", str(tmp_path / "e"))
    with Pipe(*flags, env={"DIA2STREAM_SEED": "5"}) as pipe:
        while not (tmp_path / "e").exists() or "ready" not in (tmp_path / "e").read_text():
            time.sleep(0.01)
        begun = time.monotonic()
        pipe.send("start", text=LONG, id="a", final=False)
        pipe.wait_for_audio(16_000)
        assert time.monotonic() - begun > 1.5  # two seconds of audio, no faster than 400 ms ahead
        pipe.send("pause", played_ms=1000)
        pipe.send("inject", text="Hold on, then.", id="b")
        pipe.send("inject", text="And", id="c", final=False)
        pipe.end_input()
        assert pipe.wait() == 0
    events = [json.loads(line) for line in (tmp_path / "e").read_text().splitlines()]
    assert [event for event in events if event["event"] == "started"] == [{"event": "started", "id": "a", "seed": 5}]
    assert [event["id"] for event in events if event["event"] == "done"] == ["b", "c"]
    assert events[-1]["audio_ms"] * 8 == len(pipe.audio)
    assert len(pipe.audio) % 160 == 0
    assert not any(line.startswith("{") for line in pipe.lines)


# --- plain text ---


def test_plain_text_is_spoken_as_it_comes_into_a_file_with_a_true_header(tmp_path):
    path = tmp_path / "speech.wav"
    with path.open("wb") as file, Pipe("--text", "--wav", "--seed", "5", stdout=file) as pipe:
        pipe.write(b"\n[S1] One two three four five six seven eight nine ten \xc3")
        pipe.wait_for("word", word="One")  # a line is spoken before it ends
        pipe.write(b"\xa9t\xc3\xa9\n\n \n[S2] Last")
        pipe.end_input()
        assert pipe.wait() == 0
    words = [(event["id"], event["word"]) for event in pipe.events if event["event"] == "word"]
    assert words[:2] + words[-3:] == [("1", "One"), ("1", "two"), ("1", "ten"), ("1", "été"), ("2", "Last")]
    assert soundfile.info(path).frames == pipe.events[-1]["audio_ms"] * 24
    assert path.stat().st_size == 44 + 48 * pipe.events[-1]["audio_ms"]


class Listener:
    """Stands in for a session: speaks a few of the queued words each time it is asked how many there are."""

    def __init__(self, refuses: str | None = None) -> None:
        self.text, self.commands, self.most, self.behind, self._queued = "", [], 0, 0, 0

    def submit(self, command: Start | Inject) -> None:
        self.commands.append(command)
        self.text += command.text + "\n" * command.final
        self._queued += len(command.text.split())
        self.most = max(self.most, self._queued)

    @property
    def queued_words(self) -> int:
        self._queued = max(0, self._queued - 100)
        return self._queued

    def wait_while(self, condition: Callable[[], bool]) -> None:
        while condition():
            pass


@pytest.mark.parametrize("separator", ["\n", " "])
def test_a_book_is_queued_no_faster_than_it_is_spoken(separator):
    book = separator.join(f"word{number}" for number in range(50_000)).encode()
    session = Listener()
    module._speak(session, iter([book[start : start + 65536] for start in range(0, len(book), 65536)]))
    assert session.text.split() == book.decode().split()
    assert session.most < MAX_QUEUED_WORDS
    assert sum(command.final for command in session.commands) == (49_999 if separator == "\n" else 0)


@pytest.mark.parametrize(
    ("reads_marks", "ends"),
    [(True, ["Hi.\n", "ink>Yes.\n"]), (False, ["Hi.\n", "<think>One\n", "two\n", "ink>Yes.\n", "<THINK>more\n"])],
)
def test_a_thought_of_several_lines_does_not_end_its_utterance(reads_marks, ends):
    session = Listener()
    module._speak(session, iter([b"Hi.\n<think>One\n\ntwo\n</th", b"ink>Yes.\n<THINK>more\n"]), reads_marks)
    assert [command.text for command in session.commands if command.final] == ends


@pytest.mark.parametrize(
    ("line", "names_it"),
    [(b"Hello there.", True), (b"[S1] Hi", True), (b'{"cmd": }', False), (b'{"cmd": "inject", "text": "a"}', False)],
)
def test_a_line_of_plain_text_is_answered_with_the_flag_for_it(line, names_it):
    session = Listener()
    session.refuse = session.commands.append
    module._obey(session, iter([line]))
    assert str(session.commands[0]).endswith("to speak plain text, give --text") == names_it


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_book_longer_than_the_queue_is_spoken_to_its_end():
    words = [f"w{number}." for number in range(2_500)]
    text = "\n".join(" ".join(words[start : start + 12]) for start in range(0, len(words), 12))
    with Pipe("--text", "--cfg-scale", "1") as pipe:
        pipe.write(text.encode())
        pipe.end_input()
        assert pipe.process.wait(1000) == 0
        assert pipe.wait() == 0
        assert [event["word"] for event in pipe.events if event["event"] == "word"] == words
        assert not [event for event in pipe.events if event["event"] == "error"]
        assert len(pipe.audio) == 48 * pipe.events[-1]["audio_ms"]


# --- ends that are not planned ---


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_signals_end_it_at_once_and_without_a_word(number, code):
    with Pipe() as pipe:
        pipe.send("start", text=LONG)
        pipe.wait_for("first_audio")
        pipe.process.send_signal(number)
        started = time.monotonic()
        assert pipe.wait() == code
        assert time.monotonic() - started < soon()
        assert {event["event"] for event in pipe.events} <= EVENTS_OF_SPEECH


def test_a_failing_model_is_an_internal_error_with_the_traceback_in_the_log_and_nothing_but_json_on_stderr():
    failing = """
import sys
from dia2.steps.stepper import Stepper
act, slots_of_calls = Stepper.act, []
def fail(self, slots):
    slots_of_calls.append(slots)
    if len(slots_of_calls) > 120:
        print("a library that talks")
        raise RuntimeError("made up")
    return act(self, slots)
Stepper.act = fail
"""
    with Pipe(before=failing) as pipe:
        pipe.send("start", text=LONG)
        assert pipe.wait() == 1
    assert len(pipe.audio) % 3840 == 0
    assert b"talks" not in pipe.audio
    talk, log = (event for event in pipe.events if event["event"] == "log")
    assert talk["message"] == "a library that talks"
    assert log["level"] == "error"
    assert log["message"].endswith("RuntimeError: made up")
    assert pipe.events[-1].items() >= {"event": "error", "code": "internal"}.items()


def test_what_a_conversation_remembers_is_an_option(monkeypatch):
    class Recorder(Engine):
        def __init__(self, checkpoint, **options):
            self.options = options

        def warm_up(self):
            pass

    monkeypatch.setattr("dia2stream.engine.engine.load_checkpoint", lambda *model, **options: SimpleNamespace(notes=[]))
    monkeypatch.setattr("dia2stream.engine.engine.set_threads", lambda threads, checkpoint: "no threads")
    assert Recorder.load(ModelOptions(history_seconds=5.0)).options["history_seconds"] == 5.0
