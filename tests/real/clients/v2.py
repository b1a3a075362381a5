"""A client on the Python SDK 2.x in legacy mode (initialize, session, GET stream): `v2.py URL`, then lines.py's protocol."""

import lines
from mcp.client.client import Client


async def main(url: str) -> None:
    async with Client(url, mode="legacy", cache=None, read_timeout_seconds=lines.CALL_SECONDS) as client:
        await lines.obey(client.call_tool, client.list_tools)


lines.run(main)
