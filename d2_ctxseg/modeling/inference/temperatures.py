"""The temperatures that scores are divided by before they become probabilities."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Temperatures:
    """The temperatures of a model's two kinds of scores, see ``evaluation/temperature.py``.

    Attributes:
        single: temperature of single-scale scores, with or without sliding windows.
        averaged: temperature of the average of several views, "sem_seg_TTA". It is separate,
            because averaging makes probabilities less confident.
    """

    single: float = 1.0
    averaged: float = 1.0

    @classmethod
    def from_config(cls, cfg) -> "Temperatures":
        """As TEST.TEMPERATURE and TEST.AUG.TEMPERATURE say; 1 where they say nothing."""
        given = cfg.TEST.TEMPERATURE, cfg.TEST.AUG.TEMPERATURE
        return cls(*(1.0 if temperature is None else temperature for temperature in given))
