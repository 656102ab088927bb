# GPUs: NVIDIA's PyTorch, which brings Transformer Engine, Apex' kernels and NCCL, and this project.
#
#   docker build -t t3s-megatron .
#
# The tag is the one that Megatron-LM's own development image starts from (its docker/.ngc_version.dev
# in August 2026). How to check an image: docs/cluster.md.
ARG BASE=nvcr.io/nvidia/pytorch:26.08-py3
FROM ${BASE}

WORKDIR /opt/t3s-megatron
COPY . .

# The container's torch is what its Transformer Engine was built for: pip may not put another in its
# place. `transformer-engine` itself is therefore not asked for (no extra `gpu`).
RUN torch() { python -c 'import torch; print(torch.__version__, torch.version.cuda)'; } \
    && before=$(torch) \
    && pip install --no-cache-dir '.[server,verification]' \
    && after=$(torch) \
    && if [ "$before" != "$after" ]; then \
           echo "pip has replaced torch $before by $after: choose another BASE" >&2; exit 1; fi \
    && python -c "from importlib.util import find_spec as find; \
lacking = [n for n in ('transformer_engine', 'megatron.training', 't3s_megatron') if not find(n)]; \
assert not lacking, lacking"
