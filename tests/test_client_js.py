"""The JavaScript client in node, against a real server: it speaks, is interrupted, comes back, and tells refusals."""

import json
import subprocess
from contextlib import contextmanager

import pytest
from piping import PATIENCE
from serving import HANDSHAKE, QUICK, Serve, dialled
from tools import needs

from dia2stream.protocol.schema import TYPES_FILE, typescript

pytestmark = needs("node")

# A player without a sound card: `play` moves it on.
PRELUDE = """
import { Client, Ring, spread } from "./client.mjs";

class Player {
  ring = new Ring(); report = this.ring.report(); onreport = () => {};
  async open() {}
  send(order) { this.ring.handle(order); this.tell(); }
  async pause() { this.send({ paused: true }); }
  play(samples) { this.ring.fill(new Float32Array(samples)); this.tell(); }
  tell() { this.report = this.ring.report(); this.onreport(); }
  heardMs() { return this.report.position / 24; }
}

const [url, token, wait] = process.argv.slice(2);
const player = new Player(), client = new Client(url, { token, player, wait: Number(wait) });
const seen = [], heard = [];
client.on("event", event => seen.push(event));
client.on("heard", word => heard.push(word.word));
for (const name of ["lost", "back", "closed", "dropped"]) {
  client.on(name, about => seen.push({ event: name, ...about }));
}
const next = (name, fits = () => true) => new Promise(resolve => {
  const off = client.on(name, about => { if (fits(about)) { off(); resolve(about); } });
});
const names = () => seen.map(event => event.event);
const LONG = "[S1] One two three four five six seven eight nine ten. ".repeat(4);
function tell(result) { console.log(JSON.stringify(result)); process.exit(0); }
"""


@pytest.fixture(scope="module")
def server():
    with Serve(before=QUICK, token="a b", linger=60) as running:
        yield running


@pytest.fixture
def run(server, tmp_path):
    """Runs some JavaScript behind the prelude; what it tells."""
    (tmp_path / "client.mjs").write_text(server.get("/client.js")[1])

    def run(script, token="a b", wait=30):  # the client of the test before may still be about to go
        (tmp_path / "script.mjs").write_text(PRELUDE + script)
        command = ["node", "--experimental-websocket", "--no-warnings", "script.mjs", server.url, token, str(wait)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_it_speaks_and_tells_each_word_when_it_is_heard(run):
    told = run("""
        await client.start("[S1] One two. [S2] Three.", { id: "a" });
        const at = [];
        client.on("audio", audio => at.push([audio.at, audio.samples.length]));
        const done = await next("done");
        const silent = [...heard];
        player.play(client.words[1].start_ms * 24);
        const before = [...heard];
        player.play(1);
        const between = [...heard];
        player.play(client.clock);
        tell({ at, done, silent, before, between, heard, clock: client.clock, waiting: client.waiting.size,
          speakers: client.words.map(word => word.speaker), names: names() });
    """)
    assert told["silent"] == []
    assert (told["before"], told["between"], told["heard"]) == (["One"], ["One", "two."], ["One", "two.", "Three."])
    assert told["speakers"] == ["S1", "S1", "S2"]
    assert [at for at, _ in told["at"]] == list(range(0, told["clock"], 1920))
    assert told["done"]["audio_ms"] * 24 == told["clock"]
    assert told["waiting"] == 0
    assert told["names"][:2] == ["ready", "started"]


def test_an_interruption_tells_what_was_heard_and_drops_the_rest(run):
    told = run(
        """
        await client.start(LONG, { id: "a" });
        await next("audio", ({ at }) => at > 60000);
        player.play(30000);
        const paused = await client.pause();
        const was = client.paused;
        await client.inject("[S2] Yes?", { id: "b" });
        await next("done", event => event.id === "b");
        player.play(client.clock);
        tell({ paused, was, now: client.paused, played: player.report.played, clock: client.clock, heard,
          dropped: client.words.filter(word => word.dropped).length, words: client.words.length, names: names() });
        """
    )
    assert (told["was"], told["now"]) == (True, False)
    assert told["paused"]["heard_ms"] == 1250
    assert told["dropped"] > 0
    assert told["words"] == told["dropped"] + len(told["heard"])
    assert told["heard"][-1] == "Yes?"
    assert told["paused"]["spoken"].split()[0] == "One"
    assert told["played"] < told["clock"]


def test_a_word_whose_sound_begins_where_it_was_paused_was_not_heard_and_is_dropped(run):
    told = run(
        """
        await client.start(LONG, { id: "a" });
        await next("word", () => client.words.length > 3 && client.words[3].start_ms * 24 < client.clock);
        const cut = client.words[3];
        player.play(cut.start_ms * 24);
        await client.pause();
        const marks = client.words.map(word => [word.heard, word.start_ms < client.heardMs]);
        await client.inject("[S2] Yes?", { id: "b" });
        tell({ at: [cut.start_ms, client.heardMs], heard, marks, dropped: client.words.map(word => word.dropped) });
        """
    )
    assert told["at"][0] == told["at"][1]
    assert told["heard"] == ["One", "two", "three"]
    assert all(heard == before for heard, before in told["marks"])
    assert told["dropped"] == [not heard for heard, _ in told["marks"]]


def test_what_the_server_is_told_and_what_is_dropped_are_the_same_also_where_somebody_else_says_what_was_heard(run):
    told = run(
        """
        await client.start(LONG, { id: "a" });
        await next("audio", ({ at }) => at > 60000);
        player.play(48000);
        const sent = next("command", command => command.cmd === "pause");
        await client.pause(client.words[2].start_ms + 0.3);
        const { played_ms } = await sent;
        await client.inject("[S2] Yes?", { id: "b" });
        tell({ played_ms, at: client.heardMs, dropped: client.words.map(word => word.dropped) });
        """
    )
    assert told["played_ms"] == told["at"]
    assert told["dropped"][:2] == [False, False]
    assert all(told["dropped"][2:])


def test_words_and_audio_that_come_between_a_pause_and_its_answer_are_dropped_too(run):
    told = run(
        """
        const sent = [];
        class Socket {
          constructor() { setTimeout(() => this.tell({ event: "ready", sample_rate: 24000, conversation: "c" })); }
          send(text) { sent.push(JSON.parse(text).cmd); if (sent.at(-1) === "pause") setTimeout(() => this.answer()); }
          tell(event) { this.onmessage({ data: JSON.stringify(event) }); }
          frame() { this.onmessage({ data: new Uint32Array([1920, ...new Array(960)]).buffer }); }
          answer() {
            this.tell({ event: "word", id: "a", word: "Late", start_ms: 80 });
            this.frame();
            this.tell({ event: "paused", heard_ms: 40 });
          }
        }
        const other = new Client("http://x", { player, WebSocket: Socket });
        await other.start("Early late", { id: "a" });
        other.socket.tell({ event: "started", id: "a" });
        other.socket.tell({ event: "word", id: "a", word: "Early", start_ms: 0 });
        other.socket.frame();
        player.play(960);
        other.pause();
        await other.inject("Yes?", { id: "b" });
        tell({ sent, words: other.words.map(({ word, heard, dropped }) => [word, heard, dropped]),
          queued: player.report.queued, position: player.report.position });
        """
    )
    assert told["sent"] == ["start", "pause", "inject"]
    assert told["words"] == [["Early", True, False], ["Late", False, True]]
    assert (told["queued"], told["position"]) == (0, 3840)


def test_a_pause_waits_for_a_sound_card_that_is_late_and_counts_what_it_played_meanwhile(run):
    told = run(
        """
        const { Player: Real } = await import("./client.mjs"), ring = new Ring();
        globalThis.AudioContext = class {
          state = "running"; audioWorklet = { async addModule() {} };
          async resume() {}
        };
        globalThis.AnalyserNode = class { connect() {} };
        globalThis.AudioWorkletNode = class {
          port = { postMessage: order => setTimeout(() => this.take(order), "paused" in order ? 400 : 0) };
          connect() {}
          take(order) {
            if (order.paused) ring.fill(new Float32Array(480));  // the last that the ear got
            ring.handle(order);
            this.port.onmessage({ data: ring.report() });
          }
        };
        const late = new Real();
        await late.open();
        late.send({ push: { at: 0, pcm: new Float32Array(24000) } });
        await late.pause();
        tell({ paused: late.report.paused, heard: late.heardMs() });
        """
    )
    assert told == {"paused": True, "heard": 20}


def test_a_false_alarm_goes_on_where_it_stopped_and_text_is_cancelled_and_closed(run):
    told = run(
        """
        await client.start("[S1] One two three four five six.", { id: "a" });
        await client.inject("Never", { id: "b", final: false });
        await client.cancel("b");
        await client.end("b");
        await next("audio", ({ at }) => at > 20000);
        client.pause(400);  // in the order in which they are given
        await client.resume();
        await next("done");
        const problem = await client.pause().then(() => null, error => error.message);
        tell({ names: names(), words: client.words.map(word => word.word), live: client.live, problem,
          waiting: client.waiting.size });
        """
    )
    assert {"paused", "resumed", "cancelled"} <= set(told["names"])
    assert told["words"] == ["One", "two", "three", "four", "five", "six."]
    assert (told["waiting"], told["problem"]) == (0, None)
    assert "error" not in told["names"]


def test_a_prepared_reply_is_heard_when_it_is_committed_and_never_before(run):
    told = run(
        """
        await client.start("[S1] One two.", { id: "a" });
        await next("done");
        await client.prepare("Never.", "b");
        await next("prepared");
        await client.discard("b");
        await next("discarded");
        await client.prepare("Three", "c", { final: false });
        const open = client.prepared;
        await client.inject(" four.", { id: "c" });
        await next("prepared", event => event.id === "c");
        const before = [client.words.length, client.waiting.size];
        await client.commit("c");
        await next("done", event => event.id === "c");
        tell({ words: client.words.map(word => word.word), open, before, prepared: client.prepared, names: names(),
          waiting: client.waiting.size });
        """
    )
    assert told["words"] == ["One", "two.", "Three", "four."]
    assert (told["open"], told["before"], told["prepared"], told["waiting"]) == ("c", [2, 0], None, 0)
    assert "error" not in told["names"]


def test_a_lost_connection_comes_back_and_no_sample_is_missing(run):
    told = run(
        """
        const at = [];
        client.on("audio", audio => at.push(audio.at));
        await client.start("[S1] One two three four five six seven eight nine ten.", { id: "a" });
        await next("audio", audio => audio.at > 10000);
        client.socket.close();
        await next("lost");
        const added = client.inject("Eleven.", { id: "b" });   // waits until it is back
        await next("back");
        await added;
        await next("done", event => event.id === "b");
        tell({ at, clock: client.clock, names: names(), words: client.words.map(word => word.word) });
        """
    )
    assert told["at"] == list(range(0, told["clock"], 1920))
    assert told["words"] == [
        *["One", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten."],
        "Eleven.",
    ]
    assert told["names"].count("ready") == 2


@contextmanager
def other_client(server):
    with dialled(server) as raw:
        raw.sendall(HANDSHAKE.replace(b"GET /", b"GET /?token=a%20b&wait=20"))
        assert b" 101 " in raw.recv(1 << 16)
        yield


def test_refusals_are_told_with_their_codes(run, server):
    script = """
        const error = await client.start("Hello.", { id: "a" }).then(() => null, error => error);
        tell([error.code, error.message, client.waiting.size, client.live, names().at(-1)]);
    """
    with other_client(server):
        message = "every slot is taken: this server speaks 1 conversation at a time"
        assert run(script, wait=0) == ["busy", message, 0, False, "closed"]
    assert run(script, token="wrong")[:2] == ["unauthorized", "the token is missing or wrong"]
    nowhere = script.replace("await client.start", 'await new Client("ws://127.0.0.1:1", {}).start')
    assert run(nowhere)[:2] == ["closed", "the server cannot be reached"]


def test_what_the_caller_says_goes_in_pieces_with_their_words(run):
    told = run(
        """
        const sent = [];
        class Socket {
          constructor() { setTimeout(() => this.onmessage({ data: '{"event": "ready", "sample_rate": 24000}' })); }
          send(text) { sent.push(JSON.parse(text)); }
        }
        const other = new Client("http://x", { WebSocket: Socket });
        const pcm = new Int16Array(200000).fill(1000, 50000, 150000);
        await other.listen(pcm, { text: "One two three four" });
        await other.listen(new Int16Array(8), { words: [["Hm", 0, 0.0001]], sample_rate: 8000, final: false });
        tell(sent.map(({ audio, ...rest }) => ({ bytes: atob(audio).length, ...rest })));
        """
    )
    assert [(piece["bytes"], piece["final"]) for piece in told] == [
        (180000, False),
        (180000, False),
        (40000, True),
        (16, False),
    ]
    assert [[word for word, _, _ in piece["words"]] for piece in told] == [
        ["One", "two"],
        ["three", "four"],
        [],
        ["Hm"],
    ]
    first = told[0]["words"][0]
    assert first[1] == pytest.approx(50000 / 24000)
    assert told[1]["words"][0][1] < 90000 / 24000
    assert told[3]["sample_rate"] == 8000


@needs("tsc")
def test_its_types_are_those_of_the_protocol(server, tmp_path):
    (tmp_path / "client.js").write_text(server.get("/client.js")[1])
    (tmp_path / TYPES_FILE).write_text(typescript())
    command = ["tsc", "--noEmit", "--strict", "--allowJs", "--checkJs", "--target", "es2022", "--module", "es2022"]
    command += ["--lib", "es2022,dom,dom.iterable", "client.js"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout
