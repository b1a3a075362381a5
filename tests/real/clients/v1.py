"""A client on the Python SDK 1.x (1.12.3 and 1.30): `v1.py URL`, then lines.py's protocol."""

from datetime import timedelta

import lines
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client


async def main(url: str) -> None:
    async with streamablehttp_client(url, headers=lines.headers()) as (read, write, _):
        async with ClientSession(read, write, read_timeout_seconds=timedelta(seconds=lines.CALL_SECONDS)) as session:
            await session.initialize()
            await lines.obey(session.call_tool, session.list_tools)


lines.run(main)
