# SPDX-License-Identifier: Apache-2.0
"""Plain Megatron training on `--t3s-data` without `--t3s`: what a T3S run is compared with."""

from __future__ import annotations

from t3s_megatron.config import refuse_with_diffusion
from t3s_megatron.data.corpus_cache import cache_of
from t3s_megatron.data.lengths import arrange_training, choose_arrangement
from t3s_megatron.data.teachers import load_training_corpus
from t3s_megatron.data.tokenizing import load_tokenizer
from t3s_megatron.diffusion.mask_token import mask_token
from t3s_megatron.diffusion.noise import Noise
from t3s_megatron.diffusion.options import DiffusionOptions
from t3s_megatron.errors import T3SError
from t3s_megatron.megatron.batches import TrainingBatches, take_over_batches
from t3s_megatron.options import check_bounds, values_of
from t3s_megatron.run.students import rows_of_student, training_forward


class PlainTraining:
    """Data provider and forward step for `pretrain`; the corpus is read when Megatron asks."""

    def __init__(self, args):
        if not args.t3s_data:
            raise T3SError("nothing to train on: give --t3s-data (and --t3s for a T3S run)")
        if not args.t3s and choose_arrangement(args) == "packed":
            raise T3SError(
                "--t3s-arrangement packed varies the number of micro-batches, which takes a T3S "
                "run: add --t3s --t3s-method sft, or choose --t3s-arrangement own"
            )
        self.diffusion = DiffusionOptions(**values_of(DiffusionOptions, args))
        if not args.t3s:
            check_bounds(self.diffusion)
            self.diffusion.check_diffusion(None)
            if self.diffusion.diffusion:
                refuse_with_diffusion(args)
        take_over_batches(args)
        self.forward_step = training_forward(args)
        self._corpus = None

        def data_provider(num_samples, vp_stage=None):
            return self._batches(), None, None

        data_provider.__dict__["is_distributed"] = True  # every rank builds its own rows
        self.data_provider = data_provider

    def _batches(self) -> TrainingBatches:
        from t3s_megatron.megatron.process import get_args

        args = get_args()
        if not args.calculate_per_token_loss:
            raise T3SError("samples differ in length: add --calculate-per-token-loss")
        tokenizer = load_tokenizer(args.tokenizer_model)
        if self._corpus is None:
            self._corpus, _ = load_training_corpus(args, tokenizer, cache_of(args))
        take_over_batches(args)
        seed = args.seed if args.t3s_seed is None else args.t3s_seed
        plans = arrange_training(self._corpus, seed, args)
        masked = None
        if self.diffusion.diffusion:
            asked, known = self.diffusion.mask_token, args.padded_vocab_size
            masked = mask_token(tokenizer, asked, (self._corpus,), known)
        noise = Noise(seed, *self.diffusion.mask_rate)
        rows = rows_of_student(self._corpus, tokenizer, plans.arrangement, masked, noise)
        return TrainingBatches(rows, plans, args.consumed_train_samples)
