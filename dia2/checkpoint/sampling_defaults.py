"""What a checkpoint's own manifest says of how it is best sampled.

    {"sampling": {"audio_temperature": 0.3}}        in dia2_assets.json

What the manifest leaves out stays as it is for every checkpoint. Whoever speaks with the model may choose otherwise.
`Dia2.generate` keeps the published package's defaults.
"""

from dataclasses import fields

from dia2.checkpoint.sources import MANIFEST, Source
from dia2.errors import CheckpointError, ConfigError, shown
from dia2.model.sampling import SamplingDefaults
from dia2.strict_json import read_dataclass, read_object

# The least and the most that each may be.
RANGES: dict[str, tuple[float, float]] = {
    "cfg_scale": (0, 20),
    "cfg_filter_k": (0, 2048),
    "text_temperature": (0, 2),
    "text_top_k": (1, 2048),
    "audio_temperature": (0, 2),
    "audio_top_k": (1, 2048),
}


def read_sampling(source: Source) -> SamplingDefaults:
    """What the manifest says under `sampling`; the usual defaults where it says nothing. Raises CheckpointError."""
    path = source.find(MANIFEST)
    raw = None if path is None else read_object(path).get("sampling")
    if raw is None:
        return SamplingDefaults()
    where = f"{source.name}/{MANIFEST}"
    try:
        given = read_dataclass(SamplingDefaults, raw, where="sampling")
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from None
    for field in fields(given):
        value, (low, high) = getattr(given, field.name), RANGES[field.name]
        if not low <= value <= high:
            limits = f"a number from {low} to {high}"
            raise CheckpointError(f"{where}: sampling.{field.name} must be {limits}, not {shown(value)}")
    return given
