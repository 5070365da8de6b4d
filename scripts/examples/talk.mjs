// `dia2stream pipe` as the voice of a Node.js program: it speaks, is given more, is interrupted, and answers.
//
//     node scripts/examples/talk.mjs

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

const BYTES_A_MS = 48; // 24,000 samples of 2 bytes a second

// --max-lead-ms: so that little has to be thrown away when the caller interrupts.
const voice = spawn('dia2stream', ['pipe', '--max-lead-ms', '500']);
const closed = once(voice, 'close'); // ended, and all of its output was read
const send = (cmd, fields = {}) => voice.stdin.write(`${JSON.stringify({ cmd, ...fields })}\n`);

// Audio as it comes. Here it is only counted; give it to your sound card or your call.
let bytes = 0;
let began = 0;
voice.stdout.on('data', (samples) => {
  began ||= performance.now();
  bytes += samples.length;
});
// What the listener has heard: ask your sound card. This one plays in real time from the first sample.
const playedMs = () => Math.min(performance.now() - began, bytes / BYTES_A_MS);

const lines = createInterface({ input: voice.stderr })[Symbol.asyncIterator]();
async function waitFor(name, fields = {}) {
  for (;;) {
    const { value, done } = await lines.next();
    if (done) throw new Error(`dia2stream ended before ${name}`);
    const event = JSON.parse(value);
    if (event.event === 'error') throw new Error(event.message);
    if (event.event === name && Object.entries(fields).every(([key, wanted]) => event[key] === wanted)) return event;
  }
}

await waitFor('ready');
send('start', { text: '[S1] Your order left our house this morning,', final: false }); // as a language model writes
send('inject', { text: ' and it should be with you by Thursday at noon.' });
send('inject', { text: 'Is there anything else that I can do for you today?' });
await waitFor('word', { word: 'house' });
await sleep(300); // the caller begins to speak: empty your sound card's buffer, and tell how much was heard
send('pause', { played_ms: playedMs() });
const { spoken, pending } = await waitFor('paused');
send('inject', { text: 'Oh, sure, go ahead.', id: 'answer' });
await waitFor('done', { id: 'answer' });
voice.stdin.end(); // no more text: what is queued is spoken
const [code] = await closed;
console.log(`heard '${spoken}', not '${pending}'; ${bytes / BYTES_A_MS} ms, exit code ${code}`);
