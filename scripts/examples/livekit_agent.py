"""A voice agent by LiveKit Agents that speaks with Dia2.

    pip install livekit-agents livekit-plugins-openai livekit-plugins-silero && pip install --no-deps dia2stream
    OPENAI_API_KEY=... DIA2STREAM_URL=ws://127.0.0.1:8765 python livekit_agent.py console

`console` talks by this machine's microphone; `dev` and `start` join the rooms of a LiveKit server.
"""

import os

from livekit.agents import Agent, AgentServer, AgentSession, JobContext, cli
from livekit.plugins import openai, silero

from dia2stream.plugins import livekit as dia2

ROLE = "You are on the phone with a caller. Answer in one or two short sentences."
server = AgentServer()


def make_session(voice: dia2.TTS) -> AgentSession:
    llm = openai.LLM(model=os.environ.get("LLM_MODEL", "gpt-4.1"))
    return AgentSession(stt=openai.STT(), vad=silero.VAD.load(), llm=llm, tts=voice)


def make_voice() -> dia2.TTS:
    voice = dia2.TTS(url=os.environ["DIA2STREAM_URL"], token=os.environ.get("DIA2STREAM_TOKEN"))
    voice.on("speech_interrupted", lambda paused: print(f"the caller heard {paused.spoken!r}, not {paused.pending!r}"))
    return voice


@server.rtc_session()
async def answer(ctx: JobContext) -> None:
    voice = make_voice()
    session = make_session(voice)
    await session.start(Agent(instructions=ROLE), room=ctx.room)
    voice.follow(session)  # the model remembers what the caller heard, to the word
    await session.generate_reply(instructions="Greet the caller.")


if __name__ == "__main__":
    cli.run_app(server)
