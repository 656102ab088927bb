# SPDX-License-Identifier: Apache-2.0
"""How good finished students are: `t3s-megatron evaluate`."""
