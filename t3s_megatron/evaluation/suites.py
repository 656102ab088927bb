# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of the paper, and what it reports of them for Qwen3-8B.

The paper's figures stand beside a base's own, so that a harness that is wrong is seen before
anything is compared: a base far from its published score is no base.

Two of the paper's citations name other works than its figures fit: "PhyBench" is cited as a
benchmark of images and has to be PHYBench (arXiv 2504.16074); "CEval" is cited as one of
counterfactual text and has to be C-Eval. Those are what is meant here.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Benchmark:
    """`dataset`: its name in evalscope, None where it has none; `samples`: answers a problem as the
    paper took them, 1 where it does not say. `paper`: accuracy in percent of the base and of the
    methods, distilled from R1 on BOBA-200 (Tables 3, 12, 13)."""

    name: str
    dataset: str | None
    samples: int
    paper: dict[str, float] = field(default_factory=dict)


BENCHMARKS = {
    one.name: one
    for one in (
        Benchmark("AIME24", "aime24", 16, {"base": 75.83, "sft": 71.25, "rrt": 76.67,
                                           "inverse": 30.63, "t3s": 80.63}),
        Benchmark("AIME25", "aime25", 16, {"base": 67.08, "sft": 55.00, "rrt": 68.54,
                                           "inverse": 25.63, "t3s": 73.96}),
        Benchmark("PHYBench", None, 1, {"base": 20.47, "sft": 21.79, "t3s": 23.95}),
        Benchmark("GPQA-Diamond", "gpqa_diamond", 1, {"base": 57.77, "sft": 56.34, "t3s": 59.47}),
        Benchmark("LiveCodeBench", "live_code_bench", 1,
                  {"base": 55.76, "sft": 53.41, "t3s": 59.32}),
        Benchmark("MMLU-Pro", "mmlu_pro", 1, {"base": 71.42, "sft": 69.92, "t3s": 72.65}),
        Benchmark("SuperGPQA", "super_gpqa", 1, {"base": 10.51, "sft": 10.12, "t3s": 10.29}),
        Benchmark("C-Eval", "ceval", 1, {"base": 83.58, "sft": 82.84, "t3s": 84.40}),
        Benchmark("IFEval", "ifeval", 1, {"base": 83.60, "sft": 82.49, "t3s": 83.20}),
    )
}  # fmt: skip

SUITES = {
    "aime": ("AIME24", "AIME25"),
    "ood": ("PHYBench", "GPQA-Diamond", "LiveCodeBench", "MMLU-Pro"),
    "forgetting": ("SuperGPQA", "C-Eval", "IFEval"),
}
SUITES["paper"] = (*SUITES["aime"], *SUITES["ood"], *SUITES["forgetting"])

#: A base whose accuracy is this far (in percent) from the paper's is named.
FAR = 5.0


def beside_the_paper(benchmark: Benchmark, base: float | None, error: float | None) -> list[str]:
    """What a reader has to know of the base's accuracy (a share), before any method's is read."""
    published = benchmark.paper.get("base")
    if base is None or published is None:
        return []
    away = 100 * base - published
    if abs(away) <= max(FAR, 300 * (error or 0.0)):
        return []
    return [
        f"the base has {100 * base:.1f}, and Qwen3-8B {published:.2f} in the paper: unless the "
        "base is another model, look at prompt, sampling, context and truncation before you "
        "compare anything"
    ]
