# SPDX-License-Identifier: Apache-2.0
"""Who answers prompts: the live weights in this process, or an OpenAI-compatible server.

`backend.py` is the interface, `live.py` and `server.py` the two of them. The client of the servers,
how they reload and what tells right weights from wrong ones know nothing of a run.
"""
