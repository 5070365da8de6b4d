"""A voice agent by Pipecat: microphone, speech recognition, a language model, Dia2, loudspeaker.

    pip install 'pipecat-ai[local,openai]' && pip install --no-deps dia2stream
    OPENAI_API_KEY=... DIA2STREAM_URL=ws://127.0.0.1:8765 python pipecat_agent.py

Any other transport of Pipecat's will do: a browser, a telephone.
"""

import asyncio
import os

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.openai.stt import OpenAISTTService
from pipecat.transports.base_transport import BaseTransport
from pipecat.workers.runner import WorkerRunner

from dia2stream.plugins.pipecat import Dia2TTSService

ROLE = "You are on the phone with a caller. Answer in one or two short sentences."


def agent(transport: BaseTransport) -> PipelineWorker:
    llm = OpenAILLMService(settings=OpenAILLMService.Settings(model=os.environ.get("LLM_MODEL", "gpt-4.1")))
    voice = Dia2TTSService(url=os.environ["DIA2STREAM_URL"], token=os.environ.get("DIA2STREAM_TOKEN"))
    hearing = LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
    context = LLMContext([{"role": "system", "content": ROLE}])
    user, assistant = LLMContextAggregatorPair(context, user_params=hearing)

    @voice.event_handler("on_speech_interrupted")
    async def on_speech_interrupted(voice: Dia2TTSService, spoken: str, pending: str) -> None:
        print(f"the caller heard {spoken!r} and not {pending!r}")

    parts = [transport.input(), OpenAISTTService(), user, llm, voice, transport.output(), assistant]
    return PipelineWorker(Pipeline(parts), params=PipelineParams(audio_out_sample_rate=24000))


async def main() -> None:
    from pipecat.transports.local.audio import LocalAudioTransport, LocalAudioTransportParams

    devices = LocalAudioTransportParams(audio_in_enabled=True, audio_out_enabled=True)
    runner = WorkerRunner()
    await runner.add_workers(agent(LocalAudioTransport(devices)))
    await runner.run()


if __name__ == "__main__":
    asyncio.run(main())
