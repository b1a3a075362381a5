"""packaging/compose.yaml: its services run as processes, with its commands, settings, volumes and secrets."""

import os
import shutil
import signal
import subprocess
import unittest
import urllib.request

import yaml

from client import Client
from machine import Machine, until
from repository import BINARIES, PACKAGING, interpolated

# In the order of `depends_on`.
ORDER = ["snapshotd", "supervise", "sessiond", "authd"]


def services():
    """The file, with its variables as on a machine that sets only what must be set."""
    text = (PACKAGING / "compose.yaml").read_text()
    return yaml.safe_load(interpolated(text, {"PROJECT": "/home/me/project"}))


class Compose:
    """The stack on a machine."""

    def __init__(self, machine):
        self.file, self.machine = services(), machine
        self.tokens = machine.directory("volumes/secrets") / "tokens.toml"
        token = subprocess.run(
            [BINARIES / "mcp-authd", "token", "new", "me", "--route", "default", "--tokens", self.tokens],
            check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.token = token.stdout.strip()
        self.service = {name: self._container(name) for name in self.file["services"]}

    def _container(self, name):
        service, mounts = self.file["services"][name], {}
        for volume in service["volumes"]:
            source, target = volume.split(":")[:2]
            if target == "/etc/serena-mcp":
                assert (PACKAGING / source).is_dir(), source
                mounts[target] = self.machine.directory(f"{name}-etc")
            else:
                mounts[target] = self.machine.directory(f"volumes/{source.strip('./')}")
        container = self.machine.container(name, service["command"], mounts)
        for file in (PACKAGING / "container/etc").iterdir():
            (self.machine.root / f"{name}-etc" / file.name).write_text(container.moved(file.read_text()))
        return container

    def health(self, name):
        """Its health command."""
        kind, *command = self.file["services"][name]["healthcheck"]["test"]
        assert kind == "CMD"
        return command

    def up(self):
        """Starts all, each when those that it needs are healthy."""
        for name in ORDER:
            for needed in self.file["services"][name].get("depends_on", {}):
                self.service[needed].healthy(self.health(needed))
            self.service[name].start()
        for name in ORDER:
            self.service[name].healthy(self.health(name))

    def down(self):
        """Stops all, in the other order; each must end well."""
        for name in reversed(ORDER):
            code = self.service[name].stop()
            assert code == 0, f"{name}: {code}: {self.service[name].said()}"


class TheStack(unittest.TestCase):
    def test_every_service_is_checked_by_its_own_daemon(self):
        with Machine() as machine:
            stack = Compose(machine)
            for name, container in stack.service.items():
                words = stack.file["services"][name]["command"]
                flags = [word for word in words[1:] if word not in ("run", "serve")]
                code, said = container.run([words[0], "check", *flags])
                self.assertEqual(code, 0, said)

    def test_volumes_are_declared_and_the_image_has_their_places(self):
        file = services()
        text = (PACKAGING / "container/Containerfile").read_text()
        used = set()
        for service in file["services"].values():
            for volume in service["volumes"]:
                source, target = volume.split(":")[:2]
                if not source.startswith((".", "/")):
                    used.add(source)
                    # A new volume gets the owner of the place that the image has there.
                    self.assertRegex(text, rf"install -d -o [^&]* {target}\b")
            self.assertTrue(service["read_only"])
            self.assertEqual(service["cap_drop"], ["ALL"])
        self.assertEqual(used, set(file["volumes"]))
        build = file["services"]["authd"]["build"]
        self.assertTrue((PACKAGING / build["context"] / build["dockerfile"]).is_file())

    def test_a_token_leads_to_serena_until_it_is_revoked_and_nothing_else_does(self):
        with Machine() as machine:
            stack = Compose(machine)
            stack.up()
            self.assertEqual(Client(machine.port(9120)).post({"jsonrpc": "2.0", "id": 1, "method": "ping"})[0], 401)
            client = Client(machine.port(9120), stack.token).open()
            client.call("tools/list")
            with urllib.request.urlopen(f"http://127.0.0.1:{machine.port(9120)}/health") as health:
                self.assertIn(b"snapshots", health.read())
            subprocess.run(
                [BINARIES / "mcp-authd", "token", "revoke", "me", "--tokens", stack.tokens], check=True,
                stdout=subprocess.DEVNULL)
            until("the token is good no more", lambda: client.post({"jsonrpc": "2.0", "id": 9, "method": "ping"})[0] == 401)
            stack.down()

    def test_no_crash_of_anything_is_noticed_by_the_client(self):
        with Machine() as machine:
            stack = Compose(machine)
            stack.up()
            client = Client(machine.port(9120), stack.token).open()
            client.call("tools/list")
            os.kill(machine.pid_of_serena(), signal.SIGKILL)
            client.call("tools/list")
            self.assertEqual(machine.starts_of_serena(), 2)
            for name in ORDER:
                # `restart: unless-stopped`.
                self.assertEqual(stack.file["services"][name]["restart"], "unless-stopped")
                stack.service[name].crash()
                stack.service[name].start().healthy(stack.health(name))
                client.call("tools/list")
            stack.down()

    def test_a_lost_home_is_back_before_serena_starts(self):
        with Machine() as machine:
            stack = Compose(machine)
            stack.up()
            Client(machine.port(9120), stack.token).open().call("tools/list")
            home = machine.root / "volumes/serena/home"
            (home / "serena_config.yml").write_text("projects: []\n")
            stack.down()
            stored = machine.root / "volumes/snapshots/default/HEAD"
            self.assertTrue(stored.is_file())
            shutil.rmtree(machine.root / "volumes/serena")
            machine.directory("volumes/serena")
            stack.up()
            Client(machine.port(9120), stack.token).open().call("tools/list")
            self.assertEqual((home / "serena_config.yml").read_text(), "projects: []\n")
            homes = machine.journal.with_name("serena.log.homes").read_text().split()
            self.assertEqual(sorted(homes), ["serena-snapshotd.json", "serena_config.yml"])
            stack.down()

    def test_serena_starts_once_the_snapshots_were_asked_for_its_home(self):
        with Machine() as machine:
            stack = Compose(machine)
            supervise = stack.service["supervise"]
            # Before it says that it is there, the hook finds nobody; that is why it must be healthy first.
            self.assertEqual(
                stack.file["services"]["supervise"]["depends_on"], {"snapshotd": {"condition": "service_healthy"}})
            stack.service["snapshotd"].start().healthy(stack.health("snapshotd"))
            supervise.start().healthy(stack.health("supervise"))
            code, said = supervise.run(["serena-supervise", "wake", "default"])
            self.assertEqual(code, 0, said)
            until("Serena has started", lambda: machine.starts_of_serena() == 1)
            code, said = supervise.run(["serena-supervise", "logs", "default"])
            self.assertIn("nothing restored: there is no snapshot", said)
            self.assertEqual(supervise.stop(), 0)


if __name__ == "__main__":
    unittest.main()
