"""How the bundled voice's decoder learns: upsampling without a tone, discriminators, steps that resume."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parent.parent / "scripts" / "bundled-voice"))
import codec
from codec_net import FRAME, CodecNet, new_weights
from decoder import QUIET, WARM, Phase, Smooth, Trainer, phase_at, smoothed
from discriminators import Discriminators, fold, fooling_loss, matching_loss, telling_loss
from held_out import HeldOut
from spectra import SPECTRAL, Analysis
from training import lighter, read_state, write_state

FRAMES, RATE = 3, 16_000
UPSAMPLING = "decoder.layers.11.conv.weight"  # stride 4


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Of a new codec whose codebooks are placed on some sounds."""
    net, analysis = CodecNet(new_weights(1)), make_analysis()
    found = analysis.latents(codec.resample(sounds(90, 8)))[:, 1:].flatten(0, 1)
    net.see(found.std(0))
    net.place_codebooks(codec.widened(found), SPECTRAL, rounds=1)
    return {name: value.clone() for name, value in net.weights().items()}


def sounds(count: int, frames: int) -> Tensor:
    """Tones of different pitch with some noise, [count, samples] at 16 kHz."""
    generator = torch.Generator().manual_seed(3)
    time = torch.arange(frames * FRAME * 2 // 3) / RATE
    pitch = 100 + 300 * torch.rand(count, 1, generator=generator)
    tones = sum(torch.sin(2 * torch.pi * n * pitch * time) / n for n in (1, 2, 3, 5))
    return 0.1 * tones + 0.01 * torch.randn(count, len(time), generator=generator)


def make_analysis() -> Analysis:
    return Analysis.of([codec.resample(sounds(12, 8))])


def make_trainer(weights: dict[str, Tensor], seed: int = 0) -> Trainer:
    torch.manual_seed(seed)
    return Trainer(CodecNet(weights), make_analysis(), 2, FRAMES, torch.device("cpu"), width=2)


def steps(trainer: Trainer, count: int, phase: Phase = Phase.SPECTRA, rate: float = 1e-3) -> None:
    for _ in range(count):
        trainer.learn(sounds(2, FRAMES), rate, phase)


@pytest.mark.parametrize("stride", [2, 4, 5, 6, 8])
def test_all_phases_of_an_upsampling_add_up_to_the_same(stride: int) -> None:
    made = Smooth(stride)(torch.randn(3, 2, stride + 1, generator=torch.Generator().manual_seed(0)))
    phases = made[..., :stride] + made[..., stride:]
    assert made.shape == (3, 2, 2 * stride)
    assert torch.allclose(phases, phases[..., :1].expand_as(phases), atol=1e-5)
    assert torch.allclose(Smooth(stride)(Smooth(stride).right_inverse(made)), made, atol=1e-5)


def test_what_is_constant_stays_constant_and_did_not_before(weights: dict[str, Tensor]) -> None:
    constant = torch.ones(1, 6, CodecNet(weights).get(UPSAMPLING).shape[0])

    def ripple(net: CodecNet) -> float:
        """How far the samples of one channel differ, where both neighbours have been taken."""
        made = net._transposed("decoder.layers.11", constant, 4)[0, 4:].detach()
        return (made - made.mean(0)).abs().max().item()

    assert ripple(CodecNet(weights)) > 0.05
    assert ripple(smoothed(CodecNet(weights))) < 1e-5


def test_smoothed_weights_have_the_published_names_and_shapes(weights: dict[str, Tensor]) -> None:
    made = smoothed(CodecNet(weights)).weights()
    assert {name: value.shape for name, value in made.items()} == {name: value.shape for name, value in weights.items()}
    changed = {name for name, value in made.items() if not torch.equal(value, weights[name])}
    assert changed == {*(f"decoder.layers.{n}.conv.weight" for n in (2, 5, 8, 11)), "upsample.conv.weight"}
    codes = torch.randint(512, (1, 8, 4))
    net, again = smoothed(CodecNet(weights)), CodecNet(made)
    assert torch.allclose(net.decode(net.dequantize(codes)), again.decode(again.dequantize(codes)), atol=1e-5)


def test_waves_fold_into_rows_of_a_period() -> None:
    folded = fold(torch.arange(7.0)[None], 3)
    assert folded.tolist() == [[[[0, 1, 2], [3, 4, 5], [6, 5, 4]]]]


def test_discriminators_learn_to_tell_and_their_losses_say_so() -> None:
    torch.manual_seed(0)
    net = Discriminators(width=2)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    real, noise = codec.resample(sounds(2, 2)), 0.1 * torch.randn(2, 2 * FRAME)
    before = telling_loss(net(real), net(noise)).item()
    for _ in range(12):
        optimizer.zero_grad()
        telling_loss(net(real), net(noise)).backward()
        optimizer.step()
    assert telling_loss(net(real), net(noise)).item() < 0.7 * before
    assert fooling_loss(net(real)) < fooling_loss(net(noise))
    assert matching_loss(net(real), net(real)) == 0
    assert matching_loss(net(real), net(noise)) > 0.1
    assert len(net(real)) == 8


def test_the_spectral_loss_falls(weights: dict[str, Tensor]) -> None:
    trainer = make_trainer(weights)
    steps(trainer, 1)
    first = float(trainer.shown[0])
    steps(trainer, 12)
    assert float(trainer.shown[0]) < 0.85 * first
    assert trainer.shown[1] > 0
    assert trainer.shown[2:].tolist() == [0, 0, 0]


def test_an_adversarial_step_teaches_both_sides(weights: dict[str, Tensor]) -> None:
    trainer = make_trainer(weights)
    sides = [list(trainer.discriminators.parameters()), trainer.parameters]
    before = [[w.detach().clone() for w in side] for side in sides]
    steps(trainer, 2, Phase.AGAINST)
    assert (trainer.shown > 0).all()
    for side, old in zip(sides, before, strict=True):
        assert sum(not torch.equal(a, b) for a, b in zip(side, old, strict=True)) > 0.9 * len(old)


def test_discriminators_that_learn_alone_leave_the_decoder_as_it_is(weights: dict[str, Tensor]) -> None:
    trainer = make_trainer(weights)
    sides = [list(trainer.discriminators.parameters()), trainer.parameters, trainer.averages.values]
    before = [[w.detach().clone() for w in side] for side in sides]
    steps(trainer, 2, Phase.TELLING)
    assert trainer.shown[4] > 0
    assert trainer.shown[:4].tolist() == [0, 0, 0, 0]
    told, *rest = (
        [torch.equal(a, b) for a, b in zip(side, old, strict=True)] for side, old in zip(sides, before, strict=True)
    )
    assert sum(told) < 0.1 * len(told)
    assert all(all(same) for same in rest)


def test_a_decoder_that_has_learnt_before_waits_for_its_discriminators() -> None:
    assert [phase_at(progress, trained=False) for progress in (0.0, QUIET, 1.0)] == [
        Phase.SPECTRA,
        Phase.AGAINST,
        Phase.AGAINST,
    ]
    assert [phase_at(progress, trained=True) for progress in (0.0, WARM, 1.0)] == [
        Phase.TELLING,
        Phase.AGAINST,
        Phase.AGAINST,
    ]


def test_what_is_held_out_is_in_no_batch_and_tells_how_near_a_decoder_is(
    weights: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = (sounds(1, 12)[0] * 20_000).to(torch.int16)
    hop = FRAME * 2 // 3
    sound[: 4 * hop] = 7  # tells it apart
    np.savez(tmp_path / "0000.npz", sound=sound.numpy())
    speech = codec.Speech(tmp_path, torch.device("cpu"), 0.01, held=4 * hop)
    speech.look()
    batch = speech.batch(200, 3)
    assert (batch * 32768 != 7).any(1).all()
    assert speech.held_out(frames=2).shape == (2, 2 * hop)
    assert (speech.held_out(frames=2) * 32768 == 7).all()

    trainer = make_trainer(weights)
    held = HeldOut(trainer.encoder, trainer.loss, trainer.wave, sounds(2, 6))
    first = held(trainer.net)
    steps(trainer, 16)
    then = held(trainer.net)
    assert all(then[name] < 0.8 * first[name] for name in ("spectral", "wave", "mel"))
    assert then["place"] > 0
    held.report(trainer)
    assert capsys.readouterr().out.startswith("       held out: spectral ")


def test_a_state_that_travels_is_lighter_and_can_be_gone_on_with(weights: dict[str, Tensor], tmp_path: Path) -> None:
    trainer = make_trainer(weights)
    steps(trainer, 2, Phase.AGAINST)
    for name, told in (("whole", trainer.state()), ("light", lighter(trainer.state()))):
        write_state(tmp_path / name, {"trainer": told, "spent": 3.0})
    sizes = [(tmp_path / name).stat().st_size for name in ("whole", "light")]
    assert sizes[1] < 0.8 * sizes[0]
    told = read_state(tmp_path / "light", torch.device("cpu"))
    assert told is not None
    again = make_trainer(weights, seed=5)
    again.restore(told["trainer"])
    assert all(torch.equal(a, b) for a, b in zip(trainer.parameters, again.parameters, strict=True))
    moments = [list(each.optimizer.state.values()) for each in (trainer, again)]
    for own, read in zip(*moments, strict=True):
        assert read["exp_avg"].dtype == torch.float32
        assert torch.allclose(own["exp_avg"], read["exp_avg"], rtol=0.01)
        assert own["step"] == read["step"]


def test_the_codes_the_encoder_and_the_codebooks_stay_as_they_are(weights: dict[str, Tensor], tmp_path: Path) -> None:
    codec.save(CodecNet(weights), tmp_path)
    trainer = make_trainer(weights)
    steps(trainer, 2, Phase.AGAINST)
    trainer.save(tmp_path)
    made = codec.read(tmp_path).weights()
    stay = [n for n in weights if n.startswith(codec.ENCODES) or "codebook" in n or "input_proj" in n]
    assert all(torch.equal(made[name], weights[name]) for name in stay)
    assert not torch.equal(made["decoder.layers.0.conv.weight"], weights["decoder.layers.0.conv.weight"])
    with trainer.averages.in_place():
        expected = {name: value.clone() for name, value in trainer.net.weights().items()}
    assert all(torch.equal(made[name], expected[name]) for name in made)


def test_a_resumed_trainer_goes_on_as_if_it_had_never_stopped(weights: dict[str, Tensor], tmp_path: Path) -> None:
    whole, first = make_trainer(weights), make_trainer(weights)
    for phase in (Phase.SPECTRA, Phase.AGAINST):
        steps(whole, 2, phase)
    steps(first, 2)
    write_state(tmp_path / "state", {"trainer": first.state(), "spent": 3.0})
    told = read_state(tmp_path / "state", torch.device("cpu"))
    assert told is not None
    second = make_trainer(weights, seed=5)
    second.restore(told["trainer"])
    steps(second, 2, Phase.AGAINST)
    assert (second.steps, told["spent"]) == (4, 3.0)
    for of in (lambda t: t.parameters, lambda t: t.averages.values, lambda t: list(t.discriminators.parameters())):
        apart = [(a - b).detach().abs().max().item() for a, b in zip(of(whole), of(second), strict=True)]
        assert max(apart) < 1e-6
