"""The Python SDK's own reference server of the conformance suite (both eras), unpacked from its source distribution."""

import serving
from mcp_everything_server.server import event_store, mcp

# The retry interval is the one its own command line uses; the suite measures the pause it asks for.
serving.serve(mcp.streamable_http_app(event_store=event_store, retry_interval=100))
