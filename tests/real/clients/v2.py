"""A client on the Python SDK 2.x in legacy mode (initialize, session, GET stream): `v2.py URL`, then lines.py's protocol."""

import lines
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client


async def main(url: str) -> None:
    async with create_mcp_http_client(headers=lines.headers()) as http:
        server = streamable_http_client(url, http_client=http)
        async with Client(server, mode="legacy", cache=None, read_timeout_seconds=lines.CALL_SECONDS) as client:
            await lines.obey(client.call_tool, client.list_tools)


lines.run(main)
