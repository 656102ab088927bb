# SPDX-License-Identifier: Apache-2.0
"""Students that learn by block diffusion (section 4.3, Appendix D): noise, rows and forced tokens.

No Megatron and no processes. An autoregressive selector's run says which tokens fell; here they
become part of the random mask of ordinary block-diffusion fine-tuning.
"""
