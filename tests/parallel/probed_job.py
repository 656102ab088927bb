# SPDX-License-Identifier: Apache-2.0
"""A user's own pretrain script with T3S added to it, which also records what the tests compare.

Not a mock: it calls Megatron's `pretrain` with the plugin attached in the documented three lines,
and looks on through a subclass of the run's callback.

    T3S_PROBE=FILE torchrun ... -m tests.parallel.probed_job <Megatron arguments> --t3s ...

Beside the ordinary run it trains the first PROBE_STEPS of the targeted phase with an empty mask,
which have to repeat the profile's first steps bit for bit, then rewinds once more.
"""

from __future__ import annotations

import json
import os
import sys

from t3s_megatron.megatron.device import install_megatron_layer, install_torch_layer

PROBE_STEPS = 3


def main() -> None:
    import torch

    torch.set_num_threads(1)
    install_torch_layer()
    import t3s_megatron.run as run_module
    from t3s_megatron.megatron.model import model_provider
    from t3s_megatron.megatron.plain import PlainTraining
    from t3s_megatron.megatron.releases import call_pretrain, parse_arguments
    from t3s_megatron.plugin import T3S  # 1

    install_megatron_layer()
    if os.environ.get("T3S_PROBE"):
        run_module.T3SRun = _probed(run_module.T3SRun)
    t3s = T3S()  # 2
    args = parse_arguments(t3s.add_arguments, {})
    plain = PlainTraining(args)
    provider, step = t3s.attach(plain.data_provider, plain.forward_step, args)  # 3
    call_pretrain(
        args,
        data_provider=provider,
        model_provider=model_provider,
        forward_step=step,
        extra_args_provider=t3s.add_arguments,
        args_defaults={},
    )


def _probed(base):
    from t3s_megatron.megatron.generation import Sampling, generate
    from t3s_megatron.megatron.layout import broadcast
    from t3s_megatron.megatron.rewind import StartingPoint
    from t3s_megatron.method.phases import Phase

    class ProbedRun(base):
        def on_train_step_start(self, context):
            if self.machine.total_steps == 0:
                self.losses = []
                self.own_start = StartingPoint(context)
                self.greedy = self._greedy(context)
            super().on_train_step_start(context)
            if self.machine.phase is not Phase.TARGETED:
                return
            if self.machine.phase_step == 0:
                self.selected, self.rows.keep = self.rows.keep, None
            elif self.machine.phase_step == PROBE_STEPS:
                self.own_start.rewind(context)
                self.rows.keep = self.selected

        def on_train_step_end(self, context):
            loss = context.result[0].get("lm loss")
            norm = context.result[5]
            last = broadcast(None if loss is None else loss.item(), self.root)
            self.losses.append([last, float(norm)])
            super().on_train_step_end(context)

        def on_train_end(self, context):
            super().on_train_end(context)
            if self.is_root:
                with open(os.environ["T3S_PROBE"], "w") as file:
                    json.dump({"greedy": self.greedy, "losses": self.losses}, file)

        def _greedy(self, context):
            prompts = [
                sample.tokens[: sample.prompt_length].tolist()
                for sample in self.prepared.corpus.samples
            ]
            sampling = Sampling(
                temperature=0.0,
                max_new_tokens=16,
                end_token=self.prepared.tokenizer.eos_token_id,
                seed=0,
                vocab_size=len(self.prepared.tokenizer),
                batch_size=7,  # several batches, the last one not full
            )
            return [answer.tokens for answer in generate(context, prompts, sampling)]

    return ProbedRun


if __name__ == "__main__":
    sys.exit(main())
