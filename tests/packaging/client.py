"""A client of MCP that keeps one session and starts no other, as most do."""

import http.client
import json

from machine import PATIENCE


class Client:
    """One session at a port of this machine."""

    def __init__(self, port, token=None, host=None):
        self.port, self.session, self.number = port, None, 0
        self.headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        if token:
            self.headers["Authorization"] = f"Bearer {token}"
        if host:
            self.headers["Host"] = host

    def post(self, message):
        """The status, the headers and the last message of the answer."""
        headers = dict(self.headers)
        if self.session:
            headers["Mcp-Session-Id"] = self.session
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("POST", "/mcp", json.dumps(message), headers)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        data = [line[5:] for line in body.splitlines() if line.startswith("data:") and line[5:].strip()]
        text = data[-1] if data else body
        return answer.status, answer.headers, json.loads(text) if text.strip().startswith("{") else text

    def call(self, method, **params):
        """The result of a request that succeeds."""
        self.number += 1
        status, headers, message = self.post({"jsonrpc": "2.0", "id": self.number, "method": method, "params": params})
        assert status == 200 and message.get("id") == self.number and "result" in message, (status, message)
        self.session = self.session or headers["Mcp-Session-Id"]
        return message["result"]

    def open(self):
        """Opens the session."""
        self.call("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "packaging", "version": "1"})
        status, _, _ = self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
        assert status == 202, status
        return self
