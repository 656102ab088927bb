# SPDX-License-Identifier: Apache-2.0
"""What has to be equal to the last bit: losses and gradient norms, compared as hexadecimal floats.

- without `--t3s`, the run is Megatron without the plugin;
- measuring accuracy after every step, keeping candidates and scoring leave the profile exactly as
  plain training;
- after the rewind, with an empty mask, the run is a fresh run from theta_0.
"""

from __future__ import annotations

import json

import pytest

from tests.support.launch import EXPERT_BIAS, FRESH, MOE, run
from tests.support.task import CHARACTERS, SPECIAL

STEPS = 5
SCHEDULE = f"--train-iters {STEPS} --lr 2e-3 --min-lr 1e-4 --lr-warmup-iters 2".split()
BF16 = "--bf16 --no-bias-swiglu-fusion --attention-softmax-in-fp32".split()
DROPOUT = "--attention-dropout 0.1 --hidden-dropout 0.1".split()

CASES = {
    "fp32": (1, [], "student"),
    "bf16-dp2-distributed-optimizer-overlaps": (
        2,
        [*BF16, "--use-distributed-optimizer", "--overlap-grad-reduce", "--overlap-param-gather"],
        "student",
    ),
    "bf16-tp2-sp-dropout": (
        2, [*BF16, *DROPOUT, "--tensor-model-parallel-size", 2, "--sequence-parallel"], "student",
    ),
    "vpp-dropout-recompute-own-lengths": (
        2,
        [*DROPOUT, "--micro-batch-size", 1, "--pipeline-model-parallel-size", 2,
         "--num-layers-per-virtual-pipeline-stage", 1, "--recompute-granularity", "full",
         "--recompute-method", "uniform", "--recompute-num-layers", 1],
        "student",
    ),
    "moe-ep2-expert-bias": (
        2,
        [*MOE, *EXPERT_BIAS, "--expert-model-parallel-size", 2, "--use-distributed-optimizer"],
        "expert_bias_student",
    ),
}  # fmt: skip


def losses_of(tmp_path, arguments, *, processes, module="tests.parallel.probed_job") -> list:
    file = tmp_path / "losses.json"
    run(arguments, processes=processes, module=module, environment={"LOSS_FILE": str(file)})
    return json.loads(file.read_text())


@pytest.mark.parametrize("name", CASES)
def test_profile_is_plain_training_and_rewind_is_a_fresh_run(
    name, tmp_path, request, data_arguments
):
    processes, extra, student = CASES[name]
    common = [*data_arguments, *SCHEDULE, *extra]
    common += ["--load", request.getfixturevalue(student), *FRESH]
    plain = losses_of(tmp_path, common, processes=processes)
    # No token's log-prob rises by 1e9: nothing is an anchor, the mask is empty.
    t3s = ["--t3s", "--t3s-dir", tmp_path, "--t3s-profile-iters", 4, "--t3s-simple-step", 3,
           "--t3s-patience", 9, "--t3s-temperature", 1, "--t3s-max-new-tokens", 28,
           "--t3s-anchor-threshold", 1e9]  # fmt: skip
    both = losses_of(tmp_path, [*common, *t3s], processes=processes)
    assert len(plain) == STEPS and len(both) == 4 + STEPS
    assert both[:4] == plain[:4], "generation or snapshots changed the profile"
    assert both[4:] == plain, "the rewind is not a fresh run from theta_0"
    assert len({loss for loss, _ in plain}) == STEPS, "the losses say nothing: all are equal"


def test_without_t3s_the_run_is_megatron_without_the_plugin(tmp_path, data_arguments, task):
    common = [*SCHEDULE, "--seed", 77]
    # With rows of padding, which Megatron gives a share of every softmax.
    common += ["--vocab-size", len(SPECIAL + CHARACTERS), "--make-vocab-size-divisible-by", 64]
    ours = losses_of(tmp_path, [*data_arguments, *common], processes=2)
    theirs = losses_of(
        tmp_path,
        ["--own-data", task[0], "--tokenizer-model", task[1], *common],
        processes=2,
        module="tests.parallel.plain_megatron_job",
    )
    assert len(ours) == STEPS
    assert ours == theirs
