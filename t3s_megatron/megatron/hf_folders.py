# SPDX-License-Identifier: Apache-2.0
"""`--t3s-hf-model` and `--t3s-hf-export`: a run that starts from one Hugging Face folder and ends
in another.
"""

from __future__ import annotations

import os
import time

from safetensors import SafetensorError, safe_open

import t3s_megatron
from t3s_megatron.data.places import check_places
from t3s_megatron.data.tokenizing import load_tokenizer
from t3s_megatron.errors import MismatchError, T3SError, WriteError
from t3s_megatron.huggingface.architecture import config_from_arguments, family_of, fit_to_folder
from t3s_megatron.huggingface.config import read_config, read_json
from t3s_megatron.huggingface.folder import FolderWriter, check_target, weight_files
from t3s_megatron.huggingface.hub import fetch_weights
from t3s_megatron.megatron import layout
from t3s_megatron.megatron.hf_weights import export_weights, load_weights
from t3s_megatron.megatron.process import checkpoint_exists, get_args, print_rank_0
from t3s_megatron.megatron.seam import Callback, CallbackContext


class HuggingFaceFolders(Callback):
    """A callback of the seam: weights come in before the first step and go out after the last.

    The constructor checks everything that can be checked without the model; it sets
    `args.padded_vocab_size`, since the folder says how many rows an embedding has. Raises T3SError.
    """

    def __init__(self, args):
        check_places(args)
        self.source, self.export_to = args.t3s_hf_model, args.t3s_hf_export
        self.tokenizer_model = args.tokenizer_model
        self._loads_weights = self.source is not None and not _resumes(args)
        if self.source is not None:
            self.config = fit_to_folder(args, self.source)
            if self._loads_weights:
                fetch_weights(self.source)
            if self._loads_weights and args.rank == 0:  # of one rank's word all hear
                _check_files(self.source, self.config)
        if self._loads_weights and args.use_precision_aware_optimizer:
            raise T3SError(
                "--t3s-hf-model does not work with --use-precision-aware-optimizer: its main "
                "parameters would stay those of the initialisation"
            )
        if self.export_to is not None:
            check_target(self.export_to)
            load_tokenizer(self.tokenizer_model)
            exported_config(args, self.source, "--t3s-hf-export")

    # ------------------------------------------------------------------------------------ events

    def on_train_start(self, context: CallbackContext) -> None:
        if self._loads_weights:
            self.load(context.model)
            # The main parameters were copied from the initial weights.
            context.optimizer.reload_model_params()

    def on_train_end(self, context: CallbackContext) -> None:
        if self.export_to is not None:
            self.export(context.model, context.iteration)

    # ------------------------------------------------------------------------------------ weights

    def load(self, model: list) -> None:
        """The folder's weights into `model`. Collective."""
        started = time.perf_counter()
        args = get_args()
        load_weights(model, self.config, self.source, args.padded_vocab_size)
        seconds = time.perf_counter() - started
        print_rank_0(f"[t3s] weights of {self.source} loaded in {seconds:.1f} s")

    def export(self, model: list, iteration: int) -> None:
        """`model` as a folder, written by the first rank. Collective."""
        started = time.perf_counter()
        args = get_args()
        config, written = exported_config(args, self.source, "--t3s-hf-export")
        tensors = export_weights(model, config)
        mark = {"t3s_megatron": t3s_megatron.__version__, "iteration": iteration}

        def work() -> None:
            try:
                if layout.rank() == 0:
                    self._write(tensors, written, mark)
            finally:
                for _ in tensors:  # collective: to the end, also when the disk is full
                    pass

        layout.together(work)
        seconds = time.perf_counter() - started
        print_rank_0(f"[t3s] exported to {self.export_to} in {seconds:.1f} s")

    def _write(self, tensors, config: dict, mark: dict) -> None:
        try:
            writer = FolderWriter(self.export_to)
            writer.write_weights(tensors)
            writer.write_json("config.json", config)
            _write_companions(writer, self.tokenizer_model, self.source)
            writer.commit(mark)
        except (OSError, SafetensorError) as error:
            raise WriteError(
                f"--t3s-hf-export {self.export_to}: it cannot be written ({error}). Start the job "
                "again when it can: it goes on from its last checkpoint"
            ) from error


def _check_files(folder: str, config) -> None:
    """What can be known of the weights before the model is there. DataError for files that are
    missing or damaged, MismatchError for another vocabulary than config.json's."""
    files = weight_files(folder)
    known = family_of(config, folder).tensor("embedding.word_embeddings.weight")
    assert known is not None
    name = known[1][0]
    if name not in files:
        raise MismatchError(f"{folder}: it lacks {name}")
    with safe_open(os.path.join(folder, files[name]), framework="pt", device="cpu") as file:
        shape = file.get_slice(name).get_shape()
    if shape[0] != config.vocab_size:
        raise MismatchError(
            f"{folder}: {name} {list(shape)} in {files[name]}, and vocab_size is "
            f"{config.vocab_size} in config.json"
        )


def exported_config(args, source: str | None, what: str) -> tuple[object, dict]:
    """(transformers config, its JSON) of the model that `what` writes: those of the folder `source`
    that the run comes from, or made of the arguments. T3SError when transformers has no such model.
    """
    if source is not None:
        written = read_json(os.path.join(source, "config.json"))
        written.pop("torch_dtype", None)  # older name of dtype
        config = read_config(source)
        ahead = family_of(config, source).predicts_ahead
        if ahead is not None:
            written[ahead] = 0  # these layers are not exported
        return config, written | {"dtype": _dtype_name(args)}
    config, written = config_from_arguments(args, load_tokenizer(args.tokenizer_model), what)
    return config, written | {"dtype": _dtype_name(args)}


def _write_companions(writer: FolderWriter, tokenizer_model: str, source: str | None) -> None:
    tokenizer = load_tokenizer(tokenizer_model)
    writer.write_tokenizer(tokenizer_model, tokenizer)
    name = "generation_config.json"
    if source is not None:
        writer.copy_code(source)
    if source is None or not writer.copy_from(source, [name]):
        ids = {
            key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")
        }
        writer.write_json(name, {k: v for k, v in ids.items() if v is not None})


def _dtype_name(args) -> str:
    return str(args.params_dtype).removeprefix("torch.")


def _resumes(args) -> bool:
    """Whether Megatron loads a checkpoint of this very run.

    T3SError when it would load other weights, only for the folder's to take their place.
    """
    if args.pretrained_checkpoint is not None:
        raise T3SError(
            "--pretrained-checkpoint and --t3s-hf-model both say where theta_0 comes from: drop one"
        )
    if not checkpoint_exists(args.load):
        return False
    if args.finetune:
        raise T3SError(
            f"--finetune starts from the checkpoint in --load {args.load}, and --t3s-hf-model says "
            "that the folder is theta_0: drop one of the two"
        )
    return True
