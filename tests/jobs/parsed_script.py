# SPDX-License-Identifier: Apache-2.0
"""What a pretrain script would do with its command line before it builds a model: Megatron's own
parser and validation at WORLD_SIZE, ours, and the student's config.json against them."""

from __future__ import annotations

import json
import sys

from t3s_megatron.entry import start_process


def main() -> None:
    start_process(["--t3s-device", "cpu"])
    from transformers import AutoConfig

    from t3s_megatron.config import T3SConfig
    from t3s_megatron.huggingface.architecture import check
    from t3s_megatron.megatron.releases import parse_arguments
    from t3s_megatron.plugin import T3S

    args = parse_arguments(T3S().add_arguments, {})
    config = T3SConfig.from_args(args)
    check(AutoConfig.from_pretrained(args.t3s_hf_model), args, args.t3s_hf_model)
    figures = {
        "data_parallel": args.data_parallel_size,
        "arrangement": config.arrangement,
        "batch": args.global_batch_size,
        "budget": config.budget,
        "temperature": config.temperature,
        "sequence_parallel": args.sequence_parallel,
        "world": args.world_size,
    }
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
