# SPDX-License-Identifier: Apache-2.0
"""torchrun ... -m t3s_megatron.pretrain <any Megatron arguments> --t3s --t3s-data FILE ...

A complete entry point for SFT and T3S of GPT models. With `--t3s-data` but without `--t3s` it is
plain Megatron training on the same samples and loss, with nothing of T3S installed.
"""

from __future__ import annotations

import os
import sys
import time

from t3s_megatron import announcement
from t3s_megatron.errors import T3SError
from t3s_megatron.megatron.device import (
    choose_device,
    install_megatron_layer,
    install_torch_layer,
)


def main() -> None:
    started = time.time()
    try:
        on_cpu = choose_device(sys.argv) == "cpu"
        if on_cpu:
            import torch

            torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
            install_torch_layer()
        from t3s_megatron.megatron.plain import PlainTraining
        from t3s_megatron.megatron.releases import call_pretrain, megatron_series, parse_arguments

        megatron_series()  # an unsupported release is refused before anything else
        if on_cpu:
            install_megatron_layer()
        _run(started, PlainTraining, parse_arguments, call_pretrain)
    except T3SError as error:
        # The message is for a person; a traceback through Megatron would bury it.
        if announcement.first_to_say(str(error)):
            print(f"t3s-megatron: error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except Exception as error:
        # Ranks that lose a peer to an error of its own have nothing to add to it.
        if not announcement.was_said():
            raise
        print(f"t3s-megatron: ended with it ({type(error).__name__})", file=sys.stderr, flush=True)
        sys.exit(2)


def _run(started, PlainTraining, parse_arguments, call_pretrain) -> None:
    from t3s_megatron.megatron.model import model_provider
    from t3s_megatron.megatron.process import set_startup_timestamps
    from t3s_megatron.plugin import T3S

    set_startup_timestamps(program_start=started, main_entry=time.time())
    t3s = T3S()
    args = parse_arguments(t3s.add_arguments, {})
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
