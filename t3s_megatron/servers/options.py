# SPDX-License-Identifier: Apache-2.0
"""Arguments about servers that answer for the student (`--t3s-generation server`)."""

from __future__ import annotations

from dataclasses import dataclass

from t3s_megatron.errors import T3SError
from t3s_megatron.options import FILLED_IN, option
from t3s_megatron.servers.exchange import base_url
from t3s_megatron.servers.reload import RELOADS
from t3s_megatron.servers.sleeping import SLEEPERS


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Where servers are, how they get the weights, and what is expected of them."""

    server_url: tuple[str, ...] = option(
        (), "servers of --t3s-generation server: http://HOST:PORT ...", free=True
    )
    server_reload: str = option(
        "model",
        "how a server gets the weights: model, the folder is the model's name in a request "
        "(transformers serve); sglang, vllm: their own call; command: --t3s-server-reload-command",
        choices=RELOADS,
        free=True,
    )
    server_reload_command: str | None = option(
        None,
        "run in a shell with the weights' folder in T3S_WEIGHTS; then /health is waited for",
        free=True,
    )
    server_reload_timeout: float = option(
        600.0, "seconds that loading the weights may take", above=0, free=True
    )
    server_colocated: bool = option(
        False,
        "the servers (vLLM) are on the GPUs of the job: they sleep but while they are "
        "asked, and --t3s-server-weights may be a folder of each node's own",
        free=True,
    )
    server_weights: str = option(
        FILLED_IN,
        "folder for the weights, shared by the job and the servers (default: weights/ inside "
        "--t3s-dir)",
        free=True,
    )
    server_model: str | None = option(
        None,
        "the model's name at sglang, vllm and command (default: the only one it has)",
        free=True,
    )
    server_concurrency: int = option(
        FILLED_IN,
        "requests in flight at each URL (default: 1 with --t3s-server-reload model, so that "
        "transformers serve keeps to the seeds; else 64)",
        at_least=1,
        free=True,
    )
    server_timeout: float = option(
        600.0, "seconds that a server has for one answer", above=0, free=True
    )
    server_retries: int = option(
        4, "how often a request that failed is sent again", at_least=0, free=True
    )
    server_agreement: float = option(
        0.8,
        "a server whose greedy answers to a few prompts agree less than this with the live "
        "weights' is not believed: 0 to 1",
        at_least=0,
        at_most=1,
        free=True,
    )

    def check_servers(self) -> None:
        """T3SError for servers that could not be asked."""
        if not self.server_url:
            raise T3SError("--t3s-generation server needs --t3s-server-url: http://HOST:PORT")
        for url in self.server_url:
            base_url(url)
        if (self.server_reload == "command") != bool(self.server_reload_command):
            raise T3SError(
                "--t3s-server-reload command and --t3s-server-reload-command go together: give "
                "both or neither"
            )
        if self.server_colocated and self.server_reload not in SLEEPERS:
            raise T3SError(
                f"--t3s-server-colocated: a server of --t3s-server-reload {self.server_reload} "
                f"cannot be put to sleep and woken again; one of {' or '.join(SLEEPERS)} can"
            )
