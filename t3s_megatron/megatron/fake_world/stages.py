# SPDX-License-Identifier: Apache-2.0
"""Builds each distinct pipeline stage with fake tensors and measures it."""

from __future__ import annotations

import contextlib
import copy
import io
import logging

import torch
from megatron.core.utils import unwrap_model
from megatron.training import training
from megatron.training.global_vars import set_args
from torch._subclasses.fake_tensor import FakeTensorMode

from t3s_megatron.data.lengths import has_delta_nets
from t3s_megatron.errors import T3SError
from t3s_megatron.megatron.diffusion_forward import masked_losses
from t3s_megatron.megatron.fake_world.cluster import become, first_rank_of_stage
from t3s_megatron.megatron.fake_world.meters import LiveBytes, SavedTensors, storage_bytes
from t3s_megatron.megatron.fake_world.stand_ins import balance_experts, use_fused_kernels
from t3s_megatron.megatron.model import check_model_arguments, model_provider
from t3s_megatron.megatron.releases import optimizer_config, require_output_processor
from t3s_megatron.megatron.weights import main_parameters
from t3s_megatron.planning.facts import Chunk, Model, Stage
from t3s_megatron.planning.pinned import pinned_bytes

#: Adam's moments, float32 each, made at the first step.
_MOMENT_BYTES = 8


def measure_model(args, expert_load: float) -> Model:
    """Every pipeline stage of the run `args` (validated, `padded_vocab_size` set).

    `expert_load`: tokens that the busiest expert-parallel rank gets, 1 for its even share.
    T3SError when Megatron cannot build or run a stage.
    """
    check_model_arguments(args)
    planned, fused = _plannable(args, expert_load)
    set_args(planned)
    with _quietly():
        builder = _Builder(planned, fused, _losses(args))
        by_shape: dict[tuple, list[int]] = {}
        for number in range(args.pipeline_model_parallel_size):
            by_shape.setdefault(builder.shape_of(number), []).append(number)
        stages = tuple(builder.measure(tuple(numbers)) for numbers in by_shape.values())
    heads = args.num_attention_heads
    return Model(
        layers=args.num_layers,
        hidden_size=args.hidden_size,
        heads=heads,
        key_value_heads=args.num_query_groups if args.group_query_attention else heads,
        head_size=_head_size(args),
        vocabulary=args.padded_vocab_size,
        bytes_a_parameter=args.params_dtype.itemsize,
        stages=stages,
        copies=2 if args.t3s_diffusion else 1,
        **_delta_nets(args),
    )


def _delta_nets(args) -> dict[str, int]:
    """How many layers are gated delta nets, and what the state of one costs a token: four products
    of its size for each value head, as Megatron counts them (training.py:757)."""
    if not has_delta_nets(args):
        return {}
    from megatron.core.models.gpt.experimental_attention_variant_module_specs import (
        get_linear_attention_pattern,
    )

    state = args.linear_key_head_dim * args.linear_value_head_dim
    return {
        "delta_layers": sum(get_linear_attention_pattern(args)),
        "delta_flops": 2 * 4 * args.linear_num_value_heads * state,
    }


def _head_size(args) -> int:
    """Half of what a key-value head keeps of a token."""
    if args.multi_latent_attention:  # keys and values as they are attended, not the latents
        return (args.qk_head_dim + args.qk_pos_emb_head_dim + args.v_head_dim) // 2
    return args.kv_channels


def _plannable(args, expert_load: float):
    """(a copy of `args` that can be built without CUDA, whether fused kernels are stood in for)."""
    planned = copy.copy(args)
    planned.t3s_data = None  # as without samples: every row is measured at --seq-length
    if args.t3s_diffusion:
        # Both copies in a row. FlexAttention keeps what a fused causal attention keeps.
        planned.seq_length *= 2
        planned.max_position_embeddings = max(planned.max_position_embeddings, planned.seq_length)
        planned.t3s_diffusion = False
    fused = args.transformer_impl == "transformer_engine"
    if fused:
        planned.transformer_impl = "local"
        planned.moe_grouped_gemm = False
        planned.persist_layer_norm = False
    elif args.transformer_impl != "local":
        raise T3SError(f"--transformer-impl {args.transformer_impl} cannot be planned")
    planned.apply_rope_fusion = False
    planned.gradient_accumulation_fusion = False
    planned.masked_softmax_fusion = False
    planned.use_gloo_process_groups = False
    if args.num_experts:
        if args.moe_token_dispatcher_type not in ("alltoall", "allgather"):
            raise T3SError(
                f"--moe-token-dispatcher-type {args.moe_token_dispatcher_type} cannot be planned: "
                "plan with alltoall, whose sizes are nearly the same"
            )
        # Megatron's own routing to a fixed capacity: every size is known before the data is.
        planned.moe_token_dispatcher_type = "alltoall"
        planned.moe_pad_expert_input_to_capacity = True
        planned.moe_expert_capacity_factor = expert_load
        planned.moe_permute_fusion = False
    return planned, fused


def _losses(args) -> dict:
    """As many positions as a diffusion student has to compute the logits of at the most, where its
    prompt is short."""
    if not args.t3s_diffusion:
        return {}
    require_output_processor()
    masked = round(args.t3s_mask_rate[1] * args.seq_length)
    return {
        "output_processor": masked_losses,
        "output_processor_context": torch.arange(max(1, masked)),
    }


class _Builder:
    """`losses`: arguments of the model that say which positions have one; none: all."""

    def __init__(self, args, fused: bool, losses: dict):
        self.args = args
        self.fused = fused
        self.losses = losses

    def shape_of(self, number: int) -> tuple:
        """Equal for two stages that hold and keep the same."""
        become(first_rank_of_stage(number, self.args), self.args)
        with FakeTensorMode():
            chunks = training.get_model(self._provide, wrap_with_ddp=False)
        return tuple(
            tuple((name, *parameter.shape) for name, parameter in chunk.named_parameters())
            for chunk in chunks
        )

    def measure(self, numbers: tuple[int, ...]) -> Stage:
        args = self.args
        become(first_rank_of_stage(numbers[0], args), args)
        with FakeTensorMode(allow_non_fake_inputs=True):
            chunks = training.get_model(self._provide)
            optimizer = _optimizer(args, chunks)
            named = [pair for chunk in chunks for pair in chunk.named_parameters()]
            parameters = [parameter for _, parameter in named]
            main = main_parameters(optimizer)
            main_numbers = sum(parameter.numel() for parameter in main)
            gradients = [p.main_grad for p in parameters]
            ignored = [*(p.data for p in parameters), *gradients]
            measured = tuple(self._measure_chunk(chunk, ignored) for chunk in chunks)
            # After a forward pass, in which a router's bias becomes float32.
            buffers = [buffer for chunk in chunks for _, buffer in chunk.named_buffers()]
            weights = storage_bytes([*(p.data for p in parameters), *buffers])
            everything = storage_bytes([*(p.data for p in parameters), *buffers, *main])
            copied = [p.numel() * p.element_size() for p in (*main, *buffers)]
        return Stage(
            stages=numbers,
            parameters=sum(p.numel() for p in parameters),
            whole_parameters=self._whole(named),
            matrix_parameters=self._matrices(named),
            weights=weights,
            gradients=storage_bytes(gradients),
            optimizer=everything - weights + _MOMENT_BYTES * main_numbers,
            snapshot=sum(copied),
            pinned=pinned_bytes(copied),
            chunks=measured,
        )

    def _provide(self, **kwargs):
        model = model_provider(**kwargs)
        if self.fused:
            use_fused_kernels(model)
        balance_experts(model)
        return model

    def _whole(self, named) -> int:
        args = self.args
        # With tied embeddings the last of several stages has a copy of the first one's.
        copied = not args.untie_embeddings_and_output_weights
        copied = copied and args.pipeline_model_parallel_size > 1
        return sum(
            parameter.numel() * self._shards(name, parameter)
            for name, parameter in named
            if not (copied and name.endswith("output_layer.weight"))
        )

    def _matrices(self, named) -> int:
        """Multiplied with a token: no vectors, no look-ups, of the experts those it is sent to."""
        args, total = self.args, 0.0
        embedding_is_output = (
            not args.untie_embeddings_and_output_weights and args.pipeline_model_parallel_size == 1
        )
        for name, parameter in named:
            if parameter.dim() < 2 or "position_embeddings" in name:
                continue
            if "word_embeddings" in name and not embedding_is_output:
                continue
            share = args.moe_router_topk / args.num_experts if _is_expert(name) else 1.0
            total += parameter.numel() * self._shards(name, parameter) * share
        return round(total)

    def _shards(self, name: str, parameter) -> int:
        """Of this parameter in the stage."""
        args = self.args
        if _is_expert(name):
            return args.expert_model_parallel_size * args.expert_tensor_parallel_size
        if getattr(parameter, "tensor_model_parallel", False):
            return args.tensor_model_parallel_size
        return 1

    def _measure_chunk(self, chunk, ignored: list[torch.Tensor]) -> Chunk:
        """One forward and backward pass of one micro-batch."""
        args = self.args
        if getattr(chunk, "remove_forward_pre_hook_handles", None):
            chunk.disable_forward_pre_hook(param_sync=False)
        chunk.train()
        model = unwrap_model(chunk)
        length = args.seq_length // args.context_parallel_size
        tokens = torch.zeros(args.micro_batch_size, length, dtype=torch.int64)
        saved, live = SavedTensors(ignored), LiveBytes(ignored)
        with live, chunk.no_sync():
            if not model.pre_process:
                model.set_input_tensor(self._received(length))
            with saved.recording():
                labels = tokens if model.post_process else None
                out = chunk(tokens, tokens, None, labels=labels, **self.losses)
            kept = saved.take()
            loss = torch.sum(out.float()) if model.post_process else out
            loss.backward(torch.empty_like(loss))
        return Chunk(layers=len(model.decoder.layers), saved=kept, peak=live.peak)

    def _received(self, length: int) -> torch.Tensor:
        """Hidden states [s, b, hidden] of the stage before."""
        args = self.args
        if args.sequence_parallel:
            length //= args.tensor_model_parallel_size
        shape = (length, args.micro_batch_size, args.hidden_size)
        dtype = torch.float32 if args.fp32_residual_connection else args.params_dtype
        return torch.empty(shape, dtype=dtype, requires_grad=True)


def _is_expert(name: str) -> bool:
    # Megatron marks experts' parameters only where experts are parallel. Shared ones are others.
    return ".experts." in name


def _optimizer(args, chunks):
    config, overrides = optimizer_config(args)
    return training.get_megatron_optimizer(
        config, chunks, config_overrides=overrides, use_gloo_process_groups=False
    )


@contextlib.contextmanager
def _quietly():
    """Megatron prints and logs what it builds, once a stage."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
