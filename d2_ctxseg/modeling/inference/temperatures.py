"""The temperatures that scores are divided by before they become probabilities."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Temperatures:
    """Of a model's two kinds of scores, see ``evaluation/temperature.py``.

    Attributes:
        single: of the scores of the image as it is, windows included.
        averaged: of the average of several views, "sem_seg_TTA". Means of probabilities are less
            sure than the probabilities of each view: they have a temperature of their own.
    """

    single: float = 1.0
    averaged: float = 1.0

    @classmethod
    def from_config(cls, cfg) -> "Temperatures":
        """As TEST.TEMPERATURE and TEST.AUG.TEMPERATURE say; 1 where they say nothing."""
        given = cfg.TEST.TEMPERATURE, cfg.TEST.AUG.TEMPERATURE
        return cls(*(1.0 if temperature is None else temperature for temperature in given))
