# SPDX-License-Identifier: Apache-2.0
"""Weights between Megatron checkpoints and Hugging Face folders, outside of a training run.

    torchrun ... -m t3s_megatron.convert <the run's arguments> --load CKPT --t3s-hf-export DIR
    torchrun ... -m t3s_megatron.convert <model arguments> --t3s-hf-model DIR --save CKPT

In any layout, on as many processes as it needs. With `--load`, weights come from the checkpoint,
`--save` is left alone (so that a run's own arguments can be given as they are), and config.json and
generation_config.json come from `--t3s-hf-model` where that is given too.
"""

from __future__ import annotations

import sys

from t3s_megatron.data.tokenizing import load_tokenizer
from t3s_megatron.entry import one_error, start_process
from t3s_megatron.errors import T3SError


def main() -> None:
    with one_error():
        start_process(sys.argv)
        _convert()


def _convert() -> None:
    from t3s_megatron.megatron.checkpoints import build_model, close, load_model, save_model
    from t3s_megatron.megatron.hf_folders import HuggingFaceFolders
    from t3s_megatron.megatron.model import check_model_arguments
    from t3s_megatron.megatron.releases import parse_arguments
    from t3s_megatron.megatron.student import find_student, take_vocabulary
    from t3s_megatron.plugin import T3S

    parsed_with = T3S().add_arguments, {"micro_batch_size": 1, "save_interval": 1}
    args = parse_arguments(*parsed_with)
    if not (args.load or args.t3s_hf_model):
        raise T3SError("nothing to read: give --load CHECKPOINT or --t3s-hf-model FOLDER")
    save = args.save and not args.load
    if not (save or args.t3s_hf_export):
        raise T3SError("nothing to write: give --t3s-hf-export FOLDER, or --save without --load")
    check_model_arguments(args)
    args.finetune = False
    folders = HuggingFaceFolders(args)
    if args.load:
        find_student(args, required=False)
        take_vocabulary(args, "load", len(load_tokenizer(args.tokenizer_model)))
    model = build_model(args, *parsed_with)
    iteration = 0
    if args.load:
        iteration = load_model(model)
    else:
        folders.load(model)
    if save:
        save_model(model)
    if args.t3s_hf_export:
        folders.export(model, iteration)
    close()


if __name__ == "__main__":
    main()
