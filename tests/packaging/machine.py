"""Containers without containers: each is a process of this machine that sees its own directories and free ports.

Paths of a container are moved into a temporary directory and its ports to free ones on loopback, in arguments, environment
and settings alike; everything else is as packaging/ has it.
"""

import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from repository import BINARIES, image_environment

# Much longer than anything here takes on a busy machine.
PATIENCE = 60

SERENA = """#!/bin/sh
# Stands for Serena: a server that writes down what it was started with.
while [ $# -gt 0 ]; do
  case $1 in --port) port=$2 ;; esac
  shift
done
ls -A "$SERENA_HOME" >>"{log}.homes"
exec "{backend}" --port "$port" --log "{log}"
"""


def until(what, fact):
    """Waits for a fact and gives it back; what never comes is a failure that says so."""
    end = time.monotonic() + PATIENCE
    while not (found := fact()):
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not happen within {PATIENCE} s")
        time.sleep(0.02)
    return found


class Machine:
    """A temporary directory, free ports, and a `serena` on PATH that is none."""

    def __init__(self):
        # Short: a Unix socket has 107 bytes.
        self._directory = tempfile.TemporaryDirectory(prefix="pk-")
        self.root = Path(self._directory.name)
        self._ports = {}
        self.containers = []
        self.journal = self.root / "serena.log"
        tools = self.directory("bin")
        (tools / "serena").write_text(SERENA.format(log=self.journal, backend=BINARIES / "fake-backend"))
        (tools / "serena").chmod(0o755)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for container in self.containers:
            container.kill()
        self._directory.cleanup()

    def directory(self, name):
        """One that several containers may mount."""
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def port(self, number):
        """The free port that stands for this one."""
        if number not in self._ports:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self._ports[number] = free.getsockname()[1]
        return self._ports[number]

    def forget_port(self, number):
        """The next one who asks for it gets another: two pods may have the same."""
        del self._ports[number]

    def container(self, name, command, mounts, environment=None):
        """A container that does not run yet; `mounts` are its paths and the directories that stand for them."""
        made = Container(self, name, command, mounts, environment or {})
        self.containers.append(made)
        return made

    def starts_of_serena(self):
        """How often it was started."""
        return len(self._journal('"event":"start"'))

    def pid_of_serena(self):
        """That of the newest one."""
        return int(re.search(r'"pid":(\d+)', self._journal('"event":"start"')[-1]).group(1))

    def _journal(self, words):
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return [line for line in lines if words in line]


class Container:
    """One container as a process."""

    def __init__(self, machine, name, command, mounts, environment):
        self.machine, self.name, self.mounts = machine, name, mounts
        self.command = [self.moved(word) for word in command]
        path = f"{machine.root / 'bin'}:{BINARIES}:/usr/bin:/bin"
        given = image_environment() | environment
        # A path that nothing is mounted at belongs to this container alone.
        for variable in ("HOME", "XDG_RUNTIME_DIR"):
            if not any(given[variable].startswith(target) for target in mounts):
                mounts[given[variable]] = machine.directory(f"{name}{given[variable]}")
        self.environment = {key: self.moved(value) for key, value in given.items()} | {"PATH": path}
        self.log = machine.root / f"{name}.log"
        self.process = None

    def moved(self, text):
        """The same with paths and ports of this machine."""
        targets = sorted(self.mounts, key=len, reverse=True)
        pattern = "|".join(map(re.escape, targets)) or "(?!)"
        text = re.sub(rf"({pattern})(?![\w-])", lambda it: str(self.mounts[it[1]]), text)
        return re.sub(r"\b(0\.0\.0\.0|serena-\{route\}):(\d+)", lambda it: f"127.0.0.1:{self.machine.port(int(it[2]))}", text)

    def start(self):
        """Starts it, as a container runtime would."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, cwd=self.machine.root, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True)
        return self

    def run(self, command):
        """Runs a command inside; its exit code and what it said."""
        done = subprocess.run(
            [self.moved(word) for word in command], env=self.environment, cwd=self.machine.root, timeout=PATIENCE,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout

    def healthy(self, command):
        """Waits until its health command says that it is."""
        until(f"{self.name} is healthy", lambda: self.alive() and self.run(command)[0] == 0)

    def alive(self):
        """True while it runs; a failure, with what it said, if it ended by itself."""
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self.process.returncode}: {self.said()}")
        return True

    def answers(self, port, path):
        """The status of a probe, or None while nobody answers."""
        url = f"http://127.0.0.1:{self.machine.port(port)}{path}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def stop(self):
        """SIGTERM, and its exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def crash(self):
        """SIGKILL to it alone."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def kill(self):
        """Leaves nothing behind."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)

    def said(self):
        """All that it printed."""
        return self.log.read_text()
