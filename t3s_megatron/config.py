# SPDX-License-Identifier: Apache-2.0
"""Arguments of a T3S run: one Megatron argument group, all starting with `--t3s`."""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import dataclass, field, fields, replace
from typing import Any

from t3s_megatron.accuracy.pool import Limits
from t3s_megatron.data.arrangement import ARRANGEMENTS
from t3s_megatron.data.lengths import choose_arrangement
from t3s_megatron.errors import T3SError
from t3s_megatron.method.phases import SIGNALS, Plan
from t3s_megatron.method.selection import MASKING_BASELINES
from t3s_megatron.servers.client import base_url
from t3s_megatron.servers.reload import RELOADS

#: Of all integers. Samplers are seeded with a multiple of the seed, which has to fit 64 bits.
_LARGEST = 2**32 - 1

#: Megatron arguments that do not go together with a T3S run: it ...
UNSUPPORTED = {
    "use_precision_aware_optimizer": "keeps the fp32 main parameters inside the optimizer",
    "optimizer_cpu_offload": "keeps a copy that reverts a rewind (Megatron-LM #5071)",
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
}

METHODS = ("t3s", "rrt", "sft", "inverse", *MASKING_BASELINES)


def _option(default, help_text: str, **argparse_kwargs) -> Any:
    """A field whose type is what it has in a finished config: a default of None that depends on
    other arguments is filled in by `from_args`."""
    return field(default=default, metadata={"help": help_text, "argparse": argparse_kwargs})


@dataclass(frozen=True)
class T3SConfig:
    """Every `--t3s-*` argument: the field `accuracy_interval` is `--t3s-accuracy-interval`."""

    # --- data
    data: tuple[str, ...] = _option(
        None,
        "training samples: .jsonl, .json, .csv, .parquet (docs/data.md), a saved Hugging Face "
        "dataset or a dataset name; several: each without a `teacher` field is a teacher's, named "
        "after the file; shards of one dataset are one",
        nargs="+",
    )
    data_split: str = _option("train", "split to read when --t3s-data is a Hugging Face dataset")
    heldout_data: str | None = _option(
        None, "samples that are never trained on, for the accuracies of --t3s-report-temperatures"
    )
    heldout_data_split: str = _option(
        "test", "split to read when --t3s-heldout-data is a Hugging Face dataset"
    )
    ignore_fields: tuple[str, ...] = _option(
        (),
        "fields of a row that are no part of its conversation: text in a field that is not read is "
        "refused otherwise (docs/data.md)",
        nargs="+",
    )
    show_samples: int = _option(
        1,
        "print the first N training samples as they are learned, target against context (0: none)",
    )
    prompt_format: str = _option(
        "chat",
        "chat: render with the tokenizer's chat template; raw: prompt and response as they are",
        choices=("chat", "raw"),
    )
    overlong: str = _option(
        "error",
        "samples longer than --seq-length: refuse to start, drop them, or cut their end; "
        "dropped and cut samples are counted in the summary",
        choices=("error", "drop", "truncate"),
    )
    arrangement: str | None = _option(
        None,
        "own: every sample in a row of its own length, sorted within a step so that data-parallel "
        "ranks work in step; padded: every row --seq-length long; packed: several samples in one "
        "row, of at most --seq-length (default: own at --micro-batch-size 1, else padded)",
        choices=ARRANGEMENTS,
    )
    # --- method
    method: str = _option(
        "t3s",
        "t3s: mask the anchors; rrt: theta_0 + (theta_f - theta_b); sft: plain fine-tuning; "
        "inverse: train on the anchors only (-T3S); random, mask-top-confidence, "
        "mask-bottom-confidence: mask the same share of tokens as t3s, or --t3s-mask-share",
        choices=METHODS,
    )
    signal: str = _option(
        None,
        "what says which step is theta_b. accuracy: the lowest training accuracy; confidence: the "
        "turn of the falling tokens, for which nothing is generated or verified; both: the lowest "
        "accuracy, and the falling tokens say when --t3s-accuracy-interval-coarse ends; fixed: "
        "step --t3s-simple-step (default: accuracy)",
        choices=SIGNALS,
    )
    simple: bool = _option(
        False, "T3S-simple, the paper's name of --t3s-signal fixed: nothing has to be generated"
    )
    simple_step: int = _option(10, "the step that T3S-simple takes as theta_b")
    mask_share: float | None = _option(
        None, "share of target tokens the random and confidence baselines mask (default: as t3s)"
    )
    anchor_threshold: float = _option(0.0, "tau: a token is an anchor when delta_c > tau (Eq. 4)")
    # --- detector
    patience: int = _option(
        5, "measurements without a new minimum after which the minimum is confirmed as theta_b"
    )
    min_delta: float = _option(0.0, "a new minimum has to be lower by more than this")
    confirm_level: float = _option(
        0.0,
        "also confirm the minimum when a later accuracy is above it by a paired test at this level "
        "(0: patience only)",
    )
    shock_level: float = _option(
        0.0,
        "the fall below step 0 has to be significant by a paired test at this level (0: any fall)",
    )
    accuracy_interval: int = _option(1, "measure training accuracy every this many steps")
    accuracy_overlap: int = _option(
        0,
        "with --t3s-generation server: train on while up to this many measurements are in flight; "
        "the weights of each are kept on the host until its outcome is known",
    )
    targeted_accuracy_interval: int = _option(
        None, "the same in the targeted phase (default: --t3s-accuracy-interval; 0: only its end)"
    )
    accuracy_interval_coarse: int = _option(
        0,
        "measure every this many steps until accuracy has fallen below step 0, or --t3s-signal "
        "both says that the bottleneck is near (0: no such time)",
    )
    profile_iters: int = _option(
        None,
        "upper bound of a profile in steps (default: --train-iters, with several teachers divided "
        "by their number)",
    )
    no_shock: str = _option(
        "simple",
        "when accuracy never falls below step 0: go on as T3S-simple, go on as SFT, or stop",
        choices=("simple", "sft", "stop"),
    )
    # --- generation and verification
    verifier: str = _option(
        "numeric",
        "exact, numeric, choice, math, reasoning-gym, code, or package.module:function of your own",
    )
    verify_timeout: float = _option(
        30.0, "seconds a verifier has for one answer; then its process is killed and replaced"
    )
    verify_workers: int = _option(4, "processes that verify, on one rank of the run")
    verify_memory: float = _option(4.0, "GiB of data that each of them may hold")
    accuracy_prompts: int = _option(0, "measure on the first N training prompts (0: all)")
    accuracy_samples: int = _option(1, "answers generated for each prompt")
    accuracy_blocks: int = _option(
        1,
        "ask the prompts of a measurement in this many blocks, and end it after the one that shows "
        "that it is no new minimum",
    )
    accuracy_stop_level: float = _option(
        0.0,
        "a block may also show that by a paired test at this level (0: only where it is certain)",
    )
    temperature: float = _option(
        0.6, "sampling temperature of the accuracy measurements; 0: greedy"
    )
    max_new_tokens: int | None = _option(
        None, "length limit of an answer (default: --seq-length minus the longest prompt)"
    )
    generation_batch_size: int = _option(256, "prompts generated together on a data-parallel rank")
    generation_timeout: float | None = _option(
        None, "seconds that generating the answers of one measurement may take (default: no limit)"
    )
    generation: str = _option(
        "live",
        "who answers: live, the training weights in the job; server, OpenAI-compatible servers "
        "that are given the weights before each measurement",
        choices=("live", "server"),
    )
    server_url: tuple[str, ...] = _option(
        (), "servers of --t3s-generation server: http://HOST:PORT ...", nargs="*", type=str
    )
    server_reload: str = _option(
        "model",
        "how a server gets the weights: model, the folder is the model's name in a request "
        "(transformers serve); sglang, vllm: their own call; command: --t3s-server-reload-command",
        choices=RELOADS,
    )
    server_reload_command: str | None = _option(
        None, "run in a shell with the weights' folder in T3S_WEIGHTS; then /health is waited for"
    )
    server_reload_timeout: float = _option(600.0, "seconds that loading the weights may take")
    server_weights: str = _option(
        None,
        "folder for the weights, shared by the job and the servers (default: weights/ inside "
        "--t3s-dir)",
    )
    server_model: str | None = _option(
        None, "the model's name at sglang, vllm and command (default: the only one it has)"
    )
    server_concurrency: int = _option(
        None,
        "requests in flight at each URL (default: 1 with --t3s-server-reload model, so that "
        "transformers serve keeps to the seeds; else 64)",
    )
    server_timeout: float = _option(600.0, "seconds that a server has for one answer")
    server_retries: int = _option(4, "how often a request that failed is sent again")
    server_agreement: float = _option(
        0.8,
        "a server whose greedy answers to a few prompts agree less than this with the live "
        "weights' is not believed: 0 to 1",
    )
    max_failed_share: float = _option(
        0.1,
        "a measurement is void when more of its answers than this failed: timed out or crashed in "
        "the verifier, or unfinished when generation ran out of time",
    )
    measurement_retries: int = _option(
        2, "how often the failed answers of a void measurement are tried again"
    )
    report_temperatures: tuple[float, ...] = _option(
        (),
        "also measure theta_0 and the final weights at these temperatures, on training and "
        "held-out prompts",
        nargs="*",
        type=float,
    )
    report_samples: int = _option(4, "answers a prompt for --t3s-report-temperatures > 0")
    # --- scoring and selection
    scoring: str = _option(
        "exact",
        "exact: a forward pass over the corpus at theta_0 and theta_b; inline: log-probs seen in "
        "training forwards, up to one epoch old (approximate); both: select by exact, report the "
        "disagreement of inline",
        choices=("exact", "inline", "both"),
    )
    selection_save: str | None = _option(None, "also write the selection to this file")
    selection_load: str | None = _option(
        None, "skip profiling and train with this selection (made by any model, same tokenizer)"
    )
    # --- Hugging Face folders
    hf_model: str | None = _option(
        None,
        "theta_0: a Hugging Face folder of Qwen3 or Qwen3-MoE (safetensors); not read again when "
        "the job resumes from its own checkpoint",
    )
    hf_export: str | None = _option(
        None, "write the final weights as a Hugging Face folder of this name"
    )
    # --- run
    non_finite: str = _option(
        "stop",
        "a loss, gradient or log-prob that is not finite: stop before anything is learned from it "
        "and name the samples, or skip them from then on and count them in the summary",
        choices=("stop", "skip"),
    )
    seed: int = _option(None, "data order, sampling, random masks (default: --seed)")
    dir: str = _option(None, "summary, selection and log-prob stores (default: t3s/ inside --save)")
    device: str = _option(
        "auto",
        "auto: CUDA where there is one; cpu: the gloo device layer",
        choices=("auto", "cpu", "cuda"),
    )

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> T3SConfig:
        """Read the group from Megatron's namespace; fill in what depends on other arguments.

        Raises T3SError for combinations that cannot work, with the reason.
        """
        values = {f.name: getattr(args, f"t3s_{f.name}") for f in fields(cls)}
        values["data"] = tuple(values["data"] or ())
        values["report_temperatures"] = tuple(values["report_temperatures"] or ())
        if values["seed"] is None:
            values["seed"] = args.seed
        if values["dir"] is None:
            values["dir"] = os.path.join(args.save, "t3s") if args.save else None
        values["server_url"] = tuple(values["server_url"] or ())
        values["ignore_fields"] = tuple(values["ignore_fields"] or ())
        if values["server_weights"] is None:
            values["server_weights"] = (
                os.path.join(values["dir"], "weights") if values["dir"] else None
            )
        if values["server_concurrency"] is None:
            values["server_concurrency"] = 1 if values["server_reload"] == "model" else 64
        if values["profile_iters"] is None:
            values["profile_iters"] = args.train_iters
        if values["signal"] is None:
            values["signal"] = "fixed" if values["simple"] else "accuracy"
        elif values["simple"] and values["signal"] != "fixed":
            raise T3SError(
                f"--t3s-simple is --t3s-signal fixed, and not --t3s-signal {values['signal']}: "
                "drop one of the two"
            )
        if values["targeted_accuracy_interval"] is None:
            asks = values["signal"] in ("accuracy", "both")
            values["targeted_accuracy_interval"] = values["accuracy_interval"] if asks else 0
        config = cls(**values)
        config._validate(args)
        return replace(config, arrangement=choose_arrangement(args))

    @property
    def needs_answers(self) -> bool:
        """Whether anything is generated, and gold answers therefore needed."""
        if self.report_temperatures or self.targeted_accuracy_interval > 0:
            return True
        return self.measures_profile

    @property
    def verify_limits(self) -> Limits:
        return Limits(self.verify_timeout, self.verify_workers, self.verify_memory)

    @property
    def measures_profile(self) -> bool:
        if self.signal in ("confidence", "fixed"):
            return False
        if self.selection_load or self.accuracy_interval <= 0:
            return False
        return not self._needs_no_profile

    @property
    def detects(self) -> bool:
        """Whether a theta_b has to be found, by accuracy or by confidence."""
        has_profile = not (self.selection_load or self._needs_no_profile)
        return has_profile and self.method != "sft" and self.signal != "fixed"

    @property
    def _needs_no_profile(self) -> bool:
        """A masking baseline with a share of its own: it does not count T3S's anchors."""
        return self.method in MASKING_BASELINES and self.mask_share is not None

    def for_teachers(self, teachers: int, args) -> T3SConfig:
        """Of a run on the samples of several teachers; the data says how many they are.

        T3SError for what is only defined for one teacher.
        """
        if teachers < 2:
            return self
        if self.method == "rrt":
            raise T3SError(
                f"--t3s-method rrt with {teachers} teachers: theta_0 + (theta_f - theta_b) is of "
                "one trajectory with one theta_b, and the paper defines it for one teacher only. "
                "Give the data of one, or choose another method"
            )
        if self.detects and self.no_shock == "sft":
            raise T3SError(
                f"--t3s-no-shock sft with {teachers} teachers: the profile of one cannot go on as "
                "fine-tuning on all of them. Choose --t3s-no-shock simple (for that teacher only) "
                "or stop"
            )
        if args.t3s_profile_iters is not None:
            return self
        config = replace(self, profile_iters=-(-args.train_iters // teachers))
        config._validate_ends(args.train_iters)
        return config

    def plan(self, budget: int, teachers: tuple[str, ...] = ()) -> Plan:
        """The phases of this run; `budget` is --train-iters. Valid for a config of `from_args`, and
        with several `teachers` of `for_teachers`."""
        return Plan(
            teachers=teachers,
            method=self.method,
            signal=self.signal,
            simple_step=self.simple_step,
            budget=budget,
            profile_iters=self.profile_iters,
            accuracy_interval=self.accuracy_interval if self.measures_profile else 0,
            targeted_accuracy_interval=self.targeted_accuracy_interval,
            patience=self.patience,
            min_delta=self.min_delta,
            confirm_level=self.confirm_level,
            shock_level=self.shock_level,
            coarse_interval=self.accuracy_interval_coarse if self.measures_profile else 0,
            stop_level=self.accuracy_stop_level,
            no_shock=self.no_shock,
            loaded_selection=bool(self.selection_load),
            share=self.mask_share,
            measure_final=self.needs_answers,
        )

    def _validate(self, args) -> None:
        def refuse(reason: str):
            raise T3SError(reason)

        if not self.data:
            refuse("--t3s needs --t3s-data: the samples to train on")
        if not self.dir:
            refuse("--t3s needs --t3s-dir or --save, to write the selection and the summary to")
        if not args.calculate_per_token_loss:
            refuse(
                "--t3s needs --calculate-per-token-loss: a sparse loss mask is normalised wrongly "
                "over micro-batches and context parallelism without it (Megatron-LM #7513)"
            )
        if not args.train_iters:
            refuse("--t3s counts steps: give --train-iters, not --train-samples")
        if args.train_iters < 1:
            refuse(f"--train-iters {args.train_iters}: --t3s needs at least 1 step")
        if args.tokenizer_type != "HuggingFaceTokenizer":
            refuse(
                "--t3s needs --tokenizer-type HuggingFaceTokenizer --tokenizer-model FOLDER: chat "
                f"templates and text answers come from it (got {args.tokenizer_type})"
            )
        self._validate_numbers(refuse)
        self._validate_combinations(args, refuse)
        self._validate_server(refuse)
        self._validate_megatron_features(args, refuse)

    def _validate_numbers(self, refuse) -> None:
        at_least_one = (
            "simple_step",
            "patience",
            "profile_iters",
            "accuracy_samples",
            "accuracy_blocks",
            "report_samples",
            "generation_batch_size",
            "max_new_tokens",
            "verify_workers",
            "server_concurrency",
        )
        positive = (
            "verify_timeout",
            "verify_memory",
            "generation_timeout",
            "server_timeout",
            "server_reload_timeout",
        )
        at_least_zero = (
            "accuracy_interval",
            "accuracy_overlap",
            "accuracy_interval_coarse",
            "confirm_level",
            "shock_level",
            "accuracy_stop_level",
            "targeted_accuracy_interval",
            "accuracy_prompts",
            "min_delta",
            "temperature",
            "report_temperatures",
            "max_failed_share",
            "measurement_retries",
            "server_retries",
            "server_agreement",
            "show_samples",
            "seed",
        )
        for name in (*at_least_one, *positive, *at_least_zero, "anchor_threshold"):
            values = getattr(self, name)
            for value in values if isinstance(values, tuple) else (values,):
                if value is None:
                    continue
                given = f"{_argument(name)} {value}"
                if isinstance(value, int) and value > _LARGEST:
                    refuse(f"{given}: must be at most {_LARGEST}")
                if not math.isfinite(value):
                    refuse(f"{given}: has to be a finite number")
                if name in at_least_one and value < 1:
                    refuse(f"{given}: must be at least 1")
                if name in positive and value <= 0:
                    refuse(f"{given}: must be more than 0")
                if name in at_least_zero and value < 0:
                    refuse(f"{given}: must not be negative")
        if self.max_failed_share >= 1:
            refuse(f"--t3s-max-failed-share {self.max_failed_share}: must be less than 1")
        if self.server_agreement > 1:
            refuse(f"--t3s-server-agreement {self.server_agreement}: must be at most 1")
        for name in ("confirm_level", "shock_level", "accuracy_stop_level"):
            if (level := getattr(self, name)) >= 1:
                refuse(f"{_argument(name)} {level}: the level of a test is less than 1")
        if self.mask_share is not None and not 0 < self.mask_share < 1:
            refuse(f"--t3s-mask-share {self.mask_share}: must lie between 0 and 1")

    def _validate_combinations(self, args, refuse) -> None:
        method, profile, budget = self.method, self.profile_iters, args.train_iters
        if self.mask_share is not None and method not in MASKING_BASELINES:
            refuse(
                f"--t3s-mask-share only applies to the baselines {', '.join(MASKING_BASELINES)}: "
                f"drop it, since --t3s-method {method} masks by its own rule"
            )
        signal = "--t3s-simple" if self.simple else f"--t3s-signal {self.signal}"
        chosen = self.signal != "accuracy"
        if chosen and method == "sft":
            refuse(f"{signal} has no meaning with --t3s-method sft: nothing is selected. Drop it")
        if chosen and self._needs_no_profile:
            refuse(
                f"{signal} chooses theta_b, and with --t3s-mask-share there is none: drop one "
                "of the two"
            )
        if self.selection_load and method in ("rrt", "sft"):
            refuse(
                f"--t3s-selection-load has no meaning with --t3s-method {method}, which trains on "
                "every token: drop one of the two"
            )
        if self.selection_load and chosen:
            refuse(f"--t3s-selection-load skips the profile: drop {signal}")
        if self.heldout_data and not self.report_temperatures:
            refuse(
                "--t3s-heldout-data is only used with --t3s-report-temperatures: give those, or "
                "drop it"
            )
        if self.detects and self.signal != "confidence" and self.accuracy_interval == 0:
            refuse(
                "the bottleneck detector needs accuracy: set --t3s-accuracy-interval to at least "
                "1, or choose --t3s-simple or --t3s-signal confidence"
            )
        coarse = self.accuracy_interval_coarse
        if 0 < coarse < self.accuracy_interval:
            refuse(
                f"--t3s-accuracy-interval-coarse {coarse} is meant for the time before accuracy "
                f"falls, and is smaller than --t3s-accuracy-interval {self.accuracy_interval}"
            )
        if self.detects and self.signal == "both" and not coarse:
            refuse(
                "--t3s-signal both says when to stop measuring coarsely: give "
                "--t3s-accuracy-interval-coarse, or choose --t3s-signal accuracy"
            )
        if self.accuracy_stop_level and self.accuracy_blocks == 1:
            refuse(
                "--t3s-accuracy-stop-level is for measurements in blocks: give "
                "--t3s-accuracy-blocks, or drop it"
            )
        if self.scoring == "inline" and self._needs_no_profile:
            refuse(
                "--t3s-scoring inline needs a profile phase, and with --t3s-mask-share there is "
                "none: choose exact"
            )
        if method == "rrt" and profile < budget:
            refuse(
                f"--t3s-method rrt trains to theta_f: --t3s-profile-iters {profile} cannot be "
                f"shorter than --train-iters {budget}; leave it out"
            )
        self._validate_ends(budget)

    def _validate_server(self, refuse) -> None:
        if self.generation != "server":
            if self.server_url:
                refuse("--t3s-server-url without --t3s-generation server: add it, or drop the URL")
            if self.accuracy_overlap:
                refuse(
                    "--t3s-accuracy-overlap needs --t3s-generation server: the live weights cannot "
                    "answer while they are trained"
                )
            return
        if not self.server_url:
            refuse("--t3s-generation server needs --t3s-server-url: http://HOST:PORT")
        for url in self.server_url:
            base_url(url)
        if self.accuracy_overlap and (self.accuracy_interval_coarse or self.accuracy_blocks > 1):
            refuse(
                "--t3s-accuracy-overlap does not go with --t3s-accuracy-interval-coarse and "
                "--t3s-accuracy-blocks: which steps are measured, and how far, would depend on "
                "outcomes that are not there yet. Drop one of them"
            )
        if self.accuracy_overlap and not (self.measures_profile or self.targeted_accuracy_interval):
            refuse(
                "--t3s-accuracy-overlap has nothing to overlap: this run measures no accuracy "
                "while it trains. Give --t3s-targeted-accuracy-interval, or drop it"
            )
        if (self.server_reload == "command") != bool(self.server_reload_command):
            refuse(
                "--t3s-server-reload command and --t3s-server-reload-command go together: give "
                "both or neither"
            )

    def _validate_ends(self, budget: int) -> None:
        """How a profile may end has to lie within the steps there are."""
        steps, bound = self.profile_iters, "--t3s-profile-iters"
        if self.method == "rrt":  # its profile is the whole of plain training
            steps, bound = budget, "--train-iters"
        if self.simple_step > steps:
            beyond = f"--t3s-simple-step {self.simple_step} lies beyond {bound} {steps}"
            if self.signal == "fixed":
                raise T3SError(f"{beyond}: theta_b would never be reached. Lower the step")
            if self.detects and self.no_shock == "simple":
                raise T3SError(
                    f"{beyond}, and --t3s-no-shock simple takes that step as theta_b: lower the "
                    "step, or choose --t3s-no-shock sft or stop"
                )
        if self.detects and self.no_shock == "sft" and self.method != "rrt" and steps > budget:
            raise T3SError(
                f"--t3s-no-shock sft goes on to --train-iters {budget} in all: {bound} {steps} "
                "is more. Lower it, or choose --t3s-no-shock simple or stop"
            )

    def _validate_megatron_features(self, args, refuse) -> None:
        for name, why in UNSUPPORTED.items():
            if getattr(args, name, None):
                refuse(f"--{name.replace('_', '-')} does not work with --t3s: it {why}")
        if args.fp16:
            refuse("--fp16 does not work with --t3s: use --bf16 (a rewind has no loss-scale state)")
        if self.max_new_tokens and self.max_new_tokens >= args.max_position_embeddings:
            refuse(
                f"--t3s-max-new-tokens {self.max_new_tokens} does not fit the model's "
                f"--max-position-embeddings {args.max_position_embeddings}"
            )


def add_t3s_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the group to Megatron's parser. Without `--t3s` none of it has any effect."""
    group = parser.add_argument_group(
        "t3s", "Training-Trajectory-Aware Token Selection (arXiv:2601.10348)"
    )
    group.add_argument("--t3s", action="store_true", help="make this run a T3S run")
    for f in fields(T3SConfig):
        name = _argument(f.name)
        kwargs = dict(f.metadata["argparse"])
        if f.type == "bool":
            group.add_argument(name, action="store_true", help=f.metadata["help"])
            continue
        kwargs.setdefault("type", _converter(f.type))
        group.add_argument(name, default=f.default, help=f.metadata["help"], **kwargs)
    return parser


def _argument(name: str) -> str:
    return "--t3s-" + name.replace("_", "-")


def _converter(annotation):
    """What argparse reads a value with; annotations are strings in this module."""
    for name, converter in (("int", int), ("float", float)):
        if annotation.startswith(name):
            return converter
    return str
