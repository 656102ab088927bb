# SPDX-License-Identifier: Apache-2.0
"""Everything that can be checked or read before the model is built, in one object.

Bad input ends here, with a message, before the first GPU-minute is spent.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from t3s_megatron.accuracy.gold import check_verifier
from t3s_megatron.accuracy.verifiers import entry
from t3s_megatron.config import T3SConfig
from t3s_megatron.data.arrangement import TrainingRows
from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.corpus_cache import cache_of
from t3s_megatron.data.lengths import arrange_training
from t3s_megatron.data.names import is_missing_path
from t3s_megatron.data.selection_file import MappedSelection
from t3s_megatron.data.stores import Reference, read_reference
from t3s_megatron.data.teachers import (
    Part,
    asked_once,
    drawn_from,
    load_heldout_corpus,
    load_training_corpus,
)
from t3s_megatron.data.tokenizing import Sample, load_tokenizer, pad_token, refuse_code
from t3s_megatron.diffusion.mask_token import mask_token
from t3s_megatron.diffusion.targeting import Targeting, load_scores, target
from t3s_megatron.errors import T3SError
from t3s_megatron.megatron.arguments import number_arguments
from t3s_megatron.servers.exchange import require_httpx
from t3s_megatron.servers.prompt_text import require_prompt_texts
from t3s_megatron.servers.reload import takes_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class Inputs:
    """The inputs of a run. `heldout`, `selection` and `reference` (log-probs of --t3s-reference)
    are None when not asked for.

    `unusable_gold`: uids of samples whose gold answer the verifier cannot read. They are trained
    on, and never asked. `parts`: the corpus by teacher; one part where there is one teacher.
    `profile_parts`: by teacher, what of its part a profile takes; `profile_rows`: the rows of those
    that are not the whole corpus.
    `megatron_arguments`: those that change numbers, before training has changed the namespace.
    `mask_token`, `targeting`: of a diffusion student, else None.
    """

    config: T3SConfig
    tokenizer: PreTrainedTokenizerBase
    corpus: Corpus
    heldout: Corpus | None
    unusable_gold: frozenset[str]
    selection: MappedSelection | None
    reference: Reference | None
    max_new_tokens: int
    parts: list[Part]
    training_rows: TrainingRows
    profile_parts: dict[str | None, Part]
    profile_rows: dict[str | None, TrainingRows]
    megatron_arguments: dict[str, object]
    mask_token: int | None = None
    targeting: Targeting | None = None

    def rows_of(self, teacher: str | None) -> TrainingRows:
        """Of this teacher's profile, or (None) of that of all."""
        return self.profile_rows.get(teacher, self.training_rows)

    def parts_of(self, teacher: str | None) -> list[Part]:
        """This teacher's, or (None) all of them."""
        return [part for part in self.parts if teacher in (None, part.teacher)]

    def asked(self, teacher: str | None, first: int = 0) -> list[Sample]:
        """Whose prompts are asked where this teacher's accuracy, or (None) that of all, is meant:
        the `first` of each teacher's (0: all). What several teachers answered is asked once."""
        parts = self.parts_of(teacher)
        return asked_once([self.askable(part.corpus, first) for part in parts])

    def asked_in_training(self, teacher: str | None) -> list[Sample]:
        """As `asked`, while training goes on: the first --t3s-accuracy-prompts of what the profile
        takes, also after it, so that all measurements are of the same."""
        parts = [self.profile_parts[part.teacher] for part in self.parts_of(teacher)]
        first = self.config.accuracy_prompts
        return asked_once([self.askable(part.corpus, first) for part in parts])

    def askable(self, corpus: Corpus, first: int = 0) -> list[Sample]:
        """The samples whose accuracy can be measured, the `first` of them (0: all)."""
        numbers = [i for i, uid in enumerate(corpus.uids) if uid not in self.unusable_gold]
        return [corpus.samples[i] for i in numbers[: first or None]]

    @property
    def pad_token(self) -> int:
        return pad_token(self.tokenizer)


def check_tokenizer_argument(command_line: list[str]) -> None:
    """T3SError for a `--tokenizer-model` that is a path to nothing, or code.

    For the time before Megatron parses its arguments: while it does, it builds the tokenizer, and
    asks the hub for what is not there.
    """
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--tokenizer-model", nargs="?")
    peek.add_argument("--t3s-data", nargs="*")
    given, _ = peek.parse_known_args(command_line)
    if given.t3s_data and given.tokenizer_model:
        if is_missing_path(given.tokenizer_model):
            raise T3SError(f"--tokenizer-model {given.tokenizer_model}: no such folder")
        refuse_code(given.tokenizer_model)


def read_inputs(args) -> Inputs:
    """Check the arguments, read the data. `args` is Megatron's validated namespace.

    Raises T3SError (DataError, MismatchError) with what is wrong, where, and what to do.
    """
    config = T3SConfig.from_args(args)
    tokenizer = load_tokenizer(args.tokenizer_model)
    cache = cache_of(args)
    corpus, parts = load_training_corpus(args, tokenizer, cache)
    teachers = tuple(part.teacher for part in parts if part.teacher is not None)
    config = config.for_teachers(teachers, args)
    profile_parts = {
        part.teacher: drawn_from(corpus, part, config.profile_samples, config.seed)
        for part in parts
    }
    heldout = load_heldout_corpus(args, tokenizer, cache)
    unusable_gold: frozenset[str] = frozenset()
    max_new_tokens = config.max_new_tokens or 0
    if config.needs_answers:
        # A measured profile needs prompts of its teacher to ask.
        profiled = config.measures_profile and config.detects
        training = [part.corpus for part in profile_parts.values()] if profiled else []
        if not profiled or config.profile_samples:
            training.append(corpus)
        sets = [asked.samples for asked in (*training, heldout) if asked is not None]
        if not entry(config.verifier).gold_in_metadata:
            for asked in filter(None, (corpus, heldout)):
                asked.require_answers()
        unusable_gold = check_verifier(config.verifier, sets, config.verify_limits)
        max_new_tokens = _length_limit(args, config, corpus, heldout)
        if config.generation == "server":
            _check_server(args, config, tokenizer, sets, max_new_tokens)
    selection = None
    if config.selection_load:
        selection = MappedSelection.load(config.selection_load, corpus)
    reference = None
    if config.reference:
        reference = read_reference(
            config.reference, corpus.uids, corpus.sample_hashes, corpus.tokenizer_fingerprint
        )
    training_rows = arrange_training(corpus, config.seed, args)
    profile_rows = {
        teacher: arrange_training(corpus, config.seed, args, part.samples)
        for teacher, part in profile_parts.items()
        if len(part.samples) < len(corpus.samples)
    }
    masked, targeting = None, None
    if config.diffusion:
        rows = args.padded_vocab_size or args.vocab_size
        masked = mask_token(tokenizer, config.mask_token, (corpus, heldout), rows)
        targeting = target(
            config.method,
            corpus,
            parts,
            load_scores(args, corpus, parts, tokenizer),
            tau=config.drop_threshold,
            seed=config.seed,
        )
    return Inputs(
        config,
        tokenizer,
        corpus,
        heldout,
        unusable_gold,
        selection,
        reference,
        max_new_tokens,
        parts,
        training_rows,
        profile_parts,
        profile_rows,
        number_arguments(args),
        masked,
        targeting,
    )


def _check_server(
    args, config: T3SConfig, tokenizer, sets: list[Sequence[Sample]], limit: int
) -> None:
    """T3SError for what no server could answer, without asking one."""
    require_httpx()
    longest = max(sample.prompt_length for samples in sets for sample in samples)
    if longest + limit + 1 > args.max_position_embeddings:
        raise T3SError(
            f"a server is asked for one token more than the {limit} of an answer, after prompts of "
            f"up to {longest}: together more than --max-position-embeddings "
            f"{args.max_position_embeddings}. Set --t3s-max-new-tokens "
            f"{args.max_position_embeddings - longest - 1} or lower"
        )
    if not takes_token_ids(config.server_reload):
        for samples in sets:
            require_prompt_texts(tokenizer, samples)


def _length_limit(args, config: T3SConfig, corpus: Corpus, heldout: Corpus | None) -> int:
    """Tokens an answer may have, checked against the model's positions."""
    longest = max(
        sample.prompt_length
        for asked in (corpus, heldout)
        if asked is not None
        for sample in asked.samples
    )
    limit = config.longest_answer(args.seq_length, longest)
    if config.diffusion:
        blocks = -(-(longest + limit) // config.block_size)
        if limit < 1 or blocks * config.block_size > args.max_position_embeddings:
            raise T3SError(
                f"the longest prompt has {longest} tokens and answers may have {limit}: in whole "
                f"blocks of {config.block_size} more than --max-position-embeddings "
                f"{args.max_position_embeddings}. Lower --t3s-max-new-tokens."
            )
    if longest + limit > args.max_position_embeddings + 1 or limit < 1:
        raise T3SError(
            f"the longest prompt has {longest} tokens and answers may have {limit}: together more "
            f"than --max-position-embeddings {args.max_position_embeddings}. Lower "
            "--t3s-max-new-tokens."
        )
    return limit
