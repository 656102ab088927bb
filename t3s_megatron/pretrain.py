# SPDX-License-Identifier: Apache-2.0
"""torchrun ... -m t3s_megatron.pretrain <any Megatron arguments> --t3s --t3s-data FILE ...

A complete entry point for SFT and T3S of GPT models. With `--t3s-data` but without `--t3s` it is
plain Megatron training on the same samples and loss, with nothing of T3S installed.

A script of your own that wants another kind of run calls `main(run=...)`; `run.base.Run` says what
that overrides, and `main` what a script has to mind.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from t3s_megatron.entry import one_error, start_process

if TYPE_CHECKING:
    from t3s_megatron.run.base import KindOfRun


def main(
    run: KindOfRun | None = None,
    *,
    needs_student: bool = True,
    add_arguments: Callable | None = None,
) -> None:
    """`run`: the kind of run that `--t3s` makes; None: a `T3SRun`.

    A subclass of `run.base.Run`; or, since importing that imports Megatron, and on a CPU the device
    layer has to come first, a function `(inputs, rows, forward)` that imports it when it is called.
    `needs_student`: refuse a run that would train random numbers. `add_arguments`: of the script's
    own, from parser to parser.
    """
    started = time.time()
    with one_error():
        start_process(sys.argv)
        _pretrain(started, run, needs_student, add_arguments)


def _pretrain(
    started: float, run: KindOfRun | None, needs_student: bool, add_arguments: Callable | None
) -> None:
    from t3s_megatron.megatron.model import check_model_arguments, model_provider
    from t3s_megatron.megatron.process import set_startup_timestamps
    from t3s_megatron.megatron.releases import call_pretrain, parse_arguments
    from t3s_megatron.plugin import T3S
    from t3s_megatron.run.plain import PlainTraining

    set_startup_timestamps(program_start=started, main_entry=time.time())
    t3s = T3S(add_arguments, run=run, random_model=needs_student)
    args = parse_arguments(t3s.add_arguments, {})
    check_model_arguments(args)
    plain = PlainTraining(args)
    data_provider, forward_step = t3s.attach(plain.data_provider, plain.forward_step, args)
    call_pretrain(
        args,
        data_provider=data_provider,
        model_provider=model_provider,
        forward_step=forward_step,
        extra_args_provider=t3s.add_arguments,
        args_defaults={},
    )


if __name__ == "__main__":
    main()
