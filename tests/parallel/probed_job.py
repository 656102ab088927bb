# SPDX-License-Identifier: Apache-2.0
"""A user's own pretrain script with T3S added to it, which also records what the tests compare.

Not a mock: it calls Megatron's `pretrain` with the plugin attached in the documented three lines,
and looks on from outside.

    LOSS_FILE=FILE   every step's loss, exact, as hexadecimal floats (with or without --t3s)
    PROBE_FILE=FILE  greedy generations at theta_0; and the first PROBE_STEPS of the targeted phase
                     are trained with an empty mask, which have to repeat the profile's first steps
                     bit for bit, before the run is rewound once more
    SELECTION=FILE   after that, one step with this selection, a checkpoint, and back again
    WEIGHTS=FILE     and the same with these weights, each times the token's probability (dft)
    ATTACH_WITHOUT_ARGUMENTS=1  as a script does in a release whose `pretrain` parses by itself
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable

from t3s_megatron.entry import start_process

PROBE_STEPS = 3


def main(probe: Callable | None = None) -> None:
    """`probe`: makes the class of the run, if any."""
    start_process(sys.argv)
    from t3s_megatron.megatron.model import model_provider
    from t3s_megatron.megatron.releases import call_pretrain, parse_arguments
    from t3s_megatron.plugin import T3S  # 1
    from t3s_megatron.run.plain import PlainTraining

    kind = (probe or _probed)() if os.environ.get("PROBE_FILE") else None
    losses = record_losses()
    t3s = T3S(run=kind)  # 2
    args = parse_arguments(t3s.add_arguments, {})
    plain = PlainTraining(args)
    known = None if os.environ.get("ATTACH_WITHOUT_ARGUMENTS") else args
    provider, step = t3s.attach(plain.data_provider, plain.forward_step, known)  # 3
    call_pretrain(
        args,
        data_provider=provider,
        model_provider=model_provider,
        forward_step=step,
        extra_args_provider=t3s.add_arguments,
        args_defaults={},
    )
    write_losses(losses)
    say_where_the_events_came_from()


def record_losses() -> list:
    """[[loss, gradient norm] of each step, hexadecimal] as `training_log` is given them."""
    import megatron.training.training as training

    original, losses = training.training_log, []

    @functools.wraps(original)
    def training_log(loss_dict, *args, **kwargs):
        if "lm loss" in loss_dict:
            losses.append([float(loss_dict["lm loss"]).hex(), float(args[6]).hex()])
        return original(loss_dict, *args, **kwargs)

    training.training_log = training_log
    return losses


def write_losses(losses: list) -> None:
    import torch.distributed as dist

    if os.environ.get("LOSS_FILE") and dist.get_rank() == dist.get_world_size() - 1:
        with open(os.environ["LOSS_FILE"], "w") as file:
            json.dump(losses, file)


def say_where_the_events_came_from() -> None:
    import megatron.training.training as training

    functions = (name for name in vars(training) if hasattr(getattr(training, name), "_t3s_seam"))
    print(f"training from {training.__file__}, wrapped: {', '.join(sorted(functions)) or 'none'}")


def _probed():
    from megatron.training import get_args

    from t3s_megatron.accuracy.answers import Sampling
    from t3s_megatron.data.selection_file import Selection
    from t3s_megatron.megatron.generation import generate
    from t3s_megatron.megatron.rewind import StartingPoint
    from t3s_megatron.method.phases import Phase
    from t3s_megatron.method.selection import METHODS
    from t3s_megatron.run.t3s import T3SRun

    def _dft(p):
        return METHODS["dft"].weigh(p, None)

    class ProbedRun(T3SRun):
        def on_train_step_start(self, context):
            if self.machine.total_steps == 0:
                self.own_start = StartingPoint(context)
                self.greedy = self._greedy(context)
            super().on_train_step_start(context)
            if self.machine.phase is not Phase.TARGETED:
                return
            names = [name for name in ("SELECTION", "WEIGHTS") if os.environ.get(name)]
            number = self.machine.phase_step - PROBE_STEPS
            if self.machine.phase_step == 0:
                self.selected, self.rows.keep = self.rows.keep, None
            elif 0 <= number < len(names):
                keep = Selection.load(os.environ[names[number]], self.inputs.corpus).keep
                self._start_again(context, keep)
                self.forward.weigh = _dft if names[number] == "WEIGHTS" else None
                get_args().save_interval = context.iteration + 1
            elif number == len(names):
                self.forward.weigh = None
                self._start_again(context, self.selected)

        def _start_again(self, context, keep):
            self.own_start.rewind(context)
            self.rows.keep = keep
            context.num_microbatches = len(self.step_rows().micro_batches)

        def on_train_end(self, context):
            super().on_train_end(context)
            if self.is_root:
                with open(os.environ["PROBE_FILE"], "w") as file:
                    json.dump({"greedy": self.greedy}, file)

        def _greedy(self, context):
            prompts = [
                sample.tokens[: sample.prompt_length].tolist()
                for sample in self.inputs.corpus.samples
            ]
            sampling = Sampling(
                temperature=0.0,
                max_new_tokens=16,
                end_token=self.inputs.tokenizer.eos_token_id,
                seed=0,
                vocab_size=len(self.inputs.tokenizer),
                batch_size=7,  # several batches, the last one not full
            )
            return [answer.tokens for answer in generate(context, prompts, sampling)]

    return ProbedRun


if __name__ == "__main__":
    main()
