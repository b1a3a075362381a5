"""A client on the Python SDK 1.x that launches its server itself: `stdio.py COMMAND [ARGUMENTS]`, then lines.py's protocol."""

import os
import sys
from datetime import timedelta

import lines
from mcp import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client


async def main(command: str) -> None:
    # The SDK hands over only a few variables unless it is told to.
    server = StdioServerParameters(command=command, args=sys.argv[2:], env=dict(os.environ))
    async with stdio_client(server) as (read, write):
        async with ClientSession(read, write, read_timeout_seconds=timedelta(seconds=lines.CALL_SECONDS)) as session:
            await session.initialize()
            await lines.obey(session.call_tool, session.list_tools)


lines.run(main)
