# SPDX-License-Identifier: Apache-2.0
"""Servers on the job's own GPUs (`--t3s-server-colocated`): asleep but while they are asked.

A vLLM that sleeps has given its weights and its keys and values back to the GPU, and keeps the
process. It wakes in two steps, so that the memory for keys and values is taken only after the
weights have been loaded:

    POST /sleep?level=2             discards both; level 1 would copy the weights to the host first
    POST /wake_up?tags=weights      memory that holds nothing: a reload has to follow
    POST /wake_up?tags=kv_cache     it answers from here on

They exist with VLLM_SERVER_DEV_MODE=1 and work with --enable-sleep-mode, which vLLM has on CUDA
only. Each may be asked again without harm, whatever the server did before. SGLang's like
(/release_memory_occupation, /resume_memory_occupation) may not: to resume what was not released
ends its scheduler, and nothing says which of the two came last, so a job that was killed could not
go on with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from t3s_megatron.errors import T3SError
from t3s_megatron.servers.exchange import ServerError, exchange

#: Kinds of --t3s-server-reload whose servers can be put to sleep.
SLEEPERS = ("vllm",)


def wake_for_weights(url: str, timeout: float) -> None:
    """Let the server at `url` take the memory of its weights. ServerError."""
    _ask(f"{url}/wake_up?tags=weights", timeout)


def wake_for_answers(url: str, timeout: float) -> None:
    """Let the server at `url`, whose weights are loaded, take the memory of keys and values.
    ServerError."""
    _ask(f"{url}/wake_up?tags=kv_cache", timeout)


def put_to_sleep(urls: Sequence[str], timeout: float, tell: Callable[[str], None]) -> list[str]:
    """Put all servers to sleep, those too that sleep or are half awake; what is wrong with each
    that is not there, after telling it. Its memory went with it.

    T3SError for one that is there and does not go to sleep: training cannot have that memory.
    """
    gone: list[str] = []
    awake: list[str] = []
    with ThreadPoolExecutor(len(urls)) as threads:  # each may have requests to break off
        asked = [threads.submit(_ask, f"{url}/sleep?level=2", timeout) for url in urls]
    for one in asked:
        error = one.exception()
        if isinstance(error, ServerError):
            (gone if error.unreachable else awake).append(str(error))
        elif error is not None:
            raise error
    for why in gone:
        tell(why)
    if awake:
        raise T3SError(
            f"a server on the GPUs of this job does not go to sleep: {'; '.join(awake)}. It holds "
            "memory that training needs: end it, and start both again; the job goes on from its "
            "last checkpoint"
        )
    return gone


def _ask(url: str, timeout: float) -> None:
    exchange("POST", url, {}, timeout=timeout).require_success()
