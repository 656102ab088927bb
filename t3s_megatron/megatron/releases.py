# SPDX-License-Identifier: Apache-2.0
"""What differs between the supported Megatron releases: every check of a release stands here.

`pretrain` takes its pieces in another order in each of 0.17, 0.18 and 0.19, and the functions the
seam wraps have other parameters. Both are recorded here by signature and checked at run time, so
that a release we have not read is refused by name instead of half working.

Importing this module imports no Megatron: the device layer has to come first.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable

from t3s_megatron import __version__
from t3s_megatron.errors import T3SError

#: Parameters of the functions of `megatron.training.training` that the seam wraps, by release.
_TRAIN = (
    "forward_step_func model optimizer opt_param_scheduler train_data_iterator "
    "valid_data_iterator process_non_loss_data_func config checkpointing_context "
    "non_loss_data_func inference_model"
)
_TRAIN_STEP = (
    "forward_step_func data_iterator model optimizer opt_param_scheduler config "
    "forward_backward_func iteration"
)
_TRAINING_LOG = (
    "loss_dict total_loss_dict learning_rate iteration loss_scale report_memory_flag skipped_iter "
    "grad_norm params_norm num_zeros_in_grad max_attention_logit pg_collection is_first_iteration"
)
_SAVE_CHECKPOINT = (
    "iteration model optimizer opt_param_scheduler num_floating_point_operations_so_far "
    "checkpointing_context pipeline_rank expert_rank tensor_rank pipeline_parallel "
    "expert_parallel non_persistent_ckpt train_data_iterator preprocess_common_state_dict_fn "
    "release tp_group pp_group dp_cp_group"
)
_SEQLEN_STATS = " seqlen_squared_sum_in_batch total_real_tokens_in_batch"

SIGNATURES: dict[str, dict[str, str]] = {
    "0.17": {
        "train": _TRAIN,
        "train_step": _TRAIN_STEP,
        "training_log": _TRAINING_LOG,
        "save_checkpoint": _SAVE_CHECKPOINT,
    },
    "0.18": {
        "train": _TRAIN,
        "train_step": _TRAIN_STEP,
        "training_log": _TRAINING_LOG + _SEQLEN_STATS,
        "save_checkpoint": _SAVE_CHECKPOINT,
    },
    "0.19": {
        "train": _TRAIN + " p2p_communicator pg_collection",
        "train_step": _TRAIN_STEP + " pg_collection p2p_communicator",
        "training_log": _TRAINING_LOG + _SEQLEN_STATS,
        "save_checkpoint": _SAVE_CHECKPOINT + " dp_group expt_dp_group rng_state_key_prefix",
    },
}

TESTED_RELEASES = ("0.17.1", "0.18.2", "0.19.2")


def megatron_version() -> str:
    """As released. Megatron appends the commit of whatever repository the job runs in."""
    import megatron.core

    return megatron.core.__version__.split("+")[0]


def megatron_series() -> str:
    """ "0.19" for 0.19.2. Raises T3SError for a release this plugin has not been checked with."""
    version = megatron_version()
    series = ".".join(version.split(".")[:2])
    if series not in SIGNATURES:
        raise T3SError(
            f"megatron-core {version} is not supported by t3s-megatron {__version__}: it was "
            f"checked with {', '.join(TESTED_RELEASES)}. Install one of those."
        )
    return series


def check_signature(name: str, function: Callable) -> None:
    """Raise T3SError when `function` does not take the parameters recorded for this release."""
    expected = SIGNATURES[megatron_series()][name].split()
    found = list(inspect.signature(function).parameters)
    if found != expected:
        raise T3SError(
            f"megatron.training.training.{name} of megatron-core {megatron_version()} takes "
            f"({', '.join(found)}), expected ({', '.join(expected)}). The release was changed, or "
            "something else wrapped this function first."
        )


def parse_arguments(extra_args_provider: Callable, args_defaults: dict):
    """Megatron's own parse and validation; sets its global arguments. Returns the namespace.

    In 0.17 `pretrain` parses by itself, so there the namespace is validated but not yet global.
    T3SError, with Megatron's reason, for what it refuses.
    """
    if any(word.split("=")[0] == "--yaml-cfg" for word in sys.argv):
        raise T3SError("--yaml-cfg is not supported: give the arguments on the command line")
    try:
        return _parse(extra_args_provider, args_defaults)
    except T3SError:
        raise
    except (AssertionError, ValueError) as error:
        raise T3SError(f"Megatron refuses these arguments: {reason_of(error)}") from error


def _parse(extra_args_provider: Callable, args_defaults: dict):
    if megatron_series() == "0.17":
        from megatron.training.arguments import parse_args, validate_args

        args = parse_args(extra_args_provider)
        validate_args(args, args_defaults)
        return args
    from megatron.training.arguments import parse_and_validate_args

    return parse_and_validate_args(
        extra_args_provider=extra_args_provider, args_defaults=args_defaults
    )


def reason_of(error: Exception) -> str:
    """The message of an error of Megatron's; for an assertion without one, what was asserted."""
    if str(error):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.line} ({os.path.basename(frame.filename)}:{frame.lineno})"


def call_pretrain(
    args, *, data_provider, model_provider, forward_step, extra_args_provider, args_defaults
) -> None:
    """`megatron.training.pretrain` with this release's order of parameters."""
    from megatron.core.enums import ModelType
    from megatron.training import pretrain

    series = megatron_series()
    if series == "0.17":
        args_defaults = args_defaults | _vocabulary(args)
        pretrain(
            data_provider,
            model_provider,
            ModelType.encoder_or_decoder,
            forward_step,
            extra_args_provider=extra_args_provider,
            args_defaults=args_defaults,
        )
        return
    from megatron.training.argument_utils import pretrain_cfg_container_from_args

    container = pretrain_cfg_container_from_args(args)
    if series == "0.18":
        pretrain(
            container,
            data_provider,
            model_provider,
            ModelType.encoder_or_decoder,
            forward_step,
        )
    else:
        pretrain(
            container,
            data_provider,
            ModelType.encoder_or_decoder,
            forward_step,
            model_provider=model_provider,
        )


def initialize(args, extra_args_provider: Callable, args_defaults: dict) -> None:
    """Megatron's process groups and globals for `args`, parsed by `parse_arguments` with these
    two."""
    from megatron.training.initialize import initialize_megatron

    if megatron_series() == "0.17":  # parses and validates by itself
        initialize_megatron(extra_args_provider, args_defaults | _vocabulary(args))
    else:
        initialize_megatron()


def _vocabulary(args) -> dict:
    """What was decided after parsing, where Megatron parses once more."""
    names = ("vocab_size", "padded_vocab_size")
    return {name: value for name in names if (value := getattr(args, name, None)) is not None}


def layer_spec(args, config, vp_stage):
    """The layers of a GPT model for Megatron's arguments, as its own builder chooses them."""
    if megatron_series() == "0.19":
        from megatron.training.argument_utils import gpt_config_from_args
        from megatron.training.models.gpt import default_layer_spec

        return default_layer_spec(gpt_config_from_args(args, config=config), vp_stage)
    from megatron.core.models.gpt import gpt_layer_specs as specs

    use_te = args.transformer_impl == "transformer_engine"
    if args.num_experts:
        return specs.get_gpt_decoder_block_spec(
            config,
            use_transformer_engine=use_te,
            normalization=args.normalization,
            qk_l2_norm=args.qk_l2_norm,
            vp_stage=vp_stage,
        )
    layers = dict(
        qk_layernorm=config.qk_layernorm, multi_latent_attention=args.multi_latent_attention
    )
    if use_te:
        return specs.get_gpt_layer_with_transformer_engine_spec(
            **layers, qk_l2_norm=args.qk_l2_norm
        )
    return specs.get_gpt_layer_local_spec(**layers, normalization=config.normalization)


def require_output_processor() -> None:
    """T3SError for a release in which a model cannot be told to compute the logits of some
    positions only, which a diffusion student's losses need: 0.17."""
    from megatron.core.models.gpt import GPTModel

    if "output_processor" not in inspect.signature(GPTModel.forward).parameters:
        raise T3SError(
            f"--t3s-diffusion needs megatron-core 0.18 or newer, found {megatron_version()}"
        )


def without_validation(args) -> None:
    """Set Megatron's arguments for a run that has no validation set."""
    args.eval_iters = 0
    if args.eval_interval is None:  # 0.18 and 0.19 divide by it even when nothing is evaluated
        args.eval_interval = max(1, args.train_iters or 1)


def clear_moe_metrics() -> None:
    """Drop the auxiliary losses that a forward-only pass has logged, as `train()` does."""
    from megatron.training import training

    tracker = getattr(training, "get_moe_metrics_tracker", None)
    if tracker is not None:  # 0.19
        tracker().clear()
        return
    from megatron.core.transformer.moe.moe_utils import clear_aux_losses_tracker

    clear_aux_losses_tracker()


def tell_lengths(cu_seqlens) -> None:
    """Tell Megatron's FLOPs figure the lengths of a micro-batch: `cu_seqlens` int[n + 1]. 0.17 has
    no way to be told."""
    from megatron.training import training

    tell = getattr(training, "update_seqlen_stats_from_cu_seqlens", None)
    if tell is not None:
        tell(cu_seqlens)


def counted_gradients(optimizer) -> list:
    """Gradients of a single optimizer's parameters on this rank, those that a norm counts: no copy
    of what another tensor- or pipeline-parallel rank has as well."""
    names = ("get_grads_for_grad_norm", "get_main_grads_for_grad_norm")  # from 0.19; before
    return next(getattr(optimizer, name) for name in names if hasattr(optimizer, name))()


def optimizer_config(args) -> tuple:
    """(optimizer configuration, overrides of it for single parameters or None)."""
    from megatron.training import training

    config = training.get_megatron_optimizer_config(args)
    return config if isinstance(config, tuple) else (config, None)  # 0.17 has no overrides


def load_optimizer_without_gradient(distrib_optimizer) -> None:
    """Let 0.19 load a distributed optimizer of float32 parameters: it copies into a view of a leaf
    that requires a gradient (distrib_optimizer.py:1225), on any device."""
    import torch

    cls, name = distrib_optimizer.DistributedOptimizer, "_set_main_param_and_optimizer_states"
    load = getattr(cls, name, None)
    if load is not None and not hasattr(load, "__wrapped__"):
        setattr(cls, name, torch.no_grad()(load))


def count_lengths_on(device) -> None:
    """Keep the sums of sequence lengths on `device`: from 0.18 on they are made on
    f"cuda:{current_device()}" where there are none yet (training.py:327)."""
    import torch
    from megatron.training import training

    if hasattr(training, "_seqlen_stats_in_iteration"):
        training._seqlen_stats_in_iteration = torch.zeros(2, dtype=torch.float64, device=device)


def inference_mode() -> contextlib.AbstractContextManager:
    """In which the last stage computes logits of the last position alone; 0.17 always does so for a
    model with a cache."""
    try:
        from megatron.core.inference.utils import InferenceMode
    except ImportError:
        return contextlib.nullcontext()
    return InferenceMode.active()


def rotary_concentration(layer) -> float:
    """The factor of rotary embedding of a self-attention (YaRN's, else 1)."""
    known = getattr(layer, "_yarn_concentration_factor", None)  # 0.19
    if known is not None:
        return known
    from megatron.core.transformer import attention

    return attention._yarn_get_concentration_factor_from_config(layer.config)


def use_shipped_dataset_helpers() -> None:
    """Have Megatron take the compiled dataset helper that its wheels ship.

    `initialize_megatron` runs `make` in core/datasets and ends the process where that fails
    (datasets/utils.py:25-30), and the wheels have no Makefile: no job that was installed with pip
    would start. A checkout whose helper is not compiled yet still compiles it.
    """
    import importlib.util

    import megatron.core.datasets.utils as utils

    if importlib.util.find_spec("megatron.core.datasets.helpers_cpp") is not None:
        utils.compile_helpers = _already_compiled


def _already_compiled() -> None:
    """In the place of `compile_helpers`."""
