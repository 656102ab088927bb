# SPDX-License-Identifier: Apache-2.0
"""The method in the paper's words, with no Megatron and no process group in sight.

Read in this order: `options` (what a run is asked to do), `selection` (Eq. 2 to 5, and every
method), `detector` (Eq. 1) and `evidence` (how sure it is), `profile` and `phases` (how a run uses
them), `residual` (section 2.2).
"""
