# SPDX-License-Identifier: Apache-2.0
"""Arguments about an accuracy measurement: what is asked, who answers, how answers are judged."""

from __future__ import annotations

from dataclasses import dataclass

from t3s_megatron.accuracy import verifiers
from t3s_megatron.accuracy.pool import Limits
from t3s_megatron.options import option


@dataclass(frozen=True, kw_only=True)
class AccuracyOptions:
    """How training accuracy is measured, and what is measured beside it."""

    verifier: str = option(
        "numeric",
        verifiers.names(),
    )
    verify_timeout: float = option(
        30.0,
        "seconds a verifier has for one answer; then its process is killed and replaced",
        above=0,
        free=True,
    )
    verify_workers: int = option(
        4, "processes that verify, on one rank of the run", at_least=1, free=True
    )
    verify_memory: float = option(4.0, "GiB of data that each of them may hold", above=0, free=True)
    accuracy_prompts: int = option(
        0, "measure on the first N training prompts (0: all)", at_least=0
    )
    accuracy_samples: int = option(1, "answers generated for each prompt", at_least=1)
    temperature: float = option(
        0.6, "sampling temperature of the accuracy measurements; 0: greedy", at_least=0
    )
    max_new_tokens: int | None = option(
        None,
        "length limit of an answer (default: --seq-length minus the longest prompt)",
        at_least=1,
    )
    generation_batch_size: int = option(
        256, "prompts generated together on a data-parallel rank", at_least=1, free=True
    )
    generation_timeout: float | None = option(
        None,
        "seconds that generating the answers of one measurement may take (default: no limit)",
        above=0,
        free=True,
    )
    generation: str = option(
        "live",
        "who answers: live, the training weights in the job; server, OpenAI-compatible servers "
        "that are given the weights before each measurement",
        choices=("live", "server"),
    )
    max_failed_share: float = option(
        0.1,
        "a measurement is void when more of its answers than this failed: timed out or crashed in "
        "the verifier, or unfinished when generation ran out of time",
        at_least=0,
        below=1,
    )
    measurement_retries: int = option(
        2, "how often the failed answers of a void measurement are tried again", at_least=0
    )
    report_temperatures: tuple[float, ...] = option(
        (),
        "also measure theta_0 and the final weights at these temperatures, on training and "
        "held-out prompts",
        at_least=0,
    )
    heldout_interval: int = option(
        0,
        "also measure accuracy on the first --t3s-accuracy-prompts of --t3s-heldout-data, at "
        "--t3s-temperature, every this many steps; nothing is decided by it (0: never)",
        at_least=0,
        free=True,
    )
    report_samples: int = option(
        4, "answers a prompt for --t3s-report-temperatures > 0", at_least=1
    )

    @property
    def verify_limits(self) -> Limits:
        """What each verifier process is held to."""
        return Limits(self.verify_timeout, self.verify_workers, self.verify_memory)
