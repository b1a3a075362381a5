"""packaging/container: the Containerfile is read, and what the image runs is run."""

import json
import re
import unittest

from client import Client
from machine import Machine
from repository import PACKAGING, ROOT, containerfile, image_command, instruction


class Containerfile(unittest.TestCase):
    def test_all_that_it_copies_is_there(self):
        copied = [rest.split()[:-1] for name, rest in containerfile() if name == "COPY" and "--from" not in rest]
        self.assertTrue(copied)
        for source in sum(copied, []):
            self.assertTrue((ROOT / source).exists(), source)

    def test_it_builds_and_copies_each_daemon(self):
        text = " ".join(f"{name} {rest}" for name, rest in containerfile())
        for daemon in (ROOT / "bins").iterdir():
            self.assertIn(f"--bin {daemon.name}", text)
            self.assertIn(f"/src/target/release/{daemon.name} ", text)
        members = re.search(r"members = (\[.*\])", (ROOT / "Cargo.toml").read_text()).group(1)
        for member in json.loads(members):
            self.assertRegex(text, rf"COPY ({member}|{member.split('/')[0]}) ")

    def test_it_brings_what_was_tested(self):
        def pinned(file, name):
            return re.search(rf"^{name}==(.*)$", (ROOT / f"tests/real/{file}.txt").read_text(), re.M).group(1)

        text = (PACKAGING / "container/Containerfile").read_text()
        self.assertIn(f"astral-sh/uv:{pinned('uv', 'uv')} ", text)
        self.assertIn(f"SERENA={pinned('serena', 'serena-agent')}\n", text)
        version = re.search(r'rust-version = "(.*)"', (ROOT / "Cargo.toml").read_text()).group(1)
        self.assertIn(f"library/rust:{version}-", text)

    def test_it_does_not_run_as_root(self):
        self.assertEqual(instruction("USER"), "${UID}:${GID}")
        self.assertIn("UID=1000", [rest for name, rest in containerfile() if name == "ARG"])

    def test_what_it_runs_serves_serena_and_says_that_it_is_well(self):
        with Machine() as machine:
            mounts = {"/var/lib/serena": machine.directory("state"), "/workspace": machine.directory("workspace")}
            image = machine.container("image", image_command(), mounts).start()
            health = instruction("HEALTHCHECK").split(" CMD ")[1]
            image.healthy(json.loads(health))
            client = Client(machine.port(9121)).open()
            client.call("tools/list")
            self.assertIn("What Serena keeps is snapshotted", image.said())
            self.assertTrue((machine.root / "state/home").is_dir())
            image.stop()
            self.assertNotEqual(image.run(json.loads(health))[0], 0)


if __name__ == "__main__":
    unittest.main()
