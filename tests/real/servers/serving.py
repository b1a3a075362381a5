"""Serves an ASGI application on 127.0.0.1 and says where: `--port P` (0 takes a free one), then `listening P` on stdout."""

import argparse
import socket

import uvicorn


class Told(uvicorn.Server):
    """Says that it listens once it does, so that nobody has to guess how long a start takes."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets is not None
        print(f"listening {sockets[0].getsockname()[1]}", flush=True)


def serve(application: object) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    port = parser.parse_args().port
    listener = socket.socket()
    # A server that is killed and started again must get the same port back.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    Told(uvicorn.Config(application, log_level="warning")).run(sockets=[listener])
