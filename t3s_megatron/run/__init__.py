# SPDX-License-Identifier: Apache-2.0
"""Where the rooms meet: a run in Megatron's loop, its inputs, and what survives a kill of it."""
