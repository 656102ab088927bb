# SPDX-License-Identifier: Apache-2.0
"""The method in the paper's words, with no Megatron and no process group in sight.

Read in this order: `selection` (Eq. 2 to 5), `detector` (Eq. 1), `phases` (how a run uses them),
`residual` (section 2.2).
"""
