# SPDX-License-Identifier: Apache-2.0
"""What differs between an autoregressive student and one that learns by block diffusion: its rows,
its forward step, and the kind of run. Chosen here and nowhere else."""

from __future__ import annotations

import numpy as np

from t3s_megatron.data.arrangement import Arrangement
from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.tokenizing import pad_token
from t3s_megatron.diffusion.noise import Noise
from t3s_megatron.megatron.batches import RowMaker
from t3s_megatron.megatron.diffusion_forward import DiffusionForward
from t3s_megatron.megatron.forward import TrainingForward
from t3s_megatron.megatron.noisy_batches import Noising, NoisyRowMaker
from t3s_megatron.megatron.releases import require_output_processor
from t3s_megatron.run.base import KindOfRun
from t3s_megatron.run.diffusion import DiffusionRun
from t3s_megatron.run.inputs import Inputs
from t3s_megatron.run.t3s import T3SRun


def training_forward(args) -> TrainingForward:
    """The forward step of a student. `args`: Megatron's namespace, or None where it is not parsed
    yet. T3SError for a release that cannot train a diffusion student."""
    if args is None or not args.t3s_diffusion:
        return TrainingForward()
    require_output_processor()
    return DiffusionForward(args.t3s_block_size)


def training_rows(inputs: Inputs) -> RowMaker:
    """The rows of a run."""
    targeting, config = inputs.targeting, inputs.config
    return rows_of_student(
        inputs.corpus,
        inputs.tokenizer,
        inputs.training_rows.arrangement,
        inputs.mask_token,
        Noise(config.seed, *config.mask_rate),
        None if targeting is None else targeting.forced,
    )


def rows_of_student(
    corpus: Corpus,
    tokenizer,
    arrangement: Arrangement,
    mask_token: int | None,
    noise: Noise,
    forced: np.ndarray | None = None,
) -> RowMaker:
    """`mask_token` None: of an autoregressive student, which is not noised. Else see `Noising`."""
    if mask_token is None:
        return RowMaker(corpus, pad_token(tokenizer), arrangement)
    noising = Noising(noise, mask_token, tokenizer.eos_token_id, forced)
    return NoisyRowMaker(corpus, pad_token(tokenizer), arrangement, noising)


def usual_run(inputs: Inputs) -> KindOfRun:
    """The kind of run where a script does not bring its own."""
    return DiffusionRun if inputs.config.diffusion else T3SRun
