# SPDX-License-Identifier: Apache-2.0
"""torchrun ... -m t3s_megatron.analysis.trajectory <a run's arguments> --analyse-groups T3S_DIR ...

A training run that is looked at on its way (sections 2.3 and 4.5, Appendix L): with
`--t3s-method sft` the trajectory of plain fine-tuning, which is that of a profile; with
`--t3s-method t3s --t3s-selection-load FILE` one on chosen tokens. Which tokens are anchors is read
from the log-probs of a finished run. Writes DIR/trajectory.json, for `t3s-megatron analyse`.
"""

from __future__ import annotations

from t3s_megatron import pretrain

#: What may be looked at, beside the losses and log-probs of each group.
LOOKS = ("gradients", "one-step", "sketches")


def add_arguments(parser):
    """The run's own arguments, beside Megatron's and `--t3s-`."""
    group = parser.add_argument_group("analyse", "a trajectory that is looked at on its way")
    add = group.add_argument
    add(
        "--analyse-groups",
        required=True,
        metavar="T3S_DIR",
        help="folder of a finished run of the same samples: its log-probs say which are anchors",
    )
    add("--analyse-output", required=True, metavar="DIR", help="where trajectory.json is written")
    add(
        "--analyse",
        nargs="*",
        choices=LOOKS,
        default=[],
        help="gradients: norms and angle of both groups' (Figure 6); one-step: what one step on "
        "each group alone does to the losses of both (Figure 5); sketches: gradients of single "
        "tokens along random directions (Figure 11)",
    )
    add(
        "--analyse-interval",
        type=int,
        default=1,
        help="look before the first step, after every this many and after the last",
    )
    add(
        "--analyse-samples",
        type=int,
        default=0,
        help="take gradients and single steps of this many samples, spread evenly (0: all)",
    )
    add(
        "--analyse-tokens",
        type=int,
        default=256,
        help="tokens that are sketched, half of them anchors, spread evenly over those samples; "
        "each costs a pass forward and backward over its sample",
    )
    add(
        "--analyse-stores",
        action="store_true",
        help="also write the log-probs after each look to DIR/step-N/, from which `t3s-megatron "
        "selection from-stores` makes the selection of that step (Table 8)",
    )
    return parser


def trajectory(inputs, rows, forward):
    """The run; made once Megatron may be imported."""
    from t3s_megatron.analysis.trajectory_run import Trajectory

    return Trajectory(inputs, rows, forward)


def main() -> None:
    pretrain.main(run=trajectory, add_arguments=add_arguments)


if __name__ == "__main__":
    main()
