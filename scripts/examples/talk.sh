#!/usr/bin/env bash
# `dia2stream pipe` as the voice of a shell script: it speaks, is given more, is interrupted, and answers.
#
#     scripts/examples/talk.sh speech.wav
set -euo pipefail
out=${1:?usage: talk.sh FILE.wav}
pipes=$(mktemp -d)
trap 'rm -rf "$pipes"' EXIT
mkfifo "$pipes/commands" "$pipes/events"

# The audio goes into a file, where a script has a player or a call.
# --max-lead-ms: so that little has to be thrown away when the caller interrupts.
dia2stream pipe --max-lead-ms 500 --wav --events "$pipes/events" <"$pipes/commands" >"$out" &
voice=$!
exec 3>"$pipes/commands" 4<"$pipes/events"

send() { printf '%s\n' "$1" >&3; }
wait_for() { # reads events until one has all of these parts, and leaves it in $event
  local part
  while read -r event <&4; do
    [[ $event != *'"event":"error"'* ]] || { echo "$event" >&2; exit 1; }
    for part in "$@"; do [[ $event == *"$part"* ]] || continue 2; done
    return
  done
  echo "dia2stream ended before $*" >&2
  exit 1
}
field() { sed -E "s/.*\"$1\":(\"([^\"]*)\"|([0-9]+)).*/\2\3/" <<<"$event"; } # good for text without quotes in it
now_ms() { date +%s%3N; }

wait_for '"ready"'
send '{"cmd": "start", "text": "[S1] Your order left our house this morning,", "final": false}'
send '{"cmd": "inject", "text": " and it should be with you by Thursday at noon."}'
send '{"cmd": "inject", "text": "Is there anything else that I can do for you today?"}'
wait_for '"first_audio"'
began=$(now_ms)
wait_for '"word":"house"'
sleep 0.3 # the caller begins to speak; a real player knows better how much of it was heard
send "{\"cmd\": \"pause\", \"played_ms\": $(($(now_ms) - began))}"
wait_for '"paused"'
spoken=$(field spoken) pending=$(field pending)
send '{"cmd": "inject", "text": "Oh, sure, go ahead.", "id": "answer"}'
wait_for '"done"' '"id":"answer"'
milliseconds=$(field audio_ms)
exec 3>&- # no more text: what is queued is spoken
wait "$voice" && code=0 || code=$?
echo "heard '$spoken', not '$pending'; $milliseconds ms, exit code $code"
