# SPDX-License-Identifier: Apache-2.0
"""A run that is warned of every line at which the host waits for the device, for three steps."""

from __future__ import annotations

import sys

from t3s_megatron.entry import start_process


def main() -> None:
    start_process(sys.argv)
    import torch

    from t3s_megatron import pretrain
    from t3s_megatron.run.t3s import T3SRun

    class Watched(T3SRun):
        def before_step(self, context):
            super().before_step(context)
            torch.cuda.set_sync_debug_mode("warn" if 2 <= context.iteration < 5 else "default")

    pretrain.main(run=Watched)


if __name__ == "__main__":
    main()
