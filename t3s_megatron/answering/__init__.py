# SPDX-License-Identifier: Apache-2.0
"""Who answers prompts: the live weights in this process, or an OpenAI-compatible server.

Nothing here imports Megatron but `live.py`, which asks the room `megatron/` to generate.
"""
