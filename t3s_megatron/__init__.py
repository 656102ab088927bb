# SPDX-License-Identifier: Apache-2.0
"""Training-Trajectory-Aware Token Selection (T3S) inside Megatron-LM's own training loop.

Paper: "Training-Trajectory-Aware Token Selection", arXiv:2601.10348.

`t3s_megatron.method` is the method, readable without Megatron; `t3s_megatron.megatron` is the
one package that imports Megatron; `t3s_megatron.plugin` joins them.
"""

__version__ = "0.1.0"
