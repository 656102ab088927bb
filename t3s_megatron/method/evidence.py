# SPDX-License-Identifier: Apache-2.0
"""How sure a theta_b is: whether the fall to it, and the rise after it, may be chance.

The lowest of several measurements is low partly by luck. With m measurements after step 0 and no
fall at all, one of them is below step 0 by a paired test at level p with a probability of up to
m p, and one of the m (m - 1) / 2 pairs of them shows a rise as significant with up to that many
times p. So the p-values here are those of `method.paired` times the number of comparisons
(Bonferroni's correction, which holds however the measurements hang together), 1 at the most.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace

from t3s_megatron.method.outcome import RIGHT, WRONG, Outcome
from t3s_megatron.method.paired import p_above, sign_flip_tail

#: A corrected p-value above this is called chance.
CHANCE = 0.05


@dataclass(frozen=True)
class Evidence:
    """What is known of the fall to theta_b and of the rise after it.

    `measurements`: after step 0, up to the decision. `before`: accuracy at step 0; `lowest`: at
    theta_b; `highest`: since, None when nothing was measured since. `p_fall`, `p_rise`: corrected
    p-values, None where answers are not known one by one.
    """

    measurements: int
    before: float
    lowest: float
    highest: float | None
    p_fall: float | None
    p_rise: float | None

    @property
    def fall_may_be_chance(self) -> bool:
        """There may be no Imitation Shock."""
        return self.p_fall is not None and self.p_fall > CHANCE

    @property
    def rise_may_be_chance(self) -> bool:
        """Accuracy may still be at its lowest, or go on to fall."""
        return self.highest is None or (self.p_rise is not None and self.p_rise > CHANCE)

    def describe(self) -> str:
        """Both figures with their p-values, in a line."""
        fall = f"fell from {self.before:.3f} to {self.lowest:.3f}{_p(self.p_fall)}"
        if self.highest is None:
            return f"accuracy {fall}, and was not measured again"
        rise = f"has since risen to {self.highest:.3f}{_p(self.p_rise)}"
        return f"accuracy {fall} and {rise}; p for the lowest of {self.measurements} measurements"

    def warnings(self) -> list[str]:
        """What may be chance, and what then follows, in plain sentences."""
        said = []
        if self.fall_may_be_chance:
            said.append(
                f"the fall may be chance{_p(self.p_fall)}: without any fall, the lowest of "
                f"{self.measurements} measurements is often as low. theta_b is then an early step "
                "like any other, as that of --t3s-simple is, which costs no measurement. More "
                "answers (--t3s-accuracy-prompts, --t3s-accuracy-samples) tell smaller falls from "
                "chance; with --t3s-shock-level a run takes fewer falls that are none, and "
                "--t3s-no-shock says what it does without one"
            )
        if self.highest is None:
            said.append(
                "nothing was measured after theta_b: accuracy may not have been at its lowest yet. "
                "A larger --t3s-profile-iters would show"
            )
        elif self.rise_may_be_chance:
            said.append(
                f"the rise after theta_b may be chance{_p(self.p_rise)}: accuracy may not have "
                "been at its lowest yet. A larger --t3s-patience waits for a lower one"
            )
        return said

    def to_dict(self) -> dict:
        """For the summary."""
        return asdict(self) | {
            "fall_may_be_chance": self.fall_may_be_chance,
            "rise_may_be_chance": self.rise_may_be_chance,
        }

    @classmethod
    def from_dict(cls, known: dict) -> Evidence:
        """What `to_dict` gave."""
        return cls(**{declared.name: known[declared.name] for declared in fields(cls)})


def _p(p: float | None) -> str:
    return "" if p is None else f" (p = {p:.2g})"


def evidence(
    measurements: int, first: Outcome, lowest: Outcome, highest: Outcome | None
) -> Evidence:
    """`first`: at step 0, `lowest`: at theta_b, `highest`: since, all over the same prompts."""
    p_fall = p_rise = None
    if first.marks and lowest.marks:
        p_fall = min(1.0, measurements * p_above(first, lowest))
        if highest is not None:
            pairs = measurements * (measurements - 1) // 2
            p_rise = min(1.0, pairs * p_above(highest, lowest))
    return Evidence(
        measurements,
        first.accuracy,
        lowest.accuracy,
        None if highest is None else highest.accuracy,
        p_fall,
        p_rise,
    )


def why_nothing_can_fall(first: Outcome, min_delta: float) -> str | None:
    """Why no later measurement could be told from that of step 0 as a fall; None where one could.

    Decided by the test itself: not even if every answer were wrong. Or more than half of the
    answers were cut off, and that not by chance (a sign test): then accuracy is that of the length
    limit.
    """
    asked = len(first.marks)
    ended = asked - first.cut_off
    if first.cut_off > ended and sign_flip_tail([1] * first.cut_off + [-1] * ended) <= CHANCE:
        return (
            f"{first.cut_off} of {asked} answers met the length limit before their end, and count "
            f"as wrong (accuracy {first.accuracy:.3f}). Raise --t3s-max-new-tokens (and "
            "--seq-length or --max-position-embeddings, where it does not fit); answers that "
            "never end point to --t3s-prompt-format, or to a chat template without its end token"
        )
    what_to_do = (
        "Look at what the student answers: --t3s-verifier may not read the answers as the prompts "
        "ask for them, --t3s-prompt-format may not be what it was trained on, --t3s-temperature "
        "may be too high for it; --t3s-accuracy-prompts and --t3s-accuracy-samples ask for more "
        "answers. Prompts that it cannot solve at all have no Imitation Shock to find"
    )
    if first.accuracy <= min_delta:
        return (
            f"accuracy is {first.accuracy:.3f}, and nothing falls below it by more than "
            f"--t3s-min-delta {min_delta:g}. {what_to_do}"
        )
    if not asked:
        return None
    all_wrong = replace(first, accuracy=0.0, marks=first.marks.replace(RIGHT, WRONG))
    p = p_above(first, all_wrong)
    if p <= CHANCE:
        return None
    return (
        f"{first.marks.count(RIGHT)} of {asked} answers are right (accuracy "
        f"{first.accuracy:.3f}), so few that even none could be chance later (p = {p:.2g}). "
        f"{what_to_do}"
    )
