// The page. What it does with the server, it does through client.js.

import { Client, Microphone, Player } from "./client.js";

const $ = id => document.getElementById(id);
const RATE = 24000;
const SETTINGS = ["voice", "audio_temperature", "cfg_scale", "seed"];
const EXAMPLE = "[S1] Hello there! I speak while I am still being written. [S2] And you can add to it, or stop me, at any moment.";

const tokenNow = () => new URL(location.href).searchParams.get("token");
const server = new URL("./", location.href); // without the query, which has the token
server.search = server.hash = "";

const player = new Player();
const client = new Client(server.href, { player, get token() { return tokenNow(); } });
const microphone = new Microphone(player);
const spans = new Map(); // of each word that is shown
let sentAt = {}, first = null, committed = null, number = 0, recorded = [];

// ---- What is told ----

function say(state, text) { $("state").dataset.is = state; $("state").textContent = text; }

function fail(problem) {
  const message = problem?.message ?? problem;
  $("error").textContent = message ? `${message[0].toUpperCase()}${message.slice(1)}.` : "";
  if (problem?.code === "busy") say("refused", "busy");
  else if (problem?.code === "unauthorized") say("refused", "refused");
  else if (problem?.code === "closed") say("refused", "no server");
}

function show() {
  const { live, paused, speaking } = client;
  if (microphone.on) say("listening", "listening");
  else if (client.conversation) say(...(paused ? ["paused", "paused"] : speaking ? ["speaking", "speaking"] : ["idle", "ready"]));
  $("inject").disabled = $("reset").disabled = $("prepare").disabled = !live;
  $("prepare").textContent = client.prepared ? "Say it now" : "Prepare";
  $("discard").disabled = !client.prepared;
  $("pause").disabled = microphone.on || !live || !(speaking || paused);
  $("pause").textContent = paused ? "Resume" : "Pause";
  $("pause").setAttribute("aria-pressed", paused);
  $("talk").setAttribute("aria-pressed", microphone.on);
  $("talk").textContent = microphone.on ? "Let go to end" : "Hold to talk";
  $("download").disabled = !recorded.length;
}

function note(message) {
  const shown = message.audio ? { ...message, audio: `${message.audio.length} characters` } : message;
  const line = `${new Date().toISOString().slice(11, 23)} ${message.event ? "<" : ">"} ${JSON.stringify(shown)}\n`;
  $("log").textContent = (line + $("log").textContent).slice(0, 20000);
}

client.on("event", event => { note(event); show(); });
client.on("command", note);
client.on("lost", () => say("idle", "connection lost, coming back"));
client.on("closed", ({ error, message }) => {
  microphone.close();
  $("readiness").textContent = "";
  show();
  say("idle", "not connected");
  fail({ code: error, message });
});
client.on("ready", event => showServer({ ...event, settings: {} }));
client.on("started", () => { recorded = []; clearWords(); });
client.on("reset", () => { recorded = []; clearWords(); microphone.close(); show(); });
client.on("first_audio", event => { $("server-ms").textContent = `${Math.round(event.latency_ms)} ms`; first = event.id; });
client.on("audio", ({ samples, at }) => {
  recorded.push({ samples, at });
  if (first && sentAt[first]) {
    const took = Math.round(performance.now() - sentAt[first]);
    $("here-ms").textContent = `${took} ms`;
    if (first === committed) $("readiness").textContent = `Its first sound was here ${took} ms after the click.`;
  }
  first = null;
  show();
});
client.on("prepared", ({ id, ready_ms }) => {
  if (id === client.prepared) $("readiness").textContent = `Made in ${Math.round(ready_ms)} ms, and heard by nobody. Say it now: its first sound is there already.`;
});
client.on("discarded", () => { if (!client.prepared) $("readiness").textContent = ""; });
client.on("dropped", ({ from_ms }) => {
  for (const word of client.words) if (word.dropped) spans.get(word).className = "unheard";
  const end = Math.round(from_ms * RATE / 1000);
  recorded = recorded.filter(({ at }) => at < end).map(({ samples, at }) => ({ samples: samples.subarray(0, end - at), at }));
});
client.on("error", event => {
  if (event.cmd === "prepare") $("readiness").textContent = "";
  if (event.cmd !== "resume" || event.code !== "not_paused") fail(event);
});
client.on("word", word => {
  let line = $("words").lastElementChild;
  if (line?.dataset.speaker !== word.speaker || line.dataset.id !== word.id) {
    line = document.createElement("p");
    Object.assign(line.dataset, { speaker: word.speaker, id: word.id });
    $("words").append(line);
  }
  const span = document.createElement("span");
  span.textContent = word.word;
  line.append(span, " ");
  spans.set(word, span);
});
client.on("heard", word => {
  const box = $("words"), span = spans.get(word);
  box.scrollTop = Math.max(0, span.offsetTop - box.offsetTop - box.clientHeight + 2 * span.offsetHeight);
});

function clearWords() { spans.clear(); $("words").replaceChildren(); }

// ---- What there is: before the first word ----

function showServer({ model, device, voices, settings }) {
  if (model) $("model").textContent = `${model} on ${device}`;
  const own = voices.length ? `${voices[0]}, the default` : "a new one each time";
  const names = ["", ...voices], chosen = $("voice").value || $("voice").dataset.wish || "";
  $("voice").replaceChildren(...names.map(name => new Option(name || own, name)));
  $("voice").value = names.includes(chosen) ? chosen : "";
  for (const [name, value] of Object.entries(settings)) if ($(name)) $(name).placeholder = value;
}

async function look() {
  try {
    const answer = await fetch(`${server}info?token=${encodeURIComponent(tokenNow() ?? "")}`), info = await answer.json();
    showServer(info);
    if (client.conversation) return;
    say("idle", info.loading ?? "not connected");
    if (info.loading) setTimeout(look, 1000);
  } catch {
    fail({ code: "closed", message: "the server cannot be reached" });
  }
}

// ---- What people do ----

async function speak(cmd) {
  const text = $("text").value;
  if (!text.trim()) { fail("there is nothing to say"); $("text").focus(); return; }
  fail("");
  const id = String(++number), fields = { id, ...(cmd === "start" ? settings() : voice()) };
  sentAt = { ...(cmd === "start" ? {} : sentAt), [id]: performance.now() };
  if (!client.conversation) say("idle", "connecting");
  try { await client[cmd](text, fields); } catch (error) { fail(error); }
  show();
}

async function prepareOrCommit() {
  const text = $("text").value, prepared = client.prepared;
  fail("");
  if (!prepared && !text.trim()) { fail("there is nothing to say"); $("text").focus(); return; }
  if (prepared) sentAt[committed = prepared] = performance.now();
  else $("readiness").textContent = "Being made.";
  try { await (prepared ? client.commit(prepared) : client.prepare(text, String(++number), voice())); } catch (error) { fail(error); }
  show();
}

function voice() { return $("voice").value ? { voice: $("voice").value } : {}; }

function settings() {
  const chosen = voice();
  for (const name of SETTINGS.slice(1)) if ($(name).value.trim()) chosen[name] = numberOf($(name).value);
  return chosen;
}

// What is none goes as it is: the server says so, where JSON would make it null, the default.
function numberOf(text) { return Number.isFinite(Number(text)) ? Number(text) : text; }

async function pauseOrResume() {
  if ($("pause").disabled) return;
  const done = client.paused ? client.resume() : client.pause();
  show();
  try { await done; } catch (error) { fail(error); }
  show();
}

const talk = { held: null, pausing: null };

async function hold() {
  if (talk.held || microphone.on) return;
  const press = talk.held = {};
  fail("");
  try { await player.open(); await client.open(); await microphone.open(); } catch (error) { talk.held = null; fail(error); return; }
  if (talk.held !== press) { $("hint").textContent = "The microphone is open now: hold the button while you talk."; return; }
  talk.pausing = client.paused || $("pause").disabled ? null : pauseOrResume();
  await microphone.begin();
  show();
}

async function letGo() {
  talk.held = null;
  if (!microphone.on) return;
  const pcm = microphone.end(), paused = talk.pausing;
  await paused;
  show();
  if (pcm.length < 0.3 * microphone.rate) { // a slip of the finger: what was stopped for it goes on
    $("hint").textContent = "Hold the button for as long as you talk.";
    if (paused) client.resume();
    return;
  }
  const text = $("caller").value;
  try {
    if (!client.live) {
      const begun = new Promise((resolve, reject) => {
        const off = [client.on("started", () => resolve(off.forEach(each => each()))),
          client.on("error", event => event.cmd === "start" && reject(off.forEach(each => each())))];
      });
      await client.start("", { id: String(++number), ...settings() });
      await begun;
    }
  } catch (error) { if (error) fail(error); return; }
  client.listen(pcm, { text, sample_rate: microphone.rate }).catch(fail);
  const line = document.createElement("p");
  line.dataset.speaker = "You";
  line.textContent = text.trim() || "…";
  $("words").append(line);
  show();
}

// ---- What people take along ----

function remember() {
  const wishes = new URLSearchParams({ text: $("text").value });
  for (const name of SETTINGS) if ($(name).value) wishes.set(name, $(name).value);
  return wishes;
}

function recall() {
  const wishes = new URLSearchParams(location.hash.slice(1));
  $("text").value = wishes.get("text") ?? EXAMPLE;
  for (const name of SETTINGS) $(name).value = wishes.get(name) ?? "";
  $("voice").dataset.wish = wishes.get("voice") ?? "";
}

const quoted = text => `'${text.replaceAll("'", `'\\''`)}'`;

function asCurl() {
  const body = { input: $("text").value, response_format: "mp3", ...voice() };
  const secret = tokenNow() ? ` -H "Authorization: Bearer $DIA2STREAM_TOKEN"` : "";
  return `curl ${server}v1/audio/speech${secret} -d ${quoted(JSON.stringify(body))} -o said.mp3`;
}

function asPython() {
  const fields = Object.entries(settings()).map(([name, value]) => `, ${name}=${JSON.stringify(value)}`).join("");
  const secret = tokenNow() ? `, token=os.environ["DIA2STREAM_TOKEN"]` : "";
  return `import asyncio
import os
import wave

from dia2stream.client import connect
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import Done


async def main():
    async with connect(${JSON.stringify(server.href)}${secret}) as client:
        await client.start(${JSON.stringify($("text").value)}${fields})
        with wave.open("said.wav", "wb") as file:
            file.setparams((1, 2, client.ready.sample_rate, 0, "NONE", ""))
            async for item in client:
                if isinstance(item, Audio):
                    file.writeframes(item.data)
                elif isinstance(item, Done):
                    break
        await client.hang_up()


asyncio.run(main())
`;
}

async function copy(what, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no clipboard for pages of plain http
    const box = document.createElement("textarea");
    box.value = text;
    document.body.append(box);
    box.select();
    document.execCommand("copy");
    box.remove();
  }
  $("copied").textContent = `${what} is on the clipboard.${tokenNow() && what !== "The link" ? " The token is not in it: set DIA2STREAM_TOKEN." : ""}`;
}

// What was heard, as a WAV file: what was interrupted and dropped is not in it.
function wavOf(chunks) {
  const size = chunks.reduce((sum, { samples }) => sum + 2 * samples.length, 0), head = new DataView(new ArrayBuffer(44));
  const words = { 0: "RIFF", 8: "WAVE", 12: "fmt ", 36: "data" };
  for (const [at, word] of Object.entries(words)) for (let i = 0; i < 4; i++) head.setUint8(+at + i, word.charCodeAt(i));
  for (const [at, value] of [[4, 36 + size], [16, 16], [24, RATE], [28, 2 * RATE], [40, size]]) head.setUint32(at, value, true);
  for (const [at, value] of [[20, 1], [22, 1], [32, 2], [34, 16]]) head.setUint16(at, value, true);
  return new Blob([head, ...chunks.map(({ samples }) => samples)], { type: "audio/wav" });
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(wavOf(recorded));
  link.download = "said.wav";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// ---- Buttons and keys ----

$("talk").onpointerdown = event => { if (event.button === 0) { $("talk").setPointerCapture(event.pointerId); hold(); } };
$("talk").onpointerup = $("talk").onpointercancel = $("talk").onblur = letGo;
$("talk").oncontextmenu = event => event.preventDefault();
$("talk").onkeydown = event => { if (event.key === " " && !event.repeat) hold(); };
$("talk").onkeyup = event => { if (event.key === " ") letGo(); };
microphone.onfull = letGo;
if (!navigator.mediaDevices) {
  $("talk").disabled = true;
  $("hint").textContent = "Browsers give a microphone to pages from https and from localhost only.";
}
$("start").onclick = () => speak("start");
$("inject").onclick = () => speak("inject");
$("prepare").onclick = prepareOrCommit;
$("discard").onclick = () => { fail(""); client.discard(client.prepared).catch(fail); };
$("pause").onclick = pauseOrResume;
$("reset").onclick = () => { fail(""); client.reset().catch(fail); };
$("link").onclick = () => {
  history.replaceState(null, "", `#${remember()}`);
  copy("The link", `${server}#${remember()}`);
};
$("curl").onclick = () => copy("The command", asCurl());
$("python").onclick = () => copy("The program", asPython());
$("download").onclick = download;
document.addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); speak(client.live ? "inject" : "start"); }
  if (event.key === "Escape") { event.preventDefault(); pauseOrResume(); }
});
window.addEventListener("hashchange", recall);

// ---- What people see ----

const wave = $("wave"), pen = wave.getContext("2d"), samples = new Float32Array(2048);
const BAR_MS = 60;
let levels = [], peak = 0, drawnAt = 0; // the loudness of the last seconds, the newest last

function draw(now) {
  requestAnimationFrame(draw);
  const scale = devicePixelRatio || 1, width = Math.round(wave.clientWidth * scale), height = Math.round(wave.clientHeight * scale);
  if (wave.width !== width || wave.height !== height) { wave.width = width; wave.height = height; }
  (microphone.on ? microphone : player).analyser?.getFloatTimeDomainData(samples);
  for (const sample of samples) peak = Math.max(peak, Math.abs(sample));
  if (now - drawnAt >= BAR_MS) {
    levels.push({ level: peak, colour: microphone.on ? "--you" : colourNow() });
    [peak, drawnAt] = [0, now];
  }
  const step = 5 * scale, count = Math.floor(width / step), style = getComputedStyle(document.documentElement);
  levels = levels.slice(-count);
  pen.clearRect(0, 0, width, height);
  for (let i = 0; i < count; i++) { // the newest on the right; a dot where it was silent
    const { level, colour } = levels[levels.length - count + i] ?? { level: 0, colour: "--line" };
    const tall = Math.max(2 * scale, Math.sqrt(level) * height);
    pen.fillStyle = style.getPropertyValue(level > 0.002 ? colour : "--line");
    pen.fillRect(i * step, (height - tall) / 2, 3 * scale, tall);
  }
  light();
}

let now = null; // the word that sounds

function colourNow() { return now?.speaker === "S2" ? "--two" : "--one"; }

function light() {
  const heard = player.heardMs();
  now = null;
  for (const word of client.words) {
    const span = spans.get(word);
    if (!word.heard || word.dropped || !span) continue;
    span.className = "heard";
    now = word;
  }
  if (now && !client.paused && player.report.queued > 0) spans.get(now).className = "now";
  $("heard").textContent = `${(heard / 1000).toFixed(1)} s`;
  $("ahead").textContent = `${(player.report.queued / RATE).toFixed(1)} s`;
}

const tellClient = player.onreport;
let queuedBefore = 0;
player.onreport = () => {
  tellClient();
  if (!player.report.queued !== !queuedBefore) show();
  queuedBefore = player.report.queued;
};

Object.assign(window, { client, player, microphone, samples }); // for whoever looks with the browser's tools
recall();
look();
draw(0);
