# SPDX-License-Identifier: Apache-2.0
"""The only room that imports Megatron. Nothing else in the project depends on a Megatron release.

Importing this package imports nothing: `device` has to act before the first `import megatron`.
"""
