# SPDX-License-Identifier: Apache-2.0
"""Was an answer right? Verifiers, and the accuracy that is made of their verdicts."""
