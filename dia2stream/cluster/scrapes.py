"""Puts the metrics of several servers together: the same families, each sample with the name of its replica."""

import re
from collections.abc import Mapping

_SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})?(?P<value> \S.*)")


def together(scrapes: Mapping[str, str]) -> str:
    """One text in Prometheus' format of several, as prometheus_client writes them. scrapes: by the replica's name."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for replica, text in scrapes.items():
        family = ""
        for line in text.splitlines():
            if line.startswith("# HELP "):
                family = line.split(" ", 3)[2]
                heads.setdefault(family, [])
            if line.startswith("#"):
                if line not in heads[family]:
                    heads[family].append(line)
            elif line:
                samples.setdefault(family, []).append(_named(line, replica))
    return "".join(f"{line}\n" for family in heads for line in (*heads[family], *samples.get(family, [])))


def _named(sample: str, replica: str) -> str:
    found = _SAMPLE.fullmatch(sample)
    assert found is not None, sample
    labels = ",".join(filter(None, (f'replica="{replica}"', found["labels"])))
    return f"{found['name']}{{{labels}}}{found['value']}"
