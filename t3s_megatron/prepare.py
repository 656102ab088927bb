# SPDX-License-Identifier: Apache-2.0
"""Everything that can be checked or read before the model is built, in one object.

Bad input ends here, with a message, before the first GPU-minute is spent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from t3s_megatron.accuracy.verifiers import Verifier, check_gold, make_verifier
from t3s_megatron.config import T3SConfig
from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.records import load_records
from t3s_megatron.data.selection_file import Selection
from t3s_megatron.errors import T3SError
from t3s_megatron.method.phases import Plan

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class Prepared:
    """The inputs of a run. `heldout` and `selection` are None when not asked for."""

    config: T3SConfig
    tokenizer: PreTrainedTokenizerBase
    corpus: Corpus
    heldout: Corpus | None
    verifier: Verifier | None
    selection: Selection | None
    plan: Plan
    max_new_tokens: int

    @property
    def pad_token(self) -> int:
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad


def load_tokenizer(path: str):
    """The Hugging Face tokenizer of `--tokenizer-model`. T3SError when it has no end token."""
    from transformers import AutoTokenizer

    if not path:
        raise T3SError("--tokenizer-model is missing: a folder with a Hugging Face tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # transformers raises many types for a folder that is not one
        raise T3SError(
            f"--tokenizer-model {path}: not a Hugging Face tokenizer ({error})"
        ) from error
    if tokenizer.eos_token_id is None:
        raise T3SError(f"--tokenizer-model {path}: the tokenizer has no end-of-text token")
    return tokenizer


def load_corpus(path: str, args, tokenizer, *, split="train", prompt_format, overlong) -> Corpus:
    """Records of `path`, tokenised for `--seq-length`."""
    vocab_size = args.padded_vocab_size or args.vocab_size
    if vocab_size and vocab_size < len(tokenizer):
        raise T3SError(
            f"the model's vocabulary has {vocab_size} rows, the tokenizer of "
            f"{args.tokenizer_model} has {len(tokenizer)}: raise --vocab-size or change tokenizer"
        )
    return Corpus.build(
        load_records(path, split=split),
        tokenizer,
        seq_length=args.seq_length,
        prompt_format=prompt_format,
        overlong=overlong,
        vocab_size=vocab_size,
    )


def prepare(args) -> Prepared:
    """Check the arguments, read the data. `args` is Megatron's validated namespace.

    Raises T3SError (DataError, MismatchError) with what is wrong, where, and what to do.
    """
    config = T3SConfig.from_args(args)
    tokenizer = load_tokenizer(args.tokenizer_model)
    how = dict(prompt_format=config.prompt_format, overlong=config.overlong)
    assert config.data is not None  # T3SConfig refuses a run without
    corpus = load_corpus(config.data, args, tokenizer, split=config.data_split, **how)
    heldout = None
    if config.heldout_data:
        heldout = load_corpus(config.heldout_data, args, tokenizer, **how)
    verifier = None
    max_new_tokens = config.max_new_tokens or 0
    if config.needs_answers:
        verifier = make_verifier(config.verifier)
        for asked in (corpus, heldout):
            if asked is not None:
                asked.require_answers()
                check_gold(config.verifier, asked.samples)
        max_new_tokens = _length_limit(args, config, corpus, heldout)
    selection = None
    if config.selection_load:
        selection = Selection.load(config.selection_load, corpus)
    plan = config.plan(args.train_iters)
    plan.validate()
    return Prepared(config, tokenizer, corpus, heldout, verifier, selection, plan, max_new_tokens)


def _length_limit(args, config: T3SConfig, corpus: Corpus, heldout: Corpus | None) -> int:
    """Tokens an answer may have, checked against the model's positions."""
    longest = max(
        sample.prompt_length
        for asked in (corpus, heldout)
        if asked is not None
        for sample in asked.samples
    )
    limit = config.max_new_tokens or args.seq_length + 1 - longest
    if longest + limit > args.max_position_embeddings + 1 or limit < 1:
        raise T3SError(
            f"the longest prompt has {longest} tokens and answers may have {limit}: together more "
            f"than --max-position-embeddings {args.max_position_embeddings}. Lower "
            "--t3s-max-new-tokens."
        )
    return limit
