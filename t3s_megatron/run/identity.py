# SPDX-License-Identifier: Apache-2.0
"""What a run was made of, for its summary."""

from __future__ import annotations

import platform
from importlib import metadata

import torch

import t3s_megatron
from t3s_megatron.data.kept_bits import digest_of
from t3s_megatron.megatron.releases import megatron_version
from t3s_megatron.options import all_values, fixed_values
from t3s_megatron.run.inputs import Inputs

_LAYOUT = {
    "world_size": "world_size",
    "tensor": "tensor_model_parallel_size",
    "pipeline": "pipeline_model_parallel_size",
    "virtual_pipeline": "virtual_pipeline_model_parallel_size",
    "context": "context_parallel_size",
    "expert": "expert_model_parallel_size",
    "data": "data_parallel_size",
    "sequence_parallel": "sequence_parallel",
}

_SHAPE = (
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "num_query_groups",
    "num_experts",
    "padded_vocab_size",
)


def model_shape(args) -> dict:
    """What kind of model it is, for files that another model may read."""
    shape = {name: getattr(args, name, None) for name in _SHAPE}
    if not args.group_query_attention:  # Megatron's default of 1 group then means nothing
        shape["num_query_groups"] = args.num_attention_heads
    return shape


def parallel_layout(args) -> dict:
    """How the model and the data are spread over the ranks."""
    return {name: getattr(args, key, None) for name, key in _LAYOUT.items()}


def identity(inputs: Inputs) -> dict:
    """What has to be equal in a resumed run. JSON-able, so that it can be compared to a file's."""
    loaded = inputs.selection
    heldout, reference, targeting = inputs.heldout, inputs.reference, inputs.targeting
    return (
        {
            "dataset fingerprint": inputs.corpus.fingerprint,
            "held-out fingerprint": None if heldout is None else heldout.fingerprint,
            "tokenizer fingerprint": inputs.corpus.tokenizer_fingerprint,
            "loaded selection": None if loaded is None else digest_of(loaded.keep),
            "reference": None if reference is None else reference.digest(),
            "forced tokens": None if targeting is None else targeting.fingerprint,
            "mask token": inputs.mask_token,
            "megatron-core release": megatron_version(),
        }
        | fixed_values(inputs.config)
        | inputs.megatron_arguments
    )


def provenance(inputs: Inputs, args) -> dict:
    """versions, fingerprints, layout, seeds and arguments of a run."""
    return {
        "versions": {
            "t3s_megatron": t3s_megatron.__version__,
            "megatron_core": megatron_version(),
            "torch": torch.__version__,
            "transformers": metadata.version("transformers"),
            "python": platform.python_version(),
        },
        "fingerprints": {
            "dataset": inputs.corpus.fingerprint,
            "tokenizer": inputs.corpus.tokenizer_fingerprint,
            "heldout": None if inputs.heldout is None else inputs.heldout.fingerprint,
        },
        "layout": parallel_layout(args),
        "model": model_shape(args),
        "seeds": {"megatron": args.seed, "t3s": inputs.config.seed},
        "arguments": all_values(inputs.config),
    }
