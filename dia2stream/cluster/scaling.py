"""How many replicas there should be: by open conversations over slots. Ray hands this module around by value."""

import math
from typing import Any


def replicas_for(open_conversations: float, slots: float, target: float) -> int:
    """Replicas of so many slots each, of which the share `target` is to be taken; at least 1.

    Example: 50 conversations on replicas of 8 slots, target 0.7 -> 50 / 5.6 -> 9.
    """
    return max(1, math.ceil(open_conversations / (max(slots, 1.0) * target) - 1e-9))


class BySlots:
    """Ray Serve's autoscaling policy; the bounds and delays of `autoscaling_config` apply to what it says.

    target: the share of slots that should be taken.
    """

    def __init__(self, target: float = 0.7) -> None:
        self._target = target

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        metrics = context.aggregated_metrics or {}
        taken, slots = (list(metrics.get(name, {}).values()) for name in ("taken", "slots"))
        if not slots:
            return context.target_num_replicas, {}  # nobody has reported yet
        return replicas_for(sum(taken), sum(slots) / len(slots), self._target), {}
