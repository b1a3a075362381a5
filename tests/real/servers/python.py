"""A server on the Python SDK, whichever is installed: FastMCP of 1.x, MCPServer of 2.x. Stateful sessions, SSE answers.

Tools: `echo` (reads only), `count` (changes this process), `sleep` (a slow one), `pid` (tells processes apart).
"""

import os

import anyio
import serving
from mcp.types import ToolAnnotations

try:
    from mcp.server.mcpserver import MCPServer as Server
except ImportError:
    from mcp.server.fastmcp import FastMCP as Server

server = Server("real")
counted = 0


def hint(read_only: bool) -> ToolAnnotations:
    # By its name on the wire, which both generations of the SDK take.
    return ToolAnnotations.model_validate({"readOnlyHint": read_only})


@server.tool(annotations=hint(read_only=True))
def echo(text: str) -> str:
    """Returns the text."""
    return text


@server.tool(annotations=hint(read_only=False))
def count() -> str:
    """How often this was called in this process."""
    global counted
    counted += 1
    return str(counted)


@server.tool(annotations=hint(read_only=False))
async def sleep(seconds: float) -> str:
    """Waits, then says so."""
    await anyio.sleep(seconds)
    return f"slept {seconds:g} s"


@server.tool(annotations=hint(read_only=True))
def pid() -> str:
    """The id of the process that answers."""
    return str(os.getpid())


serving.serve(server.streamable_http_app())
