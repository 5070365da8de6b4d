"""When calls arrive: pure, from a seed."""

from random import Random


def poisson_arrivals(rate: float, seconds: float, random: Random) -> list[float]:
    """Arrivals in [0, seconds) at `rate` a second on average, each independent of all others, in order.

    That is how requests of many users come: the time to the next one is exponentially distributed.
    """
    arrivals, at = [], random.expovariate(rate)
    while at < seconds:
        arrivals.append(at)
        at += random.expovariate(rate)
    return arrivals


def spread_arrivals(count: int, seconds: float, random: Random) -> list[float]:
    """`count` arrivals in [0, seconds), in order: one in each equal part, at a random place in it."""
    part = seconds / count
    return [part * (number + random.random()) for number in range(count)]
