# SPDX-License-Identifier: Apache-2.0
"""Arguments of a T3S run: the options of all rooms as one Megatron argument group.

What depends on Megatron's arguments is filled in, and refused where it does not go together with
them, here; each room says what else of its own is refused.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace
from typing import Any

from t3s_megatron.accuracy.options import AccuracyOptions
from t3s_megatron.data.lengths import choose_arrangement
from t3s_megatron.data.options import DataOptions
from t3s_megatron.diffusion.options import DiffusionOptions
from t3s_megatron.errors import T3SError
from t3s_megatron.method.options import MethodOptions
from t3s_megatron.options import (
    FILLED_IN,
    add_arguments,
    argument_name,
    default_of,
    option,
    options_of,
    values_of,
)
from t3s_megatron.servers.options import ServerOptions

_NOT_READ = "would not be read, since the samples are those of --t3s-data"
#: Megatron arguments that do not go together with a T3S run: it ...
UNSUPPORTED = {
    "ddp_average_in_collective": "averages over ranks where the loss is a sum over tokens "
    "(--calculate-per-token-loss)",
    "use_precision_aware_optimizer": "keeps the fp32 main parameters inside the optimizer",
    "optimizer_cpu_offload": "keeps a copy that reverts a rewind (Megatron-LM #5071)",
    "optimizer_cuda_graph": "captures the optimizer's step with the check of its gradients",
    "use_megatron_fsdp": "shards parameters in a way the rewind does not know",
    "use_torch_fsdp2": "shards parameters in a way the rewind does not know",
    "fp8_param_gather": "keeps quantised parameters that the rewind does not restore",
    "phase_transition_iterations": "counts samples without the rewind; use --exit-interval",
    "rampup_batch_size": "would change the batch size again after the rewind",
    "mtp_num_layers": "adds losses beside the per-token loss that T3S scores",
    "non_persistent_save_interval": "saves checkpoints beside the one that the T3S state is for",
    "perform_rl_step": "replaces the training batches",
    "hybrid_context_parallel": "rearranges the batches",
    "overlap_param_gather_with_optimizer_step": "leaves a gather in flight between steps",
    "overlap_moe_expert_parallel_comm": "splits a micro-batch into a schedule of its own",
    "skip_train": "trains nothing",
    "mock_data": _NOT_READ,
    "data_path": _NOT_READ,
    "train_data_path": _NOT_READ,
    "data_args_path": _NOT_READ,
    "per_split_data_args_path": _NOT_READ,
}

#: Those that do not go together with a diffusion student: it ...
UNSUPPORTED_WITH_DIFFUSION = {
    "multi_latent_attention": "has keys and values of other widths than the block attention takes",
    "attention_dropout": "is not done by the block attention (set it to 0)",
    "window_size": "hides keys by their distance, across copies",
    "experimental_attention_variant": "mixes the tokens of a row in their order, across copies",
    "mtp_num_layers": "predicts tokens that follow, and nothing follows here",
    "fp16": "has no loss scale that the run keeps; use --bf16",
}

#: Those that do not go together with measuring accuracy, where the live weights generate (with
#: servers too, since they answer the probes): (the argument, it ...).
_EIGHT_BITS = (
    "multiplies blocks of tokens, which a decoding step does not fill, by copies of the weights "
    "that are older than the last step"
)
UNSUPPORTED_WITH_ANSWERS = {
    "fp8": ("--fp8-format", _EIGHT_BITS),
    "fp4": ("--fp4-format", _EIGHT_BITS),
    "tp_comm_overlap": (
        "--tp-comm-overlap",
        "cuts every sequence up, and that of a decoding step is one token",
    ),
}

#: Options without a meaning for a diffusion student, which is never profiled: its tokens come from
#: the run of --t3s-selector, with which they belong.
NOT_OF_DIFFUSION = (
    "signal", "simple", "simple_step", "mask_share", "soft_temperature", "min_probability",
    "reference", "anchor_threshold", "selection_save", "selection_load", "stop_after", "patience",
    "min_delta", "confirm_level", "shock_level", "accuracy_overlap", "accuracy_interval_coarse",
    "accuracy_blocks", "accuracy_stop_level", "profile_iters", "no_shock", "accuracy_interval",
)  # fmt: skip

#: Megatron's optimizers whose state the rewind and the copies of the weights know.
OPTIMIZERS = ("adam", "sgd")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What belongs to the run as a whole."""

    hf_model: str | None = option(
        None,
        "theta_0: a Hugging Face folder (safetensors), or OWNER/NAME@REVISION on the hub; it says "
        "the model's arguments too, and its weights are not read again when the job resumes from "
        "its own checkpoint",
        free=True,
    )
    hf_export: str | None = option(
        None, "write the final weights as a Hugging Face folder of this name", free=True
    )
    keep_checkpoints: int | None = option(
        None,
        "remove a checkpoint that the run has saved itself once so many newer ones, with the one "
        "about to be written, are there (the last one of the profile stays, for plain fine-tuning "
        "to go on from: t3s-megatron branch); without it all stay",
        at_least=2,
        free=True,
    )
    non_finite: str = option(
        "stop",
        "a loss, gradient or log-prob that is not finite: stop before anything is learned from it "
        "and name the samples, or skip them from then on and count them in the summary",
        choices=("stop", "skip"),
        free=True,
    )
    seed: int = option(
        FILLED_IN, "data order, sampling, random masks (default: --seed)", at_least=0
    )
    dir: str = option(
        FILLED_IN, "summary, selection and log-prob stores (default: t3s/ inside --save)", free=True
    )
    device: str = option(
        "auto",
        "auto: CUDA where there is one; cpu: the gloo device layer",
        choices=("auto", "cpu", "cuda"),
        free=True,
    )


# The bases in reverse: a dataclass takes its fields from the last one first.
@dataclass(frozen=True, kw_only=True)
class T3SConfig(
    RunOptions, DiffusionOptions, ServerOptions, AccuracyOptions, MethodOptions, DataOptions
):
    """Every `--t3s-*` argument: the field `accuracy_interval` is `--t3s-accuracy-interval`."""

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> T3SConfig:
        """Read the group from Megatron's namespace; fill in what depends on other arguments.

        Raises T3SError for combinations that cannot work, with the reason.
        """
        given = values_of(cls, args)
        _check_megatron(args, given)
        if given["diffusion"]:
            _check_diffusion(given, args)
        config = cls(**_filled_in(given, args), budget=args.train_iters)
        config.check()
        config._check_positions(args)
        config._check_decoding(args)
        return config

    @property
    def needs_answers(self) -> bool:
        """Whether anything is generated, and gold answers therefore needed."""
        beside = bool(self.report_temperatures) or self.heldout_interval > 0
        return beside or super().needs_answers

    def for_teachers(self, teachers: tuple[str, ...], args: argparse.Namespace) -> T3SConfig:
        """The same for a run on the samples of these teachers: the data names them, where there are
        several. T3SError for what is only defined for one."""
        if not teachers:
            return self
        config = replace(self, teachers=teachers)
        if args.t3s_profile_iters is None:
            config = replace(config, profile_iters=-(-self.budget // len(teachers)))
        config.check()
        return config

    def longest_answer(self, seq_length: int, longest_prompt: int) -> int:
        """Tokens that an answer may have: --t3s-max-new-tokens, or what a row of `seq_length` has
        room for behind the longest prompt. Less than 1 where it has none."""
        room = seq_length if self.diffusion else seq_length + 1
        return self.max_new_tokens or room - longest_prompt

    @property
    def selected_before(self) -> bool:
        """What is trained on is known before the run: a diffusion student has no profile."""
        return self.diffusion or super().selected_before

    def check(self) -> None:
        """T3SError for arguments of different rooms, or of one, that do not go together."""
        self.check_diffusion(self.method)
        super().check()
        if self.heldout_data and not (self.report_temperatures or self.heldout_interval):
            raise T3SError(
                "--t3s-heldout-data is only used with --t3s-report-temperatures or "
                "--t3s-heldout-interval: give one of them, or drop it"
            )
        if self.heldout_interval and not self.heldout_data:
            raise T3SError(
                "--t3s-heldout-interval measures on held-out prompts: give --t3s-heldout-data, or "
                "drop it"
            )
        if self.heldout_interval and self.accuracy_overlap:
            raise T3SError(
                "--t3s-heldout-interval would give the servers other weights than those that "
                "--t3s-accuracy-overlap has in flight: drop one of the two"
            )
        if self.generation == "server":
            self.check_servers()
        elif self.server_url:
            raise T3SError(
                "--t3s-server-url without --t3s-generation server: add it, or drop the URL"
            )
        if self.accuracy_overlap and self.generation != "server":
            raise T3SError(
                "--t3s-accuracy-overlap needs --t3s-generation server: the live weights cannot "
                "answer while they are trained"
            )
        if self.server_colocated and self.generation != "server":
            raise T3SError(
                "--t3s-server-colocated without --t3s-generation server: add it, or drop this"
            )
        if self.server_colocated and self.accuracy_overlap:
            raise T3SError(
                "--t3s-accuracy-overlap does not go with --t3s-server-colocated: servers on the "
                "GPUs that train cannot answer while they do. Drop one of the two"
            )

    def _check_positions(self, args: argparse.Namespace) -> None:
        if self.max_new_tokens and self.max_new_tokens >= args.max_position_embeddings:
            raise T3SError(
                f"--t3s-max-new-tokens {self.max_new_tokens} does not fit the model's "
                f"--max-position-embeddings {args.max_position_embeddings}"
            )

    def _check_decoding(self, args: argparse.Namespace) -> None:
        for name, (written, why) in UNSUPPORTED_WITH_ANSWERS.items():
            if self.needs_answers and getattr(args, name, None):
                raise T3SError(
                    f"{written} does not work where accuracy is measured: it {why}. Choose "
                    "--t3s-simple or --t3s-signal confidence, or drop it"
                )
        variant = getattr(args, "experimental_attention_variant", None)
        if self.needs_answers and self.generation == "live" and variant is not None:
            raise T3SError(
                f"Megatron cannot generate with --experimental-attention-variant {variant}, which "
                "has no key-value cache: this student needs --t3s-generation server, or theta_b "
                "without answers (--t3s-signal confidence or --t3s-simple) and none reported"
            )


def _check_megatron(args: argparse.Namespace, given: dict[str, Any]) -> None:
    """T3SError for what any run needs and Megatron's arguments do not give, or exclude."""
    if not given["data"]:
        raise T3SError("--t3s needs --t3s-data: the samples to train on")
    if not (args.save if given["dir"] is None else given["dir"]):
        raise T3SError("--t3s needs --t3s-dir or --save, to write the selection and the summary to")
    if not args.calculate_per_token_loss:
        raise T3SError(
            "--t3s needs --calculate-per-token-loss: a sparse loss mask is normalised wrongly "
            "over micro-batches and context parallelism without it (Megatron-LM #7513)"
        )
    if not args.train_iters:
        raise T3SError("--t3s counts steps: give --train-iters, not --train-samples")
    if args.train_iters < 1:
        raise T3SError(f"--train-iters {args.train_iters}: --t3s needs at least 1 step")
    if args.tokenizer_type != "HuggingFaceTokenizer":
        raise T3SError(
            "--t3s needs --tokenizer-type HuggingFaceTokenizer --tokenizer-model FOLDER: chat "
            f"templates and text answers come from it (got {args.tokenizer_type})"
        )
    for name, why in UNSUPPORTED.items():
        if getattr(args, name, None):
            raise T3SError(f"--{name.replace('_', '-')} does not work with --t3s: it {why}")
    if getattr(args, "optimizer", "adam") not in OPTIMIZERS:
        raise T3SError(
            f"--optimizer {args.optimizer} does not work with --t3s: its state is spread and kept "
            f"in a way that the rewind does not know. Use {' or '.join(OPTIMIZERS)}"
        )
    if given["keep_checkpoints"] and getattr(args, "save_retain_interval", None):
        raise T3SError(
            "--t3s-keep-checkpoints and --save-retain-interval both say which checkpoints stay: "
            "drop one (Megatron's keeps one, and those at its interval)"
        )
    if args.fp16:
        raise T3SError(
            "--fp16 does not work with --t3s: use --bf16 (a rewind has no loss-scale state)"
        )


def _check_diffusion(given: dict[str, Any], args: argparse.Namespace) -> None:
    """T3SError for what has no meaning for a diffusion student, or cannot be done for one."""
    defaults = {declared.name: default_of(declared) for declared, _ in options_of(T3SConfig)}
    for name in NOT_OF_DIFFUSION:
        if given[name] != defaults[name]:
            raise T3SError(
                f"{argument_name(name)} has no meaning with --t3s-diffusion: which tokens fell is "
                "found in the run of --t3s-selector. Give it there, and drop it here"
            )
    if given["generation"] == "server":
        _check_server_of_diffusion(given)
    refuse_with_diffusion(args)


def _check_server_of_diffusion(given: dict[str, Any]) -> None:
    """T3SError for a server that does not decode by blocks, or would not draw as it is asked to.
    Whether it has the blocks and the threshold of the run is for the probes to find out."""
    if given["server_reload"] != "sglang":
        raise T3SError(
            f"--t3s-server-reload {given['server_reload']} does not work with --t3s-diffusion: of "
            "the servers that are known here only SGLang decodes by blocks. Use sglang, or "
            "--t3s-generation live"
        )
    temperatures = {
        "temperature": given["temperature"],
        "report_temperatures": max(given["report_temperatures"], default=0.0),
    }
    for name, temperature in temperatures.items():
        if temperature:
            raise T3SError(
                f"{argument_name(name)} {temperature:g} does not work with --t3s-diffusion and "
                "--t3s-generation server: SGLang takes the most probable tokens whatever is asked. "
                "Use 0, or --t3s-generation live"
            )


def refuse_with_diffusion(args: argparse.Namespace) -> None:
    """T3SError for arguments of Megatron's that do not go together with block diffusion."""
    for name, why in UNSUPPORTED_WITH_DIFFUSION.items():
        if getattr(args, name, None):
            raise T3SError(
                f"--{name.replace('_', '-')} does not work with --t3s-diffusion: it {why}. Drop it"
            )
    position = getattr(args, "position_embedding_type", "rope")
    if position != "rope":
        raise T3SError(
            f"--position-embedding-type {position} does not work with --t3s-diffusion: both copies "
            "of a sample have to have the same positions, as those of rope have. Use rope"
        )
    if (softmax := getattr(args, "softmax_type", "vanilla")) != "vanilla":
        raise T3SError(f"--softmax-type {softmax} does not work with --t3s-diffusion: use vanilla")


def _filled_in(given: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """The values `given`, and those of the arguments that were left to depend on others."""
    folder = os.path.join(args.save or "", "t3s") if given["dir"] is None else given["dir"]
    asks = not given["simple"] and given["signal"] != "confidence"
    asks = asks and not given["stop_after"] and not given["diffusion"]
    of_server = 1 if given["server_reload"] == "model" else 64
    defaults = {
        "arrangement": choose_arrangement(args),
        "targeted_accuracy_interval": given["accuracy_interval"] if asks else 0,
        "profile_iters": args.train_iters,
        "server_weights": os.path.join(folder, "weights"),
        "server_concurrency": of_server,
        "seed": args.seed,
        "dir": folder,
    }
    return given | {name: v for name, v in defaults.items() if given[name] is None}


def add_t3s_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the group to Megatron's parser. Without `--t3s` none of it has any effect."""
    group = parser.add_argument_group(
        "t3s", "Training-Trajectory-Aware Token Selection (arXiv:2601.10348)"
    )
    group.add_argument("--t3s", action="store_true", help="make this run a T3S run")
    add_arguments(group, T3SConfig)
    return parser
