"""What the engine reports of a step."""

from dia2stream.engine.observer import StepReport


def report(seconds: float, device_seconds: float) -> StepReport:
    return StepReport(0.0, seconds, device_seconds, 3, 2, 2, 4, 2)


def test_what_is_not_the_devices_time_is_the_hosts() -> None:
    assert report(0.005, 0.0035).host_seconds == 0.0015


def test_host_time_is_never_negative_where_two_clocks_disagree() -> None:
    assert report(0.005, 0.0051).host_seconds == 0.0
