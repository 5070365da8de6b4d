"""The page, in a real browser against a real server: samples reach the worklet, and the keyboard is enough."""

import base64
import json
import os
import re
import subprocess
import sys
import time
import wave
from contextlib import contextmanager

import browser
import numpy as np
import pytest
import torch
from piping import PATIENCE
from serving import HANDSHAKE, QUICK, Serve, certificate, dialled
from tools import needs

from dia2.voice.voice import Clip, ClipWord, Voice

pytestmark = needs("chromium")


@pytest.fixture(scope="module")
def server():
    with Serve(before=QUICK, token="a b", linger=60) as running:
        yield running
        assert not [line for line in running.log if "Traceback" in line or " ERROR " in line]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser.Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def tab(server, chromium):
    with browser.Tab(chromium) as opened:
        opened.show(f"http://127.0.0.1:{server.port}/?token=a%20b")
        yield opened
        opened.value("client.socket?.close()")
        assert opened.problems == []


def speak(tab, text="[S1] One two three four five six seven eight nine ten. " * 3):
    tab.value(f"document.querySelector('#text').value = {text!r}")
    tab.click("#start")
    tab.wait("player.report.played > 12000")


def test_samples_reach_the_worklet_and_words_light_up(tab):
    speak(tab)
    assert tab.value("player.report.energy") > 1
    assert tab.value("player.context.sampleRate") == 24000
    tab.wait("document.querySelectorAll('#words .now, #words .heard').length > 0")
    assert tab.value("document.querySelector('#words p').dataset.speaker") == "S1"
    tab.wait("player.analyser && samples.some(sample => sample !== 0)")  # what the waveform shows
    for figure in ("server-ms", "here-ms"):
        assert tab.value(f"document.querySelector('#{figure}').textContent").endswith(" ms")
    assert tab.value("document.querySelector('#state').textContent") == "speaking"


def test_pause_stops_the_samples_and_resume_goes_on(tab):
    speak(tab)
    tab.click("#pause")
    tab.wait("client.paused && player.report.paused")
    energy, played = tab.value("[player.report.energy, player.report.played]")
    time.sleep(0.5)
    assert tab.value("[player.report.energy, player.report.played]") == [energy, played]
    tab.wait("samples.every(sample => sample === 0)")  # they are looked at when the window is drawn
    assert tab.value("document.querySelector('#pause').textContent") == "Resume"
    tab.click("#pause")
    tab.wait(f"player.report.played > {played} + 2400")


def test_adding_while_paused_rewinds_to_what_was_heard(tab, server):
    speak(tab)
    tab.click("#pause")
    tab.wait("client.paused && player.report.paused")
    heard = tab.wait("client.heardMs")
    assert 0 < heard <= tab.value("client.clock / 24")
    tab.value("document.querySelector('#text').value = '[S2] Wait.'")
    tab.click("#inject")
    tab.wait("[...document.querySelectorAll('#words p')].at(-1).innerText.includes('Wait.')")
    dropped = "client.words.filter(word => word.id === '1' && word.start_ms >= client.heardMs)"  # also what came late
    assert tab.value(f"{dropped}.every(word => word.dropped && !word.heard)")
    assert tab.value(f"document.querySelectorAll('#words .unheard').length === {dropped}.length")
    tab.wait("document.querySelector('#state').textContent === 'ready'")
    assert f'"played_ms":{round(heard)}' in tab.value("document.querySelector('#log').textContent")
    assert tab.value("document.querySelector('#error').textContent") == ""


def test_everything_can_be_done_by_keyboard(tab):
    tab.value("document.querySelector('#text').focus()")
    tab.press("Enter", modifiers=2)
    tab.wait("player.report.played > 2400")
    tab.press("Escape")
    tab.wait("client.paused && player.report.paused")
    tab.press("Escape")
    tab.wait("!client.paused && !player.report.paused")
    reached = set()
    for _ in range(18):
        tab.press("Tab")
        reached.add(tab.value("document.activeElement.id || document.activeElement.tagName"))
    assert {
        "start",
        "inject",
        "pause",
        "reset",
        "prepare",
        "voice",
        "cfg_scale",
        "link",
        "download",
        "talk",
        "SUMMARY",
    } <= reached


def test_a_lost_connection_is_picked_up_by_itself(tab):
    speak(tab)
    tab.value("client.socket.onclose({ code: 1006 }), 0")  # as a network does: the old socket hears nothing of it
    tab.wait("client.socket && client.socket.readyState === 1 && client.conversation")
    clock = tab.value("client.clock")
    tab.wait(f"client.clock > {clock} + 24000")
    assert tab.value("document.querySelector('#error').textContent") == ""


def test_what_is_done_while_the_connection_is_lost_is_told_when_it_is_back(tab, sent):
    speak(tab)
    tab.value("client.socket.onclose({ code: 1006 }), document.querySelector('#pause').click()")  # it is back in 0.3 s
    tab.wait("player.report.paused && client.socket && client.socket.readyState === 1 && client.conversation")
    tab.wait("document.querySelector('#log').textContent.includes(`\"heard_ms\":${Math.round(client.heardMs)},`)")
    assert [command["cmd"] for command in sent()] == ["start", "pause"]
    assert 0 < sent()[1]["played_ms"] < tab.value("client.clock / 24")
    assert tab.value("document.querySelector('#state').textContent") == "paused"


def test_a_refusal_is_told_as_the_server_put_it(tab, server):
    def error_of_a_start():
        tab.value("document.querySelector('#error').textContent = ''")
        tab.click("#start")
        return tab.wait("document.querySelector('#error').textContent")

    with other_client(server):
        assert error_of_a_start() == "Every slot is taken: this server speaks 1 conversation at a time."
    tab.value("history.replaceState(null, '', '/?token=wrong')")
    assert error_of_a_start() == "The token is missing or wrong."
    tab.value("history.replaceState(null, '', '/?token=a%20b')")
    speak(tab)
    assert tab.value("document.querySelector('#error').textContent") == ""


@contextmanager
def other_client(server):
    """Somebody else who has the slot."""
    with dialled(server) as raw:
        raw.sendall(HANDSHAKE.replace(b"GET /", b"GET /?token=a%20b&wait=20"))
        assert b" 101 " in raw.recv(1 << 16)
        yield


@needs("openssl")
def test_a_page_from_https_speaks_over_wss(chromium, tmp_path):
    with Serve(wait=False, **certificate(tmp_path)) as server, browser.Tab(chromium) as tab:
        server.logged("INFO ready")
        tab.call("Security.setIgnoreCertificateErrors", ignore=True)
        tab.show(f"https://127.0.0.1:{server.port}/")
        speak(tab)
        assert tab.value("client.socket.url").startswith("wss:")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_the_window_in_light_and_dark(tab, server, width, dark, tmp_path):
    tab.show(f"http://127.0.0.1:{server.port}/?token=a%20b", width, 844, dark)
    assert tab.value("document.documentElement.scrollWidth") == width
    ground = tab.value("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in ground[4:-1].split(",")) < 200) == dark
    assert tab.value("Math.min(...[...document.querySelectorAll('button')].map(b => b.offsetHeight))") >= 44
    tab.picture(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 5000


# ---- The microphone: Chromium's own, which beeps twice a second ----


@pytest.fixture
def sent(tab):
    """What the page sends from now on."""
    tab.value("""(() => {
        window.sent = [];
        const real = WebSocket.prototype.send;
        WebSocket.prototype.send = function (text) { window.sent.push(text); real.call(this, text); };
    })()""")
    return lambda: [json.loads(text) for text in tab.value("window.sent")]


def test_what_is_said_while_the_button_is_held_is_heard_and_answered(tab, sent):
    tab.value("document.querySelector('#caller').value = 'Are you there?'")
    tab.mouse("mousePressed", "#talk")
    tab.wait("microphone.on")
    assert tab.value("document.querySelector('#state').textContent") == "listening"
    tab.wait("samples.some(sample => sample !== 0)")
    tab.wait("microphone.chunks.length * 128 > 4.2 * 24000")
    tab.mouse("mouseReleased", "#talk")
    tab.wait("document.querySelector('#words p')?.textContent === 'Are you there?'")
    begin, *pieces = sent()
    assert (begin["cmd"], begin["text"]) == ("start", "")
    assert {(piece["cmd"], piece["sample_rate"]) for piece in pieces} == {("listen", 24000)}
    assert [piece["final"] for piece in pieces[-2:]] == [False, True]  # more come where letting go takes seconds
    assert not any(piece["final"] for piece in pieces[:-1])
    pcm = [np.frombuffer(base64.b64decode(piece["audio"]), "<i2") for piece in pieces]
    assert 4.2 * 24000 <= sum(map(len, pcm)) < 30 * 24000
    assert all(np.abs(part[:24000]).max() > 1000 for part in pcm[:1])
    words = [word for piece in pieces for word in piece["words"]]
    assert [word for word, _, _ in words] == ["Are", "you", "there?"]
    assert all(
        0 <= start < len(part) / 24000
        for part, piece in zip(pcm, pieces, strict=True)
        for _, start, _ in piece["words"]
    )
    speak_instead(tab, "[S1] I am.")


def speak_instead(tab, text):
    tab.value(f"document.querySelector('#text').value = {text!r}")
    tab.click("#inject")
    tab.wait(f"[...document.querySelectorAll('#words p')].at(-1).innerText === {text[5:]!r}")
    tab.wait("document.querySelector('#state').textContent === 'ready'")
    assert tab.value("document.querySelector('#error').textContent") == ""


def test_talking_by_keyboard_interrupts_what_is_spoken(tab, sent):
    speak(tab)
    tab.value("document.querySelector('#talk').focus()")
    tab.key("rawKeyDown", " ")
    tab.wait("microphone.on && client.paused && player.report.paused")
    tab.wait("microphone.chunks.length * 128 > 24000")
    tab.key("keyUp", " ")
    tab.wait("document.querySelector('#words p:last-child').dataset.speaker === 'You'")
    assert list(dict.fromkeys(command["cmd"] for command in sent())) == ["start", "pause", "listen"]
    assert not tab.value("client.paused")
    dropped = "client.words.filter(word => word.start_ms >= client.heardMs)"  # none, where the model was late
    assert tab.value(f"document.querySelectorAll('#words .unheard').length === {dropped}.length")
    speak_instead(tab, "[S1] Sorry.")


def test_a_slip_of_the_finger_interrupts_nothing(tab, sent):
    speak(tab)
    tab.value("microphone.open()")
    tab.mouse("mousePressed", "#talk")
    tab.wait("microphone.on")
    tab.value("microphone.chunks.push = () => 0, microphone.chunks.length = 0")  # a slow machine's slip is as short
    tab.mouse("mouseReleased", "#talk")
    played = tab.wait("!client.paused && !player.report.paused && player.report.played")
    tab.wait(f"player.report.played > {played} + 2400")
    assert [command["cmd"] for command in sent()] == ["start", "pause", "resume"]


def test_the_microphone_is_closed_with_the_conversation_and_its_refusal_is_told(tab):
    speak(tab)
    tab.value("microphone.open()")
    track = "window.track = microphone.stream.getTracks()[0]"
    assert tab.value(f"({track}).readyState") == "live"
    tab.click("#reset")
    tab.wait("track.readyState === 'ended' && !microphone.opening")
    tab.value("navigator.mediaDevices.getUserMedia = async () => { throw new Error('Permission denied'); }")
    tab.mouse("mousePressed", "#talk")
    tab.wait("document.querySelector('#error').textContent === 'Permission denied.'")
    tab.mouse("mouseReleased", "#talk")
    assert tab.value("document.querySelector('#talk').textContent") == "Hold to talk"


def test_a_setting_that_is_no_number_is_told_and_what_was_said_then_is_not_heard_later(tab, sent):
    tab.value("document.querySelector('#seed').value = 'lucky'")
    tab.mouse("mousePressed", "#talk")
    tab.wait("microphone.on && microphone.chunks.length * 128 > 24000")
    tab.mouse("mouseReleased", "#talk")
    told = "Seed must be a whole number from 0 to 4294967295, not 'lucky'."
    tab.wait(f'document.querySelector("#error").textContent === "{told}"')
    tab.value("document.querySelector('#seed').value = ' 7 '")
    speak(tab)
    assert [(command["cmd"], command["seed"]) for command in sent()] == [("start", "lucky"), ("start", 7)]


# ---- Prepared replies ----


def test_what_is_prepared_is_said_at_a_click_or_never_was(tab, sent):
    def text_of(id):
        return tab.value(f"document.querySelector('#{id}').textContent")

    def prepare():
        tab.click("#prepare")
        tab.wait("document.querySelector('#readiness').textContent.startsWith('Made in ')")
        assert text_of("prepare") == "Say it now"
        assert "Three" not in text_of("words")

    speak(tab, "[S1] One two.")
    tab.wait("document.querySelector('#state').textContent === 'ready'")
    tab.value("document.querySelector('#text').value = '[S2] Three four.'")
    prepare()
    tab.click("#discard")
    tab.wait("document.querySelector('#prepare').textContent === 'Prepare'")
    assert text_of("readiness") == ""
    prepare()
    tab.click("#prepare")
    tab.wait("[...document.querySelectorAll('#words p')].at(-1).innerText === 'Three four.'")
    tab.wait("document.querySelector('#readiness').textContent.startsWith('Its ')")
    shown = re.fullmatch(r"Its first sound was here (\d+) ms after the click.", text_of("readiness"))
    assert shown
    assert text_of("here-ms") == f"{shown[1]} ms"
    assert [command["cmd"] for command in sent()] == ["start", "prepare", "discard", "prepare", "commit"]
    assert text_of("error") == ""


# ---- Before the first word, and what people take along ----


def test_the_model_and_the_settings_are_there_before_the_first_word(tab):
    tab.wait("document.querySelector('#model').textContent === 'random:tiny on cpu'")
    assert tab.value("[...document.querySelectorAll('.fields input')].map(each => each.placeholder)") == [
        "0.8",
        "3",
        "new",
    ]
    assert tab.value("[...document.querySelector('#voice').options].map(o => o.text)") == ["a new one each time"]
    assert not tab.value("client.conversation")  # looking takes no slot


def test_the_voices_are_there_before_the_first_word_and_another_one_is_for_what_is_added(chromium, tmp_path):
    codes = torch.randint(100, (8, 20), generator=torch.Generator().manual_seed(0)).short()
    for name in ("ann", "bob"):
        Voice(name, (Clip(codes, (ClipWord("Hi.", 0.1, 0.4),)),) * 2).save(tmp_path / f"{name}.voice.safetensors")
    voices = {"DIA2STREAM_VOICE": " ".join(str(tmp_path / f"{name}.voice.safetensors") for name in ("ann", "bob"))}
    with Serve(environment=voices) as server, browser.Tab(chromium) as tab:
        tab.show(f"http://127.0.0.1:{server.port}/#voice=bob")
        tab.wait("document.querySelector('#voice').options.length === 3")
        names = tab.value("[...document.querySelector('#voice').options].map(o => o.text)")
        assert names == ["ann, the default", "ann", "bob"]
        assert tab.value("document.querySelector('#voice').value") == "bob"
        speak(tab, "[S1] One two.")
        tab.value("document.querySelector('#voice').value = 'ann'")
        speak_instead(tab, "[S1] Three.")


def test_temperature_and_guidance_are_those_of_the_fields(tab, sent):
    for name, value in (("audio_temperature", "0"), ("cfg_scale", "1.5"), ("seed", "7")):
        tab.value(f"document.querySelector('#{name}').value = '{value}'")
    speak(tab)
    (begin,) = sent()
    assert (begin["audio_temperature"], begin["cfg_scale"], begin["seed"]) == (0, 1.5, 7)


def test_a_link_carries_the_text_and_the_settings_and_no_token(tab, server):
    tab.value("document.querySelector('#text').value = '[S1] A & b? [S2] #é'")
    tab.value("document.querySelector('#seed').value = '7'")
    copied(tab)
    tab.click("#link")
    link = tab.wait("window.copied")
    assert "token" not in link
    tab.show(link.replace("/#", "/?token=a%20b#"))
    assert tab.value("document.querySelector('#text').value") == "[S1] A & b? [S2] #é"
    assert tab.value("document.querySelector('#seed').value") == "7"


def copied(tab):
    """What is copied next is in window.copied."""
    tab.value("navigator.clipboard.writeText = async text => { window.copied = text; }, 0")


@needs("curl")
def test_the_curl_command_and_the_python_program_speak(tab, server, tmp_path):
    copied(tab)
    tab.value("""document.querySelector('#text').value = '[S1] It\\'s "two" words.'""")
    tab.value("document.querySelector('#cfg_scale').value = '1'")
    environment = {**os.environ, "DIA2STREAM_TOKEN": "a b"}
    for button, file in (("#curl", "said.mp3"), ("#python", "said.wav")):
        tab.value("window.copied = null")
        tab.click(button)
        text = tab.wait("window.copied")
        assert "a b" not in text
        command = ["sh", "-c", text] if button == "#curl" else [sys.executable, "-c", text]
        options = {"cwd": tmp_path, "env": environment, "capture_output": True, "timeout": PATIENCE}
        done = subprocess.run(command, **options)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / file).stat().st_size > 5000
    with wave.open(str(tmp_path / "said.wav")) as said:
        assert (said.getframerate(), said.getnframes() > 12000) == (24000, True)


def test_the_download_has_what_was_heard_and_not_what_was_interrupted(tab):
    tab.value("URL.createObjectURL = blob => { window.blob = blob; return '#'; }, 0")
    tab.value("HTMLAnchorElement.prototype.click = () => {}, 0")
    speak(tab)
    tab.click("#pause")
    tab.wait("client.paused && player.report.paused")
    heard = tab.wait("client.heardMs")
    tab.value("document.querySelector('#text').value = '[S2] Wait.'")
    tab.click("#inject")
    tab.wait("document.querySelector('#state').textContent === 'ready'")
    added = tab.value("client.clock - client.words.at(-1).start_ms * 24")
    tab.click("#download")
    tab.wait("Boolean(window.blob)")
    as_text = "String.fromCharCode(...new Uint8Array(b, 0, 44)) + b.byteLength"
    head = tab.value(f"blob.arrayBuffer().then(b => {as_text})")
    assert (head[:4], head[8:12], head[36:40]) == ("RIFF", "WAVE", "data")
    samples = (int(head[44:]) - 44) / 2
    assert round(heard * 24) + added - 1920 <= samples <= tab.value("client.clock")


def test_two_speakers_have_two_colours_and_the_words_are_in_view_on_a_phone(tab, server):
    tab.show(f"http://127.0.0.1:{server.port}/?token=a%20b", 390, 844)
    speak(tab, "[S1] One two. [S2] Three four. " * 6)
    tab.wait("document.querySelectorAll('#words p[data-speaker=S2] .heard').length > 0")
    lines = "[...document.querySelectorAll('#words p')].slice(0, 2)"
    assert len(set(tab.value(f"{lines}.map(p => getComputedStyle(p).getPropertyValue('--who'))"))) == 2
    tab.value("window.scrollTo(0, 0)")
    tab.wait("client.words.filter(word => word.heard).length > 8")
    assert 0 < tab.wait("document.querySelector('#words .now').getBoundingClientRect().top") < 400
