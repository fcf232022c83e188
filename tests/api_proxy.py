"""A proxy in front of the kind cluster's API server that counts every request and can play an outage.

Plain HTTP on loopback, so that what a process asks for is seen whatever library asks: give it `kubeconfig`.
It speaks to the API server as the cluster's administrator.
"""

import asyncio
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import aiohttp
import yaml
from aiohttp import web

from kube import Cluster
from muster_operator.adapters.connection import from_kubeconfig
from servers import free_port

PASSED_ON = ("accept", "content-type")


@dataclass(frozen=True)
class Asked:
    """One request that reached the API server."""

    verb: str
    path: str
    watch: bool


class ApiProxy:
    """Usable as a context manager. `asked` are all requests so far."""

    def __init__(self, cluster: Cluster) -> None:
        config = yaml.safe_load(cluster.kubeconfig.read_text())
        self._upstream = from_kubeconfig(config, cluster.kubeconfig.parent)
        self.asked: list[Asked] = []
        self._port = free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="muster-proxy-")
        self.kubeconfig = Path(self._folder.name) / "kubeconfig"
        server = {"server": f"http://127.0.0.1:{self._port}"}
        self.kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "current-context": "proxy",
                    "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
                    "clusters": [{"name": "proxy", "cluster": server}],
                    "users": [{"name": "proxy", "user": {}}],
                }
            )
        )

    def __enter__(self) -> Self:
        self._thread.start()
        self.resume()
        return self

    def __exit__(self, *_: object) -> None:
        self.outage()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._folder.cleanup()

    def resume(self) -> None:
        """Answer (again)."""
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(20)

    def outage(self) -> None:
        """Close every connection and answer nobody, until `resume`."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(20)

    async def _start(self) -> None:
        connector = aiohttp.TCPConnector(ssl=self._upstream.tls(), limit=0)
        self._session = aiohttp.ClientSession(connector=connector)
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()

    async def _end(self) -> None:
        runner, session, self._runner, self._session = self._runner, self._session, None, None
        if session is not None:
            await session.close()
        if runner is not None:
            await runner.cleanup()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:  # answers that were still streaming
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(Asked(request.method, request.path, "watch" in request.query))
        assert self._session is not None
        headers = {name: value for name, value in request.headers.items() if name.lower() in PASSED_ON}
        async with self._session.request(
            request.method,
            self._upstream.server + request.path_qs,
            data=await request.read() or None,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None),
        ) as answer:
            kept = {"Content-Type": answer.headers.get("Content-Type", "application/json")}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for part in answer.content.iter_any():
                await response.write(part)
            return response
