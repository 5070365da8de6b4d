"""The page, in a real browser against a real server: samples reach the worklet, and the keyboard is enough."""

import base64
import json
import time
from contextlib import contextmanager

import browser
import numpy as np
import pytest
from serving import HANDSHAKE, QUICK, Serve, certificate, dialled
from tools import needs

pytestmark = needs("chromium")


@pytest.fixture(scope="module")
def server():
    with Serve(before=QUICK, token="a b", linger=60) as running:
        yield running
        assert not [line for line in running.log if "Traceback" in line or " ERROR " in line]


@pytest.fixture
def tab(server, tmp_path):
    with browser.Browser(tmp_path) as opened:
        opened.show(f"http://127.0.0.1:{server.port}/?token=a%20b")
        yield opened
        opened.value("call.socket?.close()")
        assert opened.problems == []


def speak(tab, text="[S1] One two three four five six seven eight nine ten. " * 3):
    tab.value(f"document.querySelector('#text').value = {text!r}")
    tab.click("#start")
    tab.wait("sound.report.played > 12000")


def test_samples_reach_the_worklet_and_words_light_up(tab):
    speak(tab)
    assert tab.value("sound.report.energy") > 1
    assert tab.value("sound.context.sampleRate") == 24000
    tab.wait("document.querySelectorAll('#words .now, #words .heard').length > 0")
    assert tab.value("document.querySelector('#words p').dataset.speaker") == "S1"
    tab.wait("sound.analyser && samples.some(sample => sample !== 0)")  # what the waveform shows
    for figure in ("server-ms", "here-ms"):
        assert tab.value(f"document.querySelector('#{figure}').textContent").endswith(" ms")
    assert tab.value("document.querySelector('#state').textContent") == "speaking"


def test_pause_stops_the_samples_and_resume_goes_on(tab):
    speak(tab)
    tab.click("#pause")
    tab.wait("call.paused && sound.report.paused")
    energy, played = tab.value("[sound.report.energy, sound.report.played]")
    time.sleep(0.5)
    assert tab.value("[sound.report.energy, sound.report.played]") == [energy, played]
    tab.wait("samples.every(sample => sample === 0)")  # they are looked at when the window is drawn
    assert tab.value("document.querySelector('#pause').textContent") == "Resume"
    tab.click("#pause")
    tab.wait(f"sound.report.played > {played} + 2400")


def test_adding_while_paused_rewinds_to_what_was_heard(tab, server):
    speak(tab)
    tab.click("#pause")
    tab.wait("call.paused && sound.report.paused")
    heard = tab.value("call.heard")
    assert 0 < heard <= tab.value("call.clock / 24")
    dropped = tab.value("call.words.filter(word => word.start >= call.heard).length")
    tab.value("document.querySelector('#text').value = '[S2] Wait.'")
    tab.click("#inject")
    tab.wait("[...document.querySelectorAll('#words p')].at(-1).innerText.includes('Wait.')")
    assert tab.value("document.querySelectorAll('#words .unheard').length") >= dropped
    tab.wait("document.querySelector('#state').textContent === 'ready'")
    assert f'"played_ms":{round(heard)}' in tab.value("document.querySelector('#log').textContent")
    assert tab.value("document.querySelector('#error').textContent") == ""


def test_everything_can_be_done_by_keyboard(tab):
    tab.value("document.querySelector('#text').focus()")
    tab.press("Enter", modifiers=2)
    tab.wait("sound.report.played > 2400")
    tab.press("Escape")
    tab.wait("call.paused && sound.report.paused")
    tab.press("Escape")
    tab.wait("!call.paused && !sound.report.paused")
    reached = set()
    for _ in range(8):
        tab.press("Tab")
        reached.add(tab.value("document.activeElement.id || document.activeElement.tagName"))
    assert {"start", "inject", "pause", "reset", "SUMMARY"} <= reached


def test_a_lost_connection_is_picked_up_by_itself(tab):
    speak(tab)
    tab.value("call.socket.onclose({ code: 1006 }), 0")  # as a network does: the old socket hears nothing of it
    tab.wait("call.socket && call.socket.readyState === 1 && !call.tries")
    clock = tab.value("call.clock")
    tab.wait(f"call.clock > {clock} + 24000")
    assert tab.value("document.querySelector('#error').textContent") == ""


def test_what_is_done_while_the_connection_is_lost_is_told_when_it_is_back(tab, sent):
    speak(tab)
    tab.value("call.socket.onclose({ code: 1006 }), document.querySelector('#pause').click()")  # it is back in 0.3 s
    tab.wait("sound.report.paused && call.socket && call.socket.readyState === 1 && !call.tries")
    tab.wait("document.querySelector('#log').textContent.includes(`\"heard_ms\":${Math.round(call.heard)},`)")
    assert [command["cmd"] for command in sent()] == ["start", "pause"]
    assert 0 < sent()[1]["played_ms"] < tab.value("call.clock / 24")
    assert tab.value("document.querySelector('#state').textContent") == "paused"


def test_a_refusal_is_told_as_the_server_put_it(tab, server):
    def error_of_a_start():
        tab.value("document.querySelector('#error').textContent = ''")
        tab.click("#start")
        return tab.wait("document.querySelector('#error').textContent")

    with other_client(server):
        assert error_of_a_start() == "every slot is taken: this server speaks 1 conversation at a time."
    tab.value("history.replaceState(null, '', '/?token=wrong')")
    assert error_of_a_start() == "the token is missing or wrong."
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
def test_a_page_from_https_speaks_over_wss(tmp_path):
    with (
        Serve(wait=False, **certificate(tmp_path)) as server,
        browser.Browser(tmp_path / "profile") as tab,
    ):
        server.logged("INFO ready")
        tab.call("Security.setIgnoreCertificateErrors", ignore=True)
        tab.show(f"https://127.0.0.1:{server.port}/")
        speak(tab)
        assert tab.value("call.socket.url").startswith("wss:")


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
    tab.wait("microphone.on && call.paused && sound.report.paused")
    tab.wait("microphone.chunks.length * 128 > 24000")
    tab.key("keyUp", " ")
    tab.wait("document.querySelector('#words p:last-child').dataset.speaker === 'You'")
    assert list(dict.fromkeys(command["cmd"] for command in sent())) == ["start", "pause", "listen"]
    assert not tab.value("call.paused")
    assert tab.value("document.querySelectorAll('#words .unheard').length") > 0
    speak_instead(tab, "[S1] Sorry.")


def test_a_slip_of_the_finger_interrupts_nothing(tab, sent):
    speak(tab)
    tab.value("microphone.open()")
    tab.mouse("mousePressed", "#talk")
    tab.wait("microphone.on")
    tab.value("microphone.chunks.push = () => 0, microphone.chunks.length = 0")  # a slow machine's slip is as short
    tab.mouse("mouseReleased", "#talk")
    played = tab.wait("!call.paused && !sound.report.paused && sound.report.played")
    tab.wait(f"sound.report.played > {played} + 2400")
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
    told = "seed must be a whole number from 0 to 4294967295, not 'lucky'."
    tab.wait(f'document.querySelector("#error").textContent === "{told}"')
    tab.value("document.querySelector('#seed').value = ' 7 '")
    speak(tab)
    assert [(command["cmd"], command["seed"]) for command in sent()] == [("start", "lucky"), ("start", 7)]
