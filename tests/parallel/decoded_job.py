# SPDX-License-Identifier: Apache-2.0
"""A job of a diffusion student that also answers every prompt before its first step, greedily.

PROBE_FILE=FILE receives of each answer its tokens and how many forwards have set some of them;
LOSS_FILE as for `probed_job`.
"""

from __future__ import annotations

import json
import os

from tests.parallel.probed_job import main

LIMIT = 10


def decoded():
    from t3s_megatron.accuracy.answers import Sampling
    from t3s_megatron.run.diffusion import DiffusionRun

    class DecodedRun(DiffusionRun):
        def begin(self, context):
            super().begin(context)
            sampling = Sampling(
                temperature=0.0,
                max_new_tokens=LIMIT,
                end_token=self.inputs.tokenizer.eos_token_id,
                seed=0,
                vocab_size=len(self.inputs.tokenizer),
                batch_size=7,  # several batches, the last one not full
            )
            samples = self.inputs.corpus.samples
            prompts = [sample.tokens[: sample.prompt_length].tolist() for sample in samples]
            answers = self._answer()(context, prompts, sampling)
            if self.is_root:
                with open(os.environ["PROBE_FILE"], "w") as file:
                    json.dump([[answer.tokens, answer.forwards] for answer in answers], file)

    return DecodedRun


if __name__ == "__main__":
    main(decoded)
