# SPDX-License-Identifier: Apache-2.0
"""From a published dataset to the samples that a run trains on: the prompts, the teachers' answers
to them, and one verified answer of each teacher to each prompt (Appendix I of the paper)."""
