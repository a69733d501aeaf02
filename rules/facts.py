"""What a rule may know of the probes that it judges: their names, and what their bank's card says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ProbeFacts:
    """thresholds: {window: {false-positive rate: score}}, such as {"ewma(8)": {0.001: 1.5}}; empty for a probe without calibration.
    reply_thresholds: the same by the share of whole replies.

    causal: whether steering along the probe was shown to change what the model says; None when nobody tried. worthwhile: whether it surely
    tells more than words alone do; None when nobody measured. beats: whether a dose along it moves the model further than random
    directions of the same covariance do. alarm: that it stands for harm, so that nobody may push towards it.
    """

    name: str
    thresholds: Mapping[str, Mapping[float, float]] = field(default_factory=dict)
    causal: bool | None = None
    worthwhile: bool | None = None
    beats: Callable[[float], bool] = lambda dose: False
    alarm: bool = False
    reply_thresholds: Mapping[str, Mapping[float, float]] = field(default_factory=dict)

    def objection(self) -> str:
        """Why a rule must not stop a reply on this probe; empty when it may."""
        if not self.thresholds:
            return "which has no calibration"
        if self.worthwhile is False:
            return "which does not surely tell more than words alone do"
        if self.causal is None:
            return "whose cause nobody has tried (barograph probes validate)"
        return "" if self.causal else "whose card says causal: false"

    def against(self, dose: float) -> str:
        """Why nobody may steer along this probe at a dose; empty when they may."""
        if self.causal is not True:
            return "whose card does not say causal: true"
        if self.alarm and dose > 0:
            return f"which is an alarm: a dose of {dose:g} pushes towards it; expected one below 0"
        if not self.beats(dose):
            return f"where a dose of {dose:g} was not shown to do more than random directions of the same covariance (see its card)"
        return ""
