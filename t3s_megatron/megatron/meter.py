# SPDX-License-Identifier: Apache-2.0
"""What forwards tell about target tokens, read off as they pass: c_t = -(per-token loss) (Eq. 2).

The last pipeline stage turns logits into tensor-parallel-reduced per-token losses anyway, fused or
not, so reading them costs a copy of [b, s] floats to the host and no second look at the logits.

Of the profile's training forwards every last-stage rank keeps the log-probs of its target tokens:
in host memory, 4 + 8 bytes a token and step. From them come the two curves of Figure 4, once the
anchors are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.kept_bits import Kept, n_kept_of
from t3s_megatron.diffusion.rows import FILL
from t3s_megatron.megatron.layout import (
    data_and_context_group,
    on_last_stage,
)
from t3s_megatron.method.selection import anchors, delta_c


@dataclass
class TokenScores:
    """This rank's target tokens: numbers in the corpus's flat order, and their c_t; and the c_t of
    the end tokens that fill a diffusion student's blocks, which are no targets."""

    target: np.ndarray  # int64[n]
    c: np.ndarray  # float32[n]
    fill: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32), kw_only=True)


class TokenReader:
    """Observer of forwards; `take` hands over what was seen since the last call."""

    def __init__(self):
        self._pending: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, batch: dict[str, torch.Tensor], losses: torch.Tensor) -> None:
        """`losses` float32[b, s / cp], detached, of a micro-batch on the last stage."""
        # The copy is waited for in `take`, not here: no stall between micro-batches.
        self._pending.append((batch["target_index"], losses.to("cpu", non_blocking=True)))

    def take(self) -> TokenScores:
        """Empty on the stages before the last."""
        torch.cuda.synchronize()
        targets, values = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
        fill = [np.zeros(0, np.float32)]
        for target_index, losses in self._pending:
            is_target = target_index >= 0
            targets.append(target_index[is_target].numpy())
            values.append(-losses[is_target].numpy())
            fill.append(-losses[target_index == FILL].numpy())
        self._pending.clear()
        joined = (np.concatenate(parts) for parts in (targets, values))
        return TokenScores(*joined, fill=np.concatenate(fill))


@dataclass
class StepTokens(TokenScores):
    """This rank's target tokens of one training step."""

    step: int  # of the phase, 1-based: the forward saw the weights after step - 1 updates

    def among(self, targets: slice | np.ndarray) -> StepTokens:
        """Those with a number in `targets`: a range, or numbers in ascending order."""
        mine, _ = _places(targets, self.target)
        return StepTokens(self.target[mine], self.c[mine], self.step)


class TokenMeter(TokenReader):
    """Observer of `TrainingForward`."""

    def __init__(self):
        super().__init__()
        self._read: TokenScores | None = None

    def read_step(self) -> TokenScores:
        """What the step has seen, once its forwards are done; `finish_step` still hands it out."""
        self._read = self.take()
        return self._read

    def drop_from_step(self, samples: set[int], corpus: Corpus) -> None:
        """Forget what `read_step` has seen of these corpus indices."""
        assert self._read is not None
        stays = ~np.isin(corpus.sample_index(self._read.target), list(samples))
        of_samples = self._read.target[stays], self._read.c[stays]
        self._read = TokenScores(*of_samples, fill=self._read.fill)

    def finish_step(self, step: int) -> StepTokens:
        seen = self._read or self.take()
        self._read = None
        return StepTokens(seen.target, seen.c, step, fill=seen.fill)


#: Sets of target tokens by which the losses of masked ones are told apart, and the rest of each.
_RESTS = {"forced": "random", "fell": "other"}


def masked_figures(tokens: StepTokens, sets: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Figures of one step of a diffusion student, whose tokens are the masked targets, over all
    ranks. `sets`: by a name in {forced, fell}, bool[n_target_tokens]. Collective over last-stage
    ranks; empty elsewhere.

    Keys: masked, loss_fill, and by set masked_forced, loss_forced, loss_random and masked_fell,
    loss_fell, loss_other: how many are of it, and the mean losses of those and of the rest; NaN for
    none.
    """
    if not on_last_stage():
        return {}
    c, fill = tokens.c.astype(np.float64), tokens.fill.astype(np.float64)
    sums = [len(fill), -fill.sum(), len(c), -c.sum()]
    for of_set in sets.values():
        which = of_set[tokens.target]
        sums += [which.sum(), -c[which].sum()]
    summed = torch.tensor(sums, dtype=torch.float64, device=torch.cuda.current_device())
    dist.all_reduce(summed, group=data_and_context_group())
    filled, loss_of_fill, masked, loss, *of_sets = summed.tolist()
    made = {"masked": masked, "loss_fill": _mean(loss_of_fill, filled)}
    for name, count, of_set in zip(sets, of_sets[::2], of_sets[1::2], strict=True):
        made[f"masked_{name}"] = count
        made[f"loss_{name}"] = _mean(of_set, count)
        made[f"loss_{_RESTS[name]}"] = _mean(loss - of_set, masked - count)
    return made


def _mean(total: float, count: float) -> float:
    return total / count if count else float("nan")


class TokenGroups:
    """Anchors and the others, with c(theta_0), as a last-stage rank needs them: looked up in the
    log-probs of each teacher's tokens, which may be mapped files. `tau`: as in Eq. 4."""

    def __init__(self, tau: float):
        self._tau = tau
        self._known: list[tuple[slice | np.ndarray, np.ndarray, np.ndarray]] = []

    def know(self, targets: slice | np.ndarray, c_0: np.ndarray, c_b: np.ndarray) -> None:
        """`targets`: of a teacher, a range or numbers in ascending order; float32[n] of them."""
        self._known.append((targets, c_0, c_b))

    def at(self, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(whether it is an anchor bool[k], c(theta_0) float32[k]) of each of these numbers
        int64[k]; False and 0 where nothing is known."""
        is_anchor, c_0 = np.zeros(len(target), dtype=bool), np.zeros(len(target), dtype=np.float32)
        for targets, at_0, at_b in self._known:
            mine, place = _places(targets, target)
            c_0[mine] = at_0[place]
            is_anchor[mine] = anchors(delta_c(at_b[place], at_0[place]), self._tau)
        return is_anchor, c_0


def _places(targets: slice | np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(which of the numbers `target` are among `targets` bool[k], where those stand there)."""
    if isinstance(targets, slice):
        mine = (target >= targets.start) & (target < targets.stop)
        return mine, target[mine] - targets.start
    place = np.minimum(np.searchsorted(targets, target), len(targets) - 1)
    mine = targets[place] == target
    return mine, place[mine]


def step_figures(tokens: StepTokens, keep: Kept | None, groups: TokenGroups | None) -> dict:
    """Sums over all ranks of one step. Collective over last-stage ranks; empty elsewhere.

    Keys: kept, targets; with groups also loss_anchor, loss_other, delta_anchor, delta_other
    (means over the batch's tokens; NaN for an empty group).
    """
    if not on_last_stage():
        return {}
    target, c = tokens.target, tokens.c.astype(np.float64)
    sums: list[float] = [n_kept_of(keep, target), len(target)]
    if groups is not None:
        anchor, c_0 = groups.at(target)
        delta = c - c_0
        for part in (anchor, ~anchor):
            sums += [part.sum(), -c[part].sum(), delta[part].sum()]
    summed = torch.tensor(sums, dtype=torch.float64, device=torch.cuda.current_device())
    dist.all_reduce(summed, group=data_and_context_group())
    total = summed.tolist()
    figures: dict[str, float] = {"kept": int(total[0]), "targets": int(total[1])}
    if groups is not None:
        for name, (count, loss, delta) in (("anchor", total[2:5]), ("other", total[5:8])):
            figures[f"loss_{name}"] = loss / count if count else float("nan")
            figures[f"delta_{name}"] = delta / count if count else float("nan")
    return figures
