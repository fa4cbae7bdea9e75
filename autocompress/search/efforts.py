"""How much a search does where it is not told: `fast`, `normal` or `thorough`."""

from __future__ import annotations

import msgspec


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """How much of each rung: candidates promoted, and when a time limit is set, the shares of the time after set-up
    at which calibration and short distillation end.

    At least `least` candidates are calibrated even where that takes longer, up to `most_calibration_share`: where one
    takes many seconds, a few would be the whole search. What follows then ends later by as much.
    """

    short: int = 5
    long: int = 1
    calibration_share: float = 0.1
    short_share: float = 0.2
    least: int = 20
    most_calibration_share: float = 0.4


class Effort(msgspec.Struct, frozen=True, kw_only=True):
    """How much a search does where it is not told: candidates, epochs of the long distillation, and the ladder."""

    trials: int
    epochs: int
    schedule: Schedule = Schedule()


EFFORTS = {
    "fast": Effort(trials=10, epochs=2, schedule=Schedule(short=2)),
    "normal": Effort(trials=24, epochs=8),
    "thorough": Effort(trials=96, epochs=24, schedule=Schedule(short=10, long=3, short_share=0.3)),
}
DEFAULT_EFFORT = "normal"
