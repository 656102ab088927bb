# SPDX-License-Identifier: Apache-2.0
"""What a person sees of a run: TensorBoard and wandb curves, log lines, the summary, the report."""
