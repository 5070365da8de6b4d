"""A step of one conversation: the kernels of every step for the column, and the depformer as one kernel."""

from torch import Tensor

from dia2.cuda.clusters.depformer import ClusterDepformer, StepAddresses
from dia2.cuda.programs import KernelBuffers, KernelProgram, StepTensors


class ClusterProgram(KernelProgram):
    """For a batch of one line, whose two rows are what the kernel is made for."""

    def __init__(self, tensors: StepTensors, buffers: KernelBuffers, whole: ClusterDepformer) -> None:
        super().__init__(tensors, buffers)
        guidance, draws = tensors.guidance, tensors.audio_draws
        self._whole = whole
        self._params = whole.bind(
            StepAddresses(
                projected=self.projected,
                fields=tensors.fields,
                drawn=tensors.drawn,
                codes=tensors.codes,
                scale=guidance.scale,
                filter_k=guidance.filter_k,
                temperature=draws.temperature,
                top_k=draws.top_k,
                uniforms=tensors.uniforms,
            )
        )

    def codes(self) -> None:
        self.project()
        self._whole.launch(self._params)

    def codes_after(self, given: Tensor) -> Tensor:
        """For tests: each stage reads the code before it from given, int64 [C]. Its logits, [stages, 2, V]."""
        self.project()
        return self._whole.launch_given(self._params, given)
