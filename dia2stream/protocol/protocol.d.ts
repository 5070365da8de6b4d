// Made by `dia2stream protocol types`. Do not edit: the definitions are in messages.py and fields.py.

export type Command =
  | Start
  | Inject
  | End
  | Cancel
  | Prepare
  | Commit
  | Discard
  | Pause
  | Resume
  | Reset
  | Listen
  | Fork;

export type Event =
  | Ready
  | Started
  | FirstAudio
  | WordEvent
  | Done
  | Cancelled
  | Prepared
  | Discarded
  | Paused
  | Resumed
  | ResetDone
  | Forked
  | Notice
  | Error;

/**
 * A new conversation that speaks `text`; one that was there is forgotten, the voices stay loaded.
 *
 * text: up to 20,000 characters, may be empty; speakers are [S1] and [S2], <break time="0.5s"/> is a pause
 * id: names the utterance in events, any string up to 128 characters; the server numbers those without one
 * final: False says that more of this utterance follows, by Inject or End
 * voice: the name of a voice that the server has, up to 128 characters
 * seed: 0 to 2**32 - 1; the same seed and text give the same audio
 * cfg_scale: 0 to 20, 1 is off; cfg_filter_k: 0 (all) to 2048 candidates
 * text_temperature, audio_temperature: 0 (always the likeliest) to 2; text_top_k, audio_top_k: 1 to 2048 tokens
 * initial_padding: 0 to 100 frames of 80 ms before the first word
 * text_rules: what the text front end does: off, clean, spoken, or auto, which depends on the model
 * say: how words are said, {"GIF": "jiff"}; whole words, in any case, before the server's own
 * None stands for the server's own setting.
 */
export interface Start {
  cmd: "start";
  /** a string of up to 20000 characters */
  text: string;
  /** a string of up to 128 characters */
  id?: string | null;
  /** true or false */
  final?: boolean | null;
  /** a string of up to 128 characters */
  voice?: string | null;
  /** a whole number from 0 to 4294967295 */
  seed?: number | null;
  /** a number from 0 to 20 */
  cfg_scale?: number | null;
  /** a whole number from 0 to 2048 */
  cfg_filter_k?: number | null;
  /** a number from 0 to 2 */
  text_temperature?: number | null;
  /** a whole number from 1 to 2048 */
  text_top_k?: number | null;
  /** a number from 0 to 2 */
  audio_temperature?: number | null;
  /** a whole number from 1 to 2048 */
  audio_top_k?: number | null;
  /** a whole number from 0 to 100 */
  initial_padding?: number | null;
  /** auto or off or clean or spoken */
  text_rules?: "auto" | "off" | "clean" | "spoken" | null;
  /** an object of up to 1000 words and what is said for each */
  say?: Record<string, string> | null;
}

/**
 * More text in this conversation; while paused it replaces what was not heard. Fields as in Start.
 *
 * voice: the utterance begins a turn, and the conversation goes on in this voice from there; nothing is forgotten
 */
export interface Inject {
  cmd: "inject";
  /** a string of up to 20000 characters */
  text: string;
  /** a string of up to 128 characters */
  id?: string | null;
  /** true or false */
  final?: boolean | null;
  /** a string of up to 128 characters */
  voice?: string | null;
}

/**
 * Closes text that was opened with final=False.
 *
 * id: of the utterance; one that is complete already stays as it is. None: the open one
 */
export interface End {
  cmd: "end";
  /** a string of up to 128 characters */
  id?: string | null;
}

/** An utterance that waits to be spoken is not wanted. One that is spoken already is stopped by Pause. */
export interface Cancel {
  cmd: "cancel";
  /** a string of up to 128 characters */
  id: string;
}

/**
 * Makes a reply in advance that may never be heard: Commit has it spoken, Discard forgets it.
 *
 * id: names the reply, for Commit, Discard, and the Inject and End that bring more of its text
 * A conversation has one prepared reply at most; the next Prepare takes its place. Other fields as in Inject.
 */
export interface Prepare {
  cmd: "prepare";
  /** a string of up to 20000 characters */
  text: string;
  /** a string of up to 128 characters */
  id: string;
  /** true or false */
  final?: boolean | null;
  /** a string of up to 128 characters */
  voice?: string | null;
}

/** The prepared reply is wanted: means what an Inject of its text would mean now, and its audio is there already. */
export interface Commit {
  cmd: "commit";
  /** a string of up to 128 characters */
  id: string;
}

/** The prepared reply is not wanted: its text, its audio and the model's memory of it are as if it never was. */
export interface Discard {
  cmd: "discard";
  /** a string of up to 128 characters */
  id: string;
}

/** Stop now. played_ms: how much of this conversation's audio the listener has heard; None for all that was sent. */
export interface Pause {
  cmd: "pause";
  /** a number of 0 or more */
  played_ms?: number | null;
}

/** Go on exactly where it stopped. */
export interface Resume {
  cmd: "resume";
}

/** Forget the conversation; the model stays warm. */
export interface Reset {
  cmd: "reset";
}

/**
 * What the caller said, so that the reply answers it; it goes into the model's memory and is never played.
 *
 * audio: base64 of mono PCM16, little-endian, at sample_rate (8000 to 48000); a command's 256 KiB hold 4 s at 24 kHz
 * words: [[word, start, end], ...] in seconds from the start of this audio
 * text: the words without times, where there are no `words`; they are spread over what sounds
 * speaker: S2, the caller, or S1
 * final: False says that more of what they say follows; text to speak ends it too
 */
export interface Listen {
  cmd: "listen";
  /** base64 of 16-bit little-endian samples */
  audio?: string | null;
  /** a string of up to 20000 characters */
  text?: string | null;
  /** a list of [word, start, end], in seconds from 0 to 60 */
  words?: [string, number, number][] | null;
  /** S1 or S2 */
  speaker?: "S1" | "S2" | null;
  /** a whole number from 8000 to 48000 */
  sample_rate?: number | null;
  /** true or false */
  final?: boolean | null;
}

/** Copies the conversation as it is now. The copy has an id of its own and stands still until somebody connects. */
export interface Fork {
  cmd: "fork";
}

/**
 * The first event: what is served.
 *
 * sample_rate: Hz; frame_ms: audio per message; conversation: to come back to
 * sampling: what `start` leaves open is spoken with these, by the names of its fields
 */
export interface Ready {
  event: "ready";
  /** a string */
  version: string;
  /** a string */
  model: string;
  /** a string */
  device: string;
  /** a whole number from 8000 to 48000 */
  sample_rate: number;
  /** a string */
  encoding: string;
  /** a whole number of 1 or more */
  frame_ms: number;
  /** a list of strings */
  voices: string[];
  /** a string */
  conversation?: string;
  /** an object of numbers */
  sampling?: Record<string, number>;
}

/** An utterance was taken. seed: what Start gave or the server drew; with it the audio can be had again. */
export interface Started {
  event: "started";
  /** a string of up to 128 characters */
  id: string;
  /** a whole number from 0 to 4294967295 */
  seed: number;
}

/**
 * An utterance's first audio follows.
 *
 * latency_ms: since its command arrived, to 0.1 ms
 * words_ms: from there until the last words arrived that this audio needed; none if the command brought them
 */
export interface FirstAudio {
  event: "first_audio";
  /** a string of up to 128 characters */
  id: string;
  /** a number of 0 or more */
  latency_ms: number;
  /** a number of 0 or more */
  words_ms?: number;
}

/**
 * A word, sent ahead of its audio.
 *
 * word: as the caller wrote it; said: what is spoken for it, where that is something else
 * speaker: "S1" or "S2"
 * start_ms, end_ms: on the conversation's audio clock, to 1 ms; the end is that of the next word's beginning where it
 * is known, else start_ms + 400 for each word that is spoken
 * text_start, text_end: its place in the utterance's text, in code points
 */
export interface WordEvent {
  event: "word";
  /** a string of up to 128 characters */
  id: string;
  /** a string */
  word: string;
  /** S1 or S2 */
  speaker: "S1" | "S2";
  /** a number of 0 or more */
  start_ms: number;
  /** a string */
  said?: string;
  /** a number of 0 or more */
  end_ms?: number;
  /** a whole number of 0 or more */
  text_start?: number;
  /** a whole number of 0 or more */
  text_end?: number;
}

/** An utterance's last sample was sent. audio_ms: audio sent so far in this conversation, to 1 ms. */
export interface Done {
  event: "done";
  /** a string of up to 128 characters */
  id: string;
  /** a number of 0 or more */
  audio_ms: number;
}

/** An utterance that waited is forgotten: no other event of it follows. */
export interface Cancelled {
  event: "cancelled";
  /** a string of up to 128 characters */
  id: string;
}

/**
 * The prepared reply's first frame is there; told again when its audio had to be made anew.
 *
 * ready_ms: since its command arrived, or the command because of which it was made anew, to 0.1 ms
 */
export interface Prepared {
  event: "prepared";
  /** a string of up to 128 characters */
  id: string;
  /** a number of 0 or more */
  ready_ms: number;
}

/** The prepared reply is forgotten: it was discarded, or another one, resume, start or reset took its place. */
export interface Discarded {
  event: "discarded";
  /** a string of up to 128 characters */
  id: string;
}

/**
 * No audio after this.
 *
 * heard_ms: on the audio clock, to 1 ms
 * spoken, pending: the text heard and not heard, as it was written; pending, with its tags and breaks, can be injected
 * words: the same, word by word
 */
export interface Paused {
  event: "paused";
  /** a number of 0 or more */
  heard_ms: number;
  /** a string */
  spoken: string;
  /** a string */
  pending: string;
  /** a list of objects with id, text_start, text_end and heard */
  words?: { id: string; text_start: number; text_end: number; heard: boolean }[];
}

/** The audio goes on. */
export interface Resumed {
  event: "resumed";
}

/** The conversation is gone (event "reset"). */
export interface ResetDone {
  event: "reset";
}

/** There is a copy of the conversation. conversation: its id, to connect to; audio_ms: where its audio stands. */
export interface Forked {
  event: "forked";
  /** a string */
  conversation: string;
  /** a number of 0 or more */
  audio_ms: number;
}

/** Something in the text was changed or left out; no error. text_start: where, in code points of the utterance. */
export interface Notice {
  event: "notice";
  /** a string */
  code: string;
  /** a string */
  message: string;
  /** a string of up to 128 characters */
  id?: string;
  /** a whole number of 0 or more */
  text_start?: number;
}

/** A command was refused, or something broke. code: see errors.CLOSE_CODES; cmd, id, field where they apply. */
export interface Error {
  event: "error";
  /** a string */
  code: string;
  /** a string */
  message: string;
  /** a string */
  cmd?: string;
  /** a string of up to 128 characters */
  id?: string;
  /** a string */
  field?: string;
}
