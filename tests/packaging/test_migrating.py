"""docs/migrating.md and packaging/README.md: their settings are served, and their commands know every flag."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import unittest

from client import Client
from machine import PATIENCE, Machine, until
from repository import BINARIES, ROOT, skipped

DAEMONS = {path.name for path in (ROOT / "bins").iterdir()}
MIGRATING = (ROOT / "docs/migrating.md").read_text()
TOKENS = {"terminal-a": "terminal-a-has-a-long-token", "terminal-b": "terminal-b-has-another-token"}


def blocks(kind, text=MIGRATING):
    """The fenced blocks of a language."""
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.M | re.S)


def settings(name, words=""):
    """The block that begins with the name of its file, and has these words."""
    [found] = [it for it in blocks("toml") if it.startswith(f"# {name}\n") and words in it]
    return found


def commands():
    """Each command of a daemon in the blocks of both documents, without what other programs do before it."""
    found = [json.loads(it) for it in blocks("json")]
    for server in [server for it in found for server in it["mcpServers"].values()]:
        yield [server["command"], *server["args"]]
    for block in blocks("sh") + blocks("sh", (ROOT / "packaging/README.md").read_text()):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            starts = [at for at, word in enumerate(words) if word in DAEMONS]
            if starts and "podman" not in words:
                end = [at for at in range(starts[0], len(words)) if words[at] == "&&"]
                yield words[starts[0]:end[0] if end else None]


class Documents(unittest.TestCase):
    def test_every_flag_of_every_command_is_one(self):
        tried = 0
        for command in commands():
            known = self.help(command[:1])
            words = command[1:]
            path = command[:1]
            while words and re.fullmatch("[a-z]+", words[0]) and re.search(rf"^  {words[0]}\s", known, re.M):
                path.append(words.pop(0))
                known = self.help(path)
            for flag in [word for word in words if word.startswith("--") and word != "--"]:
                self.assertRegex(known, rf"(?m)^  {flag}\s", " ".join(command))
                tried += 1
        self.assertGreater(tried, 15)

    def help(self, path):
        done = subprocess.run([BINARIES / path[0], *path[1:], "--help"], stdout=subprocess.PIPE, text=True)
        self.assertEqual(done.returncode, 0, path)
        return done.stdout

    def test_links_lead_somewhere(self):
        for name in ["docs/migrating.md", "packaging/README.md"]:
            text = (ROOT / name).read_text()
            for target in re.findall(r"\]\(([^)]+)\)", text):
                file, _, anchor = target.partition("#")
                path = (ROOT / name).parent / file if file else ROOT / name
                self.assertTrue(path.exists(), f"{name}: {target}")
                if anchor:
                    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
                    anchors = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
                    self.assertIn(anchor, anchors, f"{name}: {target}")


class FromTheCloudflareWrapper(unittest.TestCase):
    @unittest.skipUnless(shutil.which("openssl"), "openssl is not on PATH")
    def test_each_token_has_a_serena_and_a_bridge_reaches_it_through_tls(self):
        with Machine() as machine:
            etc = machine.directory("etc")
            mounts = {
                "/etc/serena-mcp": etc, "/run/mcp-sessiond": machine.directory("front"),
                "/run/serena": machine.directory("run"), "/var/lib/serena": machine.directory("homes")}
            certificate(etc)
            (etc / "tokens.json").write_text(json.dumps(TOKENS))
            (etc / "tokens.json").chmod(0o600)
            stack = []
            for name, how in [("serena-supervise", ["run"]), ("mcp-sessiond", []), ("mcp-authd", ["serve"])]:
                words = [name, *how, "--config", f"{name}.toml"]
                # One place for the snapshots of all homes, and a home for what a daemon keeps of itself.
                own = {"HOME": f"/{name}", "XDG_RUNTIME_DIR": f"/{name}/run"}
                container = machine.container(name, words, mounts | {f"/{name}": machine.directory(name)}, own)
                container.environment.pop("SERENA_HOME")
                machine.directory(f"{name}/run")
                words = f"{name}.toml", "[tls]" if name == "mcp-authd" else ""
                (machine.root / f"{name}.toml").write_text(container.moved(settings(*words)))
                code, said = container.run([name, "check", "--config", f"{name}.toml"])
                self.assertEqual(code, 0, said)
                stack.append(container.start())
                until(f"{name} answers", lambda: container.alive() and container.run([name, "status"])[0] == 0)
            for name, token in TOKENS.items():
                with Bridge(machine, token) as client:
                    client("tools/list")
                    os.kill(machine.pid_of_serena(), signal.SIGKILL)
                    client("tools/list")
                (machine.root / "homes" / name / "serena_config.yml").write_text("projects: []\n")
            for container in reversed(stack):
                self.assertEqual(container.stop(), 0, container.said())
            store = machine.root / "serena-supervise/.local/state/serena-snapshotd/store"
            self.assertEqual({it.name for it in store.iterdir() if it.is_dir()}, set(TOKENS))


class FromAGateway(unittest.TestCase):
    def test_its_jwts_are_good(self):
        with Machine() as machine:
            etc = machine.directory("etc")
            (etc / "jwt-secret").write_text("0123456789abcdef0123456789abcdef")
            (etc / "jwt-secret").chmod(0o600)
            mounts = {"/etc/serena-mcp": etc, "/state": machine.directory("state")}
            own = {"HOME": "/state", "XDG_RUNTIME_DIR": "/state/run"}
            machine.directory("state/run")
            backend = machine.container(
                "backend", ["fake-backend", "--port", str(machine.port(8080)), "--log", str(machine.journal)], mounts, own).start()
            sessiond = machine.container(
                "sessiond", ["mcp-sessiond", "--listen", "0.0.0.0:9121", "--upstream", f"http://127.0.0.1:{machine.port(8080)}/mcp"],
                mounts, own).start()
            authd = machine.container("authd", ["mcp-authd", "serve", "--config", "authd.toml", "--listen", "0.0.0.0:9120"], mounts, own)
            text = settings("mcp-authd.toml", "[[jwt]]").replace("127.0.0.1:9121", f"127.0.0.1:{machine.port(9121)}")
            (machine.root / "authd.toml").write_text(authd.moved(text))
            authd.start().healthy(["mcp-authd", "status"])
            [sign] = [it for it in commands() if it[:3] == ["mcp-authd", "token", "jwt"]]
            code, token = authd.run(sign)
            self.assertEqual(code, 0, token)
            Client(machine.port(9120), token.split()[-1]).open().call("tools/list")
            forged = token.split()[-1][:-4] + "AAAA"
            self.assertEqual(Client(machine.port(9120), forged).post({"jsonrpc": "2.0", "id": 1, "method": "ping"})[0], 401)
            for container in (authd, sessiond, backend):
                container.stop()


class FromThePatch(unittest.TestCase):
    def test_a_session_from_before_goes_on_and_the_old_path_says_where_to_go(self):
        with Machine() as machine:
            mounts = {"/state": machine.directory("state")}
            own = {"HOME": "/state", "XDG_RUNTIME_DIR": "/state/run"}
            machine.directory("state/run")
            serena = ["fake-backend", "--port", str(machine.port(8080)), "--log", str(machine.journal)]
            backend = machine.container("backend", serena, mounts, own).start()
            until("it listens", lambda: backend.alive() and backend.answers(8080, "/mcp"))
            # Made with the server itself, which is then restarted: nobody knows this session any more.
            client = Client(machine.port(8080)).open()
            backend.crash()
            backend.start()
            sessiond = machine.container(
                "sessiond", ["mcp-sessiond", "--listen", "0.0.0.0:9121", "--upstream", f"http://127.0.0.1:{machine.port(8080)}/mcp"],
                mounts, own).start()
            sessiond.healthy(["mcp-sessiond", "status"])
            client.port = machine.port(9121)
            client.call("tools/list")
            self.assertEqual(sessiond.answers(9121, "/sse"), 404)
            code, said = sessiond.run(["mcp-sessiond", "doctor", "--upstream", f"http://127.0.0.1:{machine.port(8080)}/mcp"])
            self.assertEqual(code, 0, said)
            sessiond.stop()


def certificate(directory):
    """cert.pem and key.pem for 127.0.0.1, signed by itself."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-addext", "basicConstraints=CA:FALSE",
         "-keyout", directory / "key.pem", "-out", directory / "cert.pem"], check=True, stderr=subprocess.DEVNULL)
    (directory / "key.pem").chmod(0o600)


class Bridge:
    """The command that a client launches, as the section about mcp-remote has it."""

    def __init__(self, machine, token):
        [server] = [it for block in blocks("json") for it in json.loads(block)["mcpServers"].values()]
        file = machine.root / "token"
        file.write_text(token)
        file.chmod(0o600)
        moved = {"https://mcp.example.org/mcp": f"https://127.0.0.1:{machine.port(443)}/mcp", "/home/me/.config/serena-token": str(file)}
        self.command = [BINARIES / server["command"], *[moved.get(word, word) for word in server["args"]]]
        self.environment = {"PATH": "/usr/bin:/bin", "SSL_CERT_FILE": str(machine.root / "etc/cert.pem")}
        self.number = 0

    def __enter__(self):
        self.process = subprocess.Popen(
            self.command, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "packaging", "version": "1"})
        self._write({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return self

    def __call__(self, method, **params):
        self.number += 1
        self._write({"jsonrpc": "2.0", "id": self.number, "method": method, "params": params})
        for line in self.process.stdout:
            message = json.loads(line)
            if message.get("id") == self.number:
                assert "result" in message, message
                return message["result"]
        raise AssertionError("the bridge ended")

    def _write(self, message):
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(PATIENCE)
        self.process.stdout.close()


def load_tests(_loader, tests, _pattern):
    if not shutil.which("openssl"):
        skipped("the settings for those who come from the Cloudflare wrapper because openssl is not on PATH")
    return tests


if __name__ == "__main__":
    unittest.main()
