# SPDX-License-Identifier: Apache-2.0
"""T3S for a Megatron pretrain script: three added lines.

    from t3s_megatron.plugin import T3S                                              # 1
    t3s = T3S(extra_args_provider)                                                   # 2
    args = parse_and_validate_args(extra_args_provider=t3s.add_arguments)
    provider, forward_step = t3s.attach(provider, forward_step, args)                # 3
    pretrain(..., provider, ..., forward_step, ...)

Without `--t3s`, `attach` hands back what it was given and nothing else happens. With it, samples,
rows and loss are T3S's (a selection has to know which sample stands in which row); the model, the
optimizer and every Megatron argument stay the script's own.

`T3S(run=MyRun)` makes it another kind of run: see `run.base.Run` for what that overrides.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from t3s_megatron.config import add_t3s_arguments
from t3s_megatron.data.durable import check_folder
from t3s_megatron.data.places import check_places
from t3s_megatron.huggingface.arguments import take_from_folder
from t3s_megatron.run.inputs import Inputs, check_tokenizer_argument, read_inputs
from t3s_megatron.servers.exchange import ServerError, base_url
from t3s_megatron.servers.sleeping import put_to_sleep

if TYPE_CHECKING:
    from t3s_megatron.megatron.hf_folders import HuggingFaceFolders
    from t3s_megatron.megatron.seam import Seam
    from t3s_megatron.megatron.source_seam import SourceSeam
    from t3s_megatron.megatron.student import StudentTensors
    from t3s_megatron.run.base import KindOfRun, Run


class T3S:
    """One T3S run in this process; make a new one for each `pretrain` call."""

    def __init__(
        self,
        extra_args_provider: Callable | None = None,
        *,
        run: KindOfRun | None = None,
        random_model: bool = False,
    ):
        """`run`: the kind of run, called once all input is read; None: a `T3SRun`, or with
        --t3s-diffusion a `DiffusionRun`. `random_model`: the script's model starts as random
        numbers, so that a run without a student is refused."""
        self._extra_args_provider = extra_args_provider
        self._kind = run
        self._random_model = random_model
        self._inputs: Inputs | None = None
        self._run: Run | None = None
        self._folders: HuggingFaceFolders | None = None
        self._student: list[StudentTensors] = []
        self.seam: Seam | SourceSeam | None = None

    def add_arguments(self, parser):
        """`extra_args_provider` for Megatron: the script's own, then the `--t3s` group. What a
        `--t3s-hf-model` folder says of the model becomes the parser's defaults.

        T3SError for a tokenizer that is not there, which Megatron would look for on the hub, and
        for arguments that are not those of the folder.
        """
        check_tokenizer_argument(sys.argv[1:])
        if self._extra_args_provider is not None:
            parser = self._extra_args_provider(parser)
        return take_from_folder(add_t3s_arguments(parser), sys.argv[1:])

    def attach(self, provider: Callable, forward_step: Callable, args=None):
        """(data provider, forward step) for `pretrain`. Reads and checks all input.

        `args`: Megatron's validated namespace. In 0.17, where `pretrain` parses by itself, leave it
        out: the checks then run when Megatron asks for data. Raises T3SError.
        """
        folders = _asked_for(args, "--t3s-hf-model", "--t3s-hf-export")
        if folders and args is not None:
            self._check_folders(args)
        if not _asked_for(args, "--t3s"):
            if folders:
                provider = self._with_folders(provider)
            return provider, forward_step
        from t3s_megatron.megatron.batches import take_over_batches
        from t3s_megatron.run.students import training_forward

        if args is not None:
            self._prepare(args)
            take_over_batches(args)
        forward = training_forward(args)

        def data_provider(num_samples, vp_stage=None):
            return self._training_batches(forward), None, None

        data_provider.__dict__["is_distributed"] = True  # every rank builds its own rows
        return data_provider, forward

    def _with_folders(self, provider: Callable) -> Callable:
        """The script's own provider; on its first call, Hugging Face folders join the training."""

        @functools.wraps(provider)
        def data_provider(*args, **kwargs):
            self._install()
            return provider(*args, **kwargs)

        return data_provider

    def _check_folders(self, args) -> list:
        """[their callback], or nothing."""
        if self._folders is None and (args.t3s_hf_model or args.t3s_hf_export):
            from t3s_megatron.megatron.hf_folders import HuggingFaceFolders

            self._folders = HuggingFaceFolders(args)
        return [] if self._folders is None else [self._folders]

    def _install(self) -> Seam | SourceSeam:
        """Megatron's events, for the weights' folders before the run."""
        from t3s_megatron.megatron.process import get_args
        from t3s_megatron.megatron.source_seam import install_seam

        if self.seam is None:
            run = [] if self._run is None else [self._run]
            self.seam = install_seam(*self._check_folders(get_args()), *self._student, *run)
        return self.seam

    def _prepare(self, args) -> Inputs:
        if self._inputs is None:
            check_places(args)
            from t3s_megatron.megatron.installation import check_installation, repair_installation

            repair_installation()  # for a script that does not begin with `start_process`
            check_installation(args)
            self._inputs = read_inputs(args)
            self._check_weights(self._inputs, args)
            if self._inputs.config.generation == "server":
                from t3s_megatron.megatron.hf_folders import exported_config

                exported_config(args, args.t3s_hf_model, "--t3s-generation server")
                self._free_the_gpus(self._inputs.config)
            # On every rank: each writes its own part, and may see another file system.
            check_folder(os.path.join(self._inputs.config.dir, "state"))
            if self._inputs.config.selection_save:
                check_folder(os.path.dirname(os.path.abspath(self._inputs.config.selection_save)))
        return self._inputs

    @staticmethod
    def _free_the_gpus(config) -> None:
        """Before the model is built, and also where nothing will be asked: a server is awake after
        its start, and beside a job that was killed. The other ranks wait for this one when they
        join the process group."""
        if config.server_colocated and os.environ.get("RANK", "0") == "0":
            urls = [base_url(url) for url in config.server_url]
            gone = put_to_sleep(
                urls, config.server_reload_timeout, lambda why: print(f"[t3s] {why}", flush=True)
            )
            if len(gone) == len(urls):
                raise ServerError(f"--t3s-server-colocated: no server is there: {'; '.join(gone)}")

    def _check_weights(self, inputs: Inputs, args) -> None:
        """What Megatron is about to load is this run's checkpoint, or else the student that the
        arguments describe."""
        from t3s_megatron.megatron import student
        from t3s_megatron.run.continuation import check_continuation

        check_continuation(inputs, args)
        if student.loaded_iteration(args) is not None:
            student.keep_vocabulary(args)
            return
        if args.t3s_hf_model:
            return
        source = student.find_student(args, required=self._random_model)
        if source is not None:
            student.take_vocabulary(args, source.name, len(inputs.tokenizer))
            self._student = [student.StudentTensors(source)]

    def _training_batches(self, forward):
        """This rank's batches for one (virtual) stage; on the first call also the run and seam."""
        from t3s_megatron.megatron.batches import TrainingBatches
        from t3s_megatron.megatron.process import get_args
        from t3s_megatron.run.students import training_rows

        args = get_args()
        inputs = self._prepare(args)
        if self._run is None:
            self._run = self._start(args, inputs, training_rows(inputs), forward)
            self._run.seam = self._install()
        return TrainingBatches(self._run.rows, inputs.training_rows, args.consumed_train_samples)

    def _start(self, args, inputs: Inputs, rows, forward) -> Run:
        from t3s_megatron.data.showing import show_samples
        from t3s_megatron.megatron.batches import take_over_batches
        from t3s_megatron.megatron.nodes import require_equal, require_shared_folder
        from t3s_megatron.megatron.process import print_rank_0
        from t3s_megatron.run.identity import identity
        from t3s_megatron.run.students import usual_run

        if args.save:
            require_shared_folder("--save", args.save)
        require_shared_folder("--t3s-dir", inputs.config.dir)
        require_equal(identity(inputs))
        shown = inputs.config.show_samples
        for line in show_samples(
            inputs.corpus, inputs.tokenizer, shown, colours=sys.stdout.isatty()
        ):
            print_rank_0(f"[t3s] {line}")
        take_over_batches(args)  # there is no validation set: accuracy takes its place
        return (self._kind or usual_run(inputs))(inputs, rows, forward)


def _asked_for(args, *names: str) -> bool:
    """Whether one of these arguments was given; from the command line where Megatron's `pretrain`
    parses by itself."""
    if args is None:
        return any(word.split("=")[0] in names for word in sys.argv)
    return any(getattr(args, name.lstrip("-").replace("-", "_")) for name in names)
