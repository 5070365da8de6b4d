// A client of dia2stream for browsers and node, without dependencies. A server has it at /client.js, its types at
// /protocol.d.ts.
//
//     import { Client, Player, Microphone } from "http://127.0.0.1:8765/client.js";
//
//     const client = new Client("http://127.0.0.1:8765", { token: "secret", player: new Player() });
//     client.on("heard", word => console.log(word.word));     // each word as its sound reaches the ear
//     await client.start("[S1] Hello there.");                // opens the sound and the connection when they are not
//     await client.inject(" How are", { final: false });      // more text, at any moment
//
//     await client.pause();                                   // barge-in: stops, and tells how much was heard
//     await client.inject("[S1] Sorry, go ahead.");           // what was not heard is forgotten, also by the model
//     await client.resume();                                  // or: it was a false alarm
//
//     await client.prepare("Sure, I can.", "7");              // a reply that may be wanted soon: made, and not sent
//     await client.commit("7");                               // its sound begins at once; or discard: it never was
//
//     const microphone = new Microphone(client.player);
//     await microphone.begin();
//     await client.listen(microphone.end(), { text: "Can you hear me?", sample_rate: microphone.rate });
//
// Begin in an event of a click or a key: browsers keep silent before one. Call `player.open()` there.
//
// A lost connection is opened again, and the conversation goes on without a sample missing. Events by name:
// those of the protocol ("ready", "started", "word", "done", "paused", "error", ...), "event" for all of them,
// "command" for what is sent, and
//     "audio"   { samples, at }    as they come: Int16Array, or Uint8Array of mulaw and alaw; at: on the audio clock
//     "heard"   a word             its sound begins
//     "dropped" { from_ms }        what was not heard from there on is not said
//     "lost", "back"               the connection; meanwhile commands wait
//     "closed"  { code, message }  and it is not opened again by itself

/** @typedef {import("./protocol").Command} Command */
/** @typedef {import("./protocol").Event} ServerEvent */
/** @typedef {import("./protocol").WordEvent} WordEvent */
/** @typedef {import("./protocol").Paused} Paused */
/** @typedef {Omit<import("./protocol").Start, "cmd" | "text">} StartFields */
/** @typedef {Omit<import("./protocol").Inject, "cmd" | "text">} InjectFields */
/** @typedef {Omit<import("./protocol").Prepare, "cmd" | "text" | "id">} PrepareFields */
/** @typedef {Omit<import("./protocol").Listen, "cmd" | "audio">} ListenFields */
/** @typedef {WordEvent & { heard: boolean, dropped: boolean }} Word */
/** @typedef {{ pcm: Float32Array, at: number }} Chunk samples, and where they begin on the audio clock, in samples */
/** @typedef {{ push?: Chunk, clear?: { at: number }, paused?: boolean }} Order what a player is told */
/** @typedef {{ position: number, queued: number, played: number, energy: number, paused: boolean }} Report in samples */
/**
 * What a client needs of a player; `Player` is one.
 * @typedef {object} Output
 * @property {() => Promise<void>} open
 * @property {(order: Order) => void} send
 * @property {() => Promise<void>} pause resolves when the position stands still
 * @property {() => number} heardMs where the ear is on the audio clock
 * @property {() => void} onreport set by the client: the position has changed
 * @property {Report} report
 */

const RETRIES = 8, RETRY_MS = 300;
const NETWORK = [1001, 1005, 1006, 1012]; // close codes after which it is worth coming back
const PIECE_SAMPLES = 90000; // of a listen command, which holds 256 KiB
const BUSY_MS = 2000, SUSPENDED_MS = 200; // how long a pause waits for the sound card: at work, and suspended by the browser

/** A refusal. code: that of the protocol's error event, or "closed". */
export class Refused extends Error {
  /** @param {string} code @param {string} message */
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** One conversation over a WebSocket that may break. */
export class Client {
  #options; #url;
  /** @type {Map<string, Set<(about: any) => void>>} */ #listeners = new Map();
  /** @type {Promise<void> | null} */ #opening = null;
  #tries = 0;
  /** @type {Refused | null} */ #problem = null;
  /** @type {Promise<any>} */ #last = Promise.resolve(); // the command before
  /** @type {Promise<any>} */ #stopped = Promise.resolve(); // the answer to the latest pause

  /**
   * @param {string} url of the server: http, https, ws or wss
   * @param {{ token?: string | null, encoding?: string, sampleRate?: number, wait?: number, player?: Output | null,
   *   WebSocket?: any }} [options] wait: seconds to wait for a slot. WebSocket: another class than the global one
   */
  constructor(url, options = {}) {
    this.#url = url;
    this.#options = options;
    this.player = options.player ?? null;
    this.sampleRate = options.sampleRate ?? 24000;
    /** @type {WebSocket | null} */ this.socket = null;
    /** @type {string | null} */ this.conversation = null;
    this.live = false; // a conversation has begun
    this.paused = false;
    this.clock = 0; // samples that have come
    this.heardMs = 0; // where it was paused
    /** @type {Word[]} */ this.words = [];
    /** @type {Set<string>} */ this.waiting = new Set(); // ids given to it whose utterances are not done
    /** @type {string | null} */ this.prepared = null; // the id of the reply that is prepared
    if (this.player) this.player.onreport = () => this.#tellHeard();
  }

  /** @param {string} name @param {(about: any) => void} listener @returns {() => void} call it to listen no more */
  on(name, listener) {
    const all = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, all.add(listener));
    return () => all.delete(listener);
  }

  /** How much of the conversation's audio has come. */
  get receivedMs() { return this.clock * 1000 / this.sampleRate; }

  /** Whether something is being said, or is to be. */
  get speaking() { return this.live && !this.paused && (this.waiting.size > 0 || (this.player?.report.queued ?? 0) > 0); }

  // ---- Commands. Each resolves when it is sent, and rejects with Refused when there is no server for it. ----

  /**
   * A new conversation.
   * @param {string} text @param {StartFields} [fields]
   */
  start(text, fields = {}) {
    return this.#say({ cmd: "start", text, ...fields });
  }

  /**
   * More text; while paused, instead of what was not heard.
   * @param {string} text @param {InjectFields} [fields]
   */
  inject(text, fields = {}) { return this.#say({ cmd: "inject", text, ...fields }); }

  /**
   * Closes open text.
   * @param {string} [id]
   */
  end(id) { return this.send(id === undefined ? { cmd: "end" } : { cmd: "end", id }); }

  /**
   * Forgets an utterance that waits.
   * @param {string} id
   */
  cancel(id) { return this.send({ cmd: "cancel", id }); }

  /**
   * Makes a reply in advance, of which nothing is heard before `commit`. More of its text comes by `inject` with its id.
   * @param {string} text @param {string} id @param {PrepareFields} [fields]
   */
  prepare(text, id, fields = {}) {
    return this.#inOrder(async () => {
      await this.#put({ cmd: "prepare", text, id, ...fields });
      this.prepared = id;
    });
  }

  /**
   * The prepared reply is wanted: as `inject` with its text, but its sound is there already.
   * @param {string} id
   */
  commit(id) {
    if (this.prepared === id) this.prepared = null;
    return this.#say({ cmd: "commit", id });
  }

  /**
   * The prepared reply is not wanted, and never was.
   * @param {string} id
   */
  discard(id) { return this.send({ cmd: "discard", id }); }

  /**
   * Stops now. Resolves with what was heard and what was not.
   * @param {number} [playedMs] where the listener is; without it the player is asked, or all that was sent counts
   * @returns {Promise<Paused>}
   */
  async pause(playedMs) {
    this.paused = true;
    const silent = this.player?.pause(); // now, whatever else waits to be sent
    const { answer } = await this.#inOrder(async () => {
      await silent;
      const heard = playedMs ?? this.player?.heardMs();
      this.heardMs = Math.round(heard ?? this.receivedMs); // the server's figure: both drop the same words
      const answer = this.#stopped = this.#answer("paused", "pause");
      await this.#put(heard === undefined ? { cmd: "pause" } : { cmd: "pause", played_ms: this.heardMs });
      return { answer }; // in an object, because the next command need not wait for it
    });
    return answer;
  }

  /** Goes on exactly where it stopped. */
  resume() { return this.send({ cmd: "resume" }); }

  /**
   * What the caller said, for the reply to answer. It interrupts what is paused.
   * @param {Int16Array} pcm @param {ListenFields} [about] its `text` is spread over what sounds
   */
  listen(pcm, about = {}) {
    const { text, words, sample_rate, final, ...fields } = about, rate = sample_rate ?? 24000;
    const timed = words ?? (text ? spread(text, pcm, rate) : []);
    return this.#inOrder(async () => {
      if (this.paused) await this.#drop();
      for (let at = 0; at === 0 || at < pcm.length; at += PIECE_SAMPLES) {
        const from = at / rate, to = (at + PIECE_SAMPLES) / rate, here = timed.filter(([, start]) => start >= from && start < to);
        await this.#put({
          cmd: "listen", ...fields, sample_rate: rate, audio: base64(pcm.subarray(at, at + PIECE_SAMPLES)),
          words: here.map(([word, start, end]) => [word, start - from, end - from]),
          final: (final ?? true) && at + PIECE_SAMPLES >= pcm.length,
        });
      }
    });
  }

  /**
   * Has the conversation copied as it is now, and is there in time to hear all that this one has not heard yet.
   * @param {{ player?: Output | null }} [options] of the copy's client, which has the other options of this one
   * @returns {Promise<Client>} a client of the copy, which stands still: `resume` it, or `inject` something else
   */
  async fork(options = {}) {
    const { answer } = await this.#inOrder(async () => {
      const answer = this.#answer("forked", "fork");
      await this.#put({ cmd: "fork" });
      return { answer };
    });
    const forked = await answer, copy = new Client(this.#url, { ...this.#options, player: null, ...options });
    copy.conversation = forked.conversation;
    copy.clock = forked.audio_ms * this.sampleRate / 1000;
    copy.live = copy.paused = true;
    copy.heardMs = forked.audio_ms;
    await copy.open();
    return copy;
  }

  /** Forgets the conversation. */
  reset() { return this.send({ cmd: "reset" }); }

  /**
   * Any command. A lost connection that is on its way back is waited for.
   * @param {Command} command
   */
  send(command) { return this.#inOrder(() => this.#put(command)); }

  /**
   * Commands go in the order in which they were given, whatever each of them waits for.
   * @template T
   * @param {() => Promise<T>} work
   */
  #inOrder(work) {
    const done = this.#last.then(work);
    this.#last = done.catch(() => {});
    return done;
  }

  /** @param {Command} command */
  async #put(command) {
    this.#tell("command", command);
    await this.open();
    this.socket?.send(JSON.stringify(command));
  }

  /** Hangs up for good, or until the next command. */
  close() {
    const socket = this.socket;
    this.socket = this.#opening = null;
    socket?.close(1000);
    this.#forget();
  }

  // ---- The connection ----

  /** Connects, if it is not connected. */
  open() {
    if (this.#opening) return this.#opening;
    const opening = this.#opening = this.#connect();
    opening.catch(() => {});
    return opening;
  }

  #address() {
    const url = new URL(this.#url), { token, encoding, wait } = this.#options;
    url.protocol = { "http:": "ws:", "https:": "wss:" }[url.protocol] ?? url.protocol;
    const asked = { busy: "event", encoding: encoding ?? "pcm16", sample_rate: this.sampleRate, token, wait };
    for (const [name, value] of Object.entries(asked)) if (value != null) url.searchParams.set(name, String(value));
    if (this.conversation) {
      url.searchParams.set("conversation", this.conversation);
      url.searchParams.set("received_ms", String(this.receivedMs));
    }
    return url;
  }

  /** @returns {Promise<void>} */
  #connect() {
    const socket = new (this.#options.WebSocket ?? WebSocket)(this.#address());
    this.socket = socket;
    this.#problem = null;
    socket.binaryType = "arraybuffer";
    return new Promise((resolve, reject) => {
      let ended = false;
      const end = (/** @type {number} */ code) => {
        if (ended) return;
        ended = true;
        const problem = this.#problem ?? new Refused("closed", "the server cannot be reached");
        if (socket === this.socket) this.#gone(code, problem, resolve, reject);
        else reject(problem);
      };
      socket.onmessage = (/** @type {MessageEvent} */ { data }) => {
        if (socket !== this.socket) return; // an old one that was given up
        if (typeof data !== "string") { this.#hear(data); return; }
        const event = JSON.parse(data);
        this.#take(event);
        if (event.event === "ready") resolve();
      };
      socket.onclose = (/** @type {CloseEvent} */ { code }) => end(code);
      socket.onerror = () => setTimeout(() => end(1006), 1000); // `onclose` follows, but in node 20 where nobody listens
    });
  }

  /** @param {number} code @param {Refused} problem @param {() => void} resolve @param {(e: Error) => void} reject */
  #gone(code, problem, resolve, reject) {
    this.socket = null;
    if (NETWORK.includes(code) && this.live && this.#tries < RETRIES) {
      if (this.#tries++ === 0) this.#tell("lost", {});
      const again = new Promise(later => setTimeout(later, RETRY_MS * this.#tries));
      this.#opening = again.then(() => this.#connect());
      this.#opening.then(resolve, reject);
      return;
    }
    this.#opening = null;
    reject(problem);
    this.#forget();
    this.#tell("closed", { code, error: problem.code, message: problem.message });
  }

  #forget() {
    this.live = this.paused = false;
    this.conversation = this.prepared = null;
    this.#tries = 0;
    this.waiting.clear();
  }

  // ---- What comes ----

  /** @param {any} event */
  #take(event) {
    /** @type {Record<string, (event: any) => boolean | void>} */
    const acts = { ready: this.#ready, started: this.#started, word: this.#word, done: this.#done, cancelled: this.#done, discarded: this.#discarded,
      resumed: this.#resumed, reset: this.#began, error: this.#error };
    if (acts[event.event]?.call(this, event) === false) return;
    this.#tell("event", event);
    this.#tell(event.event, event);
  }

  /** @param {any} event */
  #ready(event) {
    const back = this.#tries > 0;
    if (this.conversation && this.conversation !== event.conversation) { this.#began(); this.live = false; }
    else if (this.live && !this.paused) this.socket?.send('{"cmd":"resume"}'); // it was the network that stopped it
    this.conversation = event.conversation;
    this.sampleRate = event.sample_rate;
    this.#tries = 0;
    if (back) this.#tell("back", {});
  }

  #began() {
    this.clock = 0;
    this.live = this.paused = false;
    this.words = [];
    this.player?.send({ clear: { at: 0 }, paused: false });
  }

  /** @param {any} event */
  #started(event) {
    this.#began();
    this.live = true;
    this.waiting = new Set([...this.waiting].filter(id => id === event.id));
  }

  /** @param {WordEvent} event */
  #word(event) {
    const same = (/** @type {Word} */ word) => word.start_ms === event.start_ms && word.id === event.id
      && word.text_start === event.text_start && !word.dropped;
    if (this.words.some(same)) return false; // told twice, because the connection was lost
    this.words.push(Object.assign(event, { heard: false, dropped: false }));
  }

  /** @param {any} event */
  #done({ id }) { this.waiting.delete(id); }

  /** @param {any} event */
  #discarded({ id }) { if (this.prepared === id) this.prepared = null; }

  #resumed() {
    this.paused = false;
    this.player?.send({ paused: false });
  }

  /** @param {any} event */
  #error(event) {
    this.#problem = new Refused(event.code, event.message);
    if (["start", "inject", "commit"].includes(event.cmd)) this.waiting.delete(event.id);
    if (event.cmd === "prepare" && this.prepared === event.id) this.prepared = null;
    // A connection that comes back resumes what may have ended meanwhile.
    if (event.cmd === "resume" && event.code === "not_paused" && !this.paused) return false;
  }

  /** @param {ArrayBuffer} message */
  #hear(message) {
    const count = new DataView(message).getUint32(0, true), wide = message.byteLength - 4 === 2 * count;
    const samples = wide ? new Int16Array(message, 4, count) : new Uint8Array(message, 4, count);
    const at = this.clock;
    this.clock += count;
    if (wide) this.player?.send({ push: { at, pcm: Float32Array.from(samples, sample => sample / 32768) } });
    this.#tell("audio", { samples, at });
  }

  #tellHeard() {
    const heard = this.player?.heardMs() ?? 0;
    for (const word of this.words) {
      if (word.heard || word.dropped || word.start_ms >= heard) continue; // the sample at `heard` is the next to be played
      word.heard = true;
      this.#tell("heard", word);
    }
  }

  // ---- What goes ----

  /** @param {Command & { id?: string | null }} command */
  #say(command) {
    const opened = this.player?.open(); // now, in the event of the click
    return this.#inOrder(async () => {
      if (command.cmd === "inject" && command.id != null && command.id === this.prepared) { await this.#put(command); return; }
      if (command.cmd !== "start" && this.paused) await this.#drop();
      if (command.id != null) this.waiting.add(command.id);
      try {
        await opened;
        await this.#put(command);
      } catch (error) {
        if (command.id != null) this.waiting.delete(command.id);
        throw error;
      }
    });
  }

  /** What was paused and not heard is not said, and the model forgets it too. */
  async #drop() {
    await this.#stopped.catch(() => {}); // until the answer, words and audio come that nobody will hear
    this.paused = false;
    this.waiting.clear();
    for (const word of this.words) word.dropped ||= word.start_ms >= this.heardMs;
    this.player?.send({ clear: { at: this.clock }, paused: false });
    this.#tell("dropped", { from_ms: this.heardMs });
  }

  /** @param {string} name @param {string} cmd @returns {Promise<any>} */
  #answer(name, cmd) {
    const answer = new Promise((resolve, reject) => {
      /** @type {(() => void)[]} */ const off = [];
      const end = (/** @type {() => void} */ act) => { for (const each of off) each(); act(); };
      off.push(this.on(name, event => end(() => resolve(event))));
      off.push(this.on("error", event => event.cmd === cmd && end(() => reject(new Refused(event.code, event.message)))));
      off.push(this.on("closed", about => end(() => reject(new Refused(about.error, about.message)))));
    });
    answer.catch(() => {}); // whoever wants to know awaits it
    return answer;
  }

  /** @param {string} name @param {any} about */
  #tell(name, about) {
    for (const listener of this.#listeners.get(name) ?? []) listener(about);
  }
}

/** @param {Int16Array} pcm */
function base64(pcm) {
  const bytes = new Uint8Array(pcm.buffer, pcm.byteOffset, pcm.byteLength);
  return btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(""));
}

/**
 * Words over what sounds, each as long as it has letters.
 * @param {string} text @param {Int16Array} pcm @param {number} rate
 * @returns {[string, number, number][]} words with their start and end in seconds
 */
export function spread(text, pcm, rate) {
  const words = text.split(/\s+/).filter(Boolean), letters = words.reduce((sum, word) => sum + word.length, 0);
  const loud = pcm.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0) / 20;
  let first = 0, last = pcm.length;
  while (first < last && Math.abs(pcm[first]) < loud) first++;
  while (last > first && Math.abs(pcm[last - 1]) < loud) last--;
  const each = (last - first) / letters / rate;
  let before = 0;
  return words.map(word => [word, first / rate + before * each, first / rate + (before += word.length) * each]);
}

// ---- Sound in a browser ----

/** Chunks go in, the sound card takes them out. Runs in the audio worklet, where there is one. */
export class Ring {
  /** @type {Chunk[]} */ chunks = [];
  offset = 0; queued = 0; end = 0; paused = false; played = 0; energy = 0;

  /** @param {Float32Array} out */
  fill(out) {
    let n = 0;
    while (!this.paused && n < out.length && this.chunks.length) {
      const { pcm, at } = this.chunks[0], part = pcm.subarray(this.offset, this.offset + out.length - n);
      out.set(part, n);
      for (const sample of part) this.energy += sample * sample;
      n += part.length; this.offset += part.length; this.queued -= part.length; this.played += part.length;
      this.end = at + this.offset;
      if (this.offset === pcm.length) { this.chunks.shift(); this.offset = 0; }
    }
    out.fill(0, n);
  }

  /** @param {Order} order */
  handle({ push, clear, paused }) {
    if (push) { this.chunks.push(push); this.queued += push.pcm.length; }
    if (clear) { this.chunks = []; this.offset = this.queued = 0; this.end = clear.at; }
    if (paused !== undefined) this.paused = paused;
  }

  /** position: where the next sample to be played stands on the audio clock. @returns {Report} */
  report() {
    const { chunks, offset, queued, played, energy, paused } = this;
    return { position: chunks.length ? chunks[0].at + offset : this.end, queued, played, energy, paused };
  }
}

/** @type {any} */ const scope = globalThis;
if (scope.registerProcessor) { // this module, once more, inside the audio worklet
  scope.registerProcessor("ring", class extends scope.AudioWorkletProcessor {
    ring = new Ring(); turn = 0;
    constructor() {
      super();
      /** @type {any} */ (this).port.onmessage = (/** @type {any} */ { data }) => {
        this.ring.handle(data);
        if ("paused" in data) this.tell();
      };
    }
    tell() { /** @type {any} */ (this).port.postMessage(this.ring.report()); }
    /** @param {any} _ @param {Float32Array[][]} outputs */
    process(_, [[out]]) {
      this.ring.fill(out);
      if (this.turn++ % 6 === 0) this.tell();
      return true;
    }
  });
  scope.registerProcessor("microphone", class extends scope.AudioWorkletProcessor {
    /** @param {Float32Array[][]} inputs */
    process([[input]]) {
      if (input) /** @type {any} */ (this).port.postMessage(input.slice());
      return true;
    }
  });
}

/** Plays what a client gets, at 24 kHz. @implements {Output} */
export class Player {
  /** @type {Report} */ report = { position: 0, queued: 0, played: 0, energy: 0, paused: false };
  onreport = () => {}; // set by the client
  rate = 24000;
  /** @type {AudioContext | null} */ context = null;
  /** @type {AnalyserNode | null} */ analyser = null;
  /** @type {any} */ #node = null;
  /** @type {Promise<void> | null} */ #opening = null;
  /** @type {Order[]} */ #early = [];
  /** @type {(() => void)[]} */ #pausing = []; // who waits until the position stands still

  /** Opens the sound. Browsers want a click or a key first. */
  async open() {
    await (this.#opening ??= this.#open());
    await this.context?.resume();
  }

  async #open() {
    const context = this.context = new AudioContext({ sampleRate: this.rate, latencyHint: "interactive" });
    this.analyser = new AnalyserNode(context, { fftSize: 2048 });
    this.analyser.connect(context.destination);
    if (context.audioWorklet) {
      await context.audioWorklet.addModule(import.meta.url);
      this.#node = new AudioWorkletNode(context, "ring", { numberOfInputs: 0, outputChannelCount: [1] });
      this.#node.port.onmessage = (/** @type {MessageEvent} */ { data }) => this.#take(data);
    } else { // plain http from another machine: browsers keep worklets for https and localhost
      const ring = new Ring();
      this.#node = context.createScriptProcessor(1024, 0, 1);
      this.#node.ring = ring;
      this.#node.onaudioprocess = (/** @type {AudioProcessingEvent} */ event) => {
        ring.fill(event.outputBuffer.getChannelData(0));
        this.#take(ring.report());
      };
    }
    this.#node.connect(this.analyser);
    for (const order of this.#early.splice(0)) this.send(order);
  }

  /** @param {Report} report */
  #take(report) {
    this.report = report;
    this.onreport();
    if (report.paused) for (const still of this.#pausing.splice(0)) still();
  }

  /** @param {Order} order */
  send(order) {
    if (!this.#node) this.#early.push(order);
    else if (this.#node.ring) { this.#node.ring.handle(order); this.#take(this.#node.ring.report()); }
    else this.#node.port.postMessage(order, order.push ? [order.push.pcm.buffer] : []);
  }

  /** What the ear has, not the sound card: on the conversation's audio clock, in ms. */
  heardMs() {
    const late = (this.context?.outputLatency || 0) * this.rate;
    return Math.max(0, this.report.position - (this.report.paused ? 0 : late)) * 1000 / this.rate;
  }

  /** Silence now. Resolves when the position stands still, or when the sound card has not answered for a long time. */
  async pause() {
    this.send({ paused: true });
    if (!this.#node || this.report.paused) return;
    const patience = this.context?.state === "running" ? BUSY_MS : SUSPENDED_MS;
    await new Promise(still => { this.#pausing.push(() => still(undefined)); setTimeout(still, patience); });
  }
}

/** The microphone. The browser asks the user when it is opened; it stays open until `close`. */
export class Microphone {
  on = false; // whether it is kept what is said
  rate = 24000;
  /** @type {Float32Array[]} */ chunks = [];
  /** @type {AnalyserNode | null} */ analyser = null;
  /** @type {MediaStream | null} */ stream = null;
  /** @type {Promise<void> | null} */ opening = null;
  onfull = () => {}; // a minute is the most that a conversation takes
  #player;
  /** @type {AudioNode[]} */ #nodes = [];
  /** @type {AudioContext | null} */ #own = null;

  /** @param {Player} player whose AudioContext it shares */
  constructor(player) { this.#player = player; }

  /** Opens it, without keeping anything yet. */
  open() { return this.opening ??= this.#open().catch(error => { this.opening = null; throw error; }); }

  async #open() {
    if (!navigator.mediaDevices) throw new Refused("microphone", "browsers give a microphone to https and localhost only");
    await this.#player.open();
    const stream = this.stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: true } });
    let context = /** @type {AudioContext} */ (this.#player.context), source;
    try {
      source = context.createMediaStreamSource(stream);
    } catch { // Firefox wants a context at the microphone's own rate; the server takes any up to 48,000
      context = this.#own = new AudioContext();
      await context.audioWorklet.addModule(import.meta.url);
      source = context.createMediaStreamSource(stream);
    }
    const node = new AudioWorkletNode(context, "microphone");
    node.port.onmessage = ({ data }) => {
      if (this.on && this.chunks.push(data) * data.length > 60 * this.rate) this.onfull();
    };
    this.analyser = new AnalyserNode(context, { fftSize: 2048 });
    source.connect(this.analyser).connect(node).connect(context.destination); // silence; what leads nowhere is not run
    this.#nodes = [source, this.analyser, node];
    this.rate = context.sampleRate;
  }

  /** Keeps what is said from now on. */
  async begin() {
    await this.open();
    this.chunks = [];
    this.on = true;
  }

  /** What was said since `begin`. @returns {Int16Array} */
  end() {
    this.on = false;
    const pcm = new Int16Array(this.chunks.reduce((sum, chunk) => sum + chunk.length, 0));
    let n = 0;
    for (const chunk of this.chunks) for (const sample of chunk) pcm[n++] = Math.max(-1, Math.min(1, sample)) * 32767;
    this.chunks = [];
    return pcm;
  }

  close() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    for (const node of this.#nodes) node.disconnect();
    this.#own?.close();
    this.opening = this.stream = this.#own = this.analyser = null;
    this.#nodes = [];
    this.on = false;
  }
}
