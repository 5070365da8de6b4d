"""A step of one conversation, with the backbone's layers, and the whole depformer, as one kernel each."""

from torch import Tensor

from dia2.cuda.clusters.backbone import ClusterBackbone
from dia2.cuda.clusters.depformer import ClusterDepformer, StepAddresses
from dia2.cuda.kernels.launch import only_compiles
from dia2.cuda.programs import KernelBuffers, KernelProgram, StepTensors


class ClusterProgram(KernelProgram):
    """For a batch of one line, whose two rows are what both kernels are made for.

    A part whose kernel is None runs as in any batch.
    """

    def __init__(
        self,
        tensors: StepTensors,
        buffers: KernelBuffers,
        backbone: ClusterBackbone | None,
        depformer: ClusterDepformer | None,
    ) -> None:
        super().__init__(tensors, buffers)
        guidance, draws = tensors.guidance, tensors.audio_draws
        self._backbone, self._depformer = backbone, depformer
        if backbone is not None:
            self._layers = backbone.bind(self.big.x, tensors.fields, tensors.cache)
        if depformer is not None:
            self._stages = depformer.bind(
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

    def layers(self) -> None:
        if self._backbone is None:
            super().layers()
        elif not only_compiles():
            self._backbone.launch(self._layers)

    def codes(self) -> None:
        if self._depformer is None:
            super().codes()
            return
        self.project()
        if not only_compiles():
            self._depformer.launch(self._stages)

    def codes_after(self, given: Tensor) -> Tensor:
        if self._depformer is None:
            return super().codes_after(given)
        self.project()
        return self._depformer.launch_given(self._stages, given)
