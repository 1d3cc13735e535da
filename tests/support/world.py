"""What the tests in Python stand on: names, deadlines, processes, agents, the runner.

 Lan ── a bridge in a network namespace of its own                      (network.py)
   └── Machine ── a namespace, or (without a Lan) this machine's loopback
         └── Person ── a user id, directories, a dbus-daemon,           (person.py)
               │       a connection manager, a client
               └── Agent ── a Python process as that person (or anybody else) on that machine

Everything waits for events with a deadline; what fails shows the signals that were seen and what
the connection manager wrote. Everything is taken down by `close`, also when a test fails.
"""
import atexit
import inspect
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import traceback

import gi

gi.require_version("Gio", "2.0")
from gi.repository import Gio, GLib  # noqa: E402

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
TP = "org.freedesktop.Telepathy."
CM_NAME = TP + "ConnectionManager.pneuma"
CM_PATH = "/org/freedesktop/Telepathy/ConnectionManager/pneuma"
CONNECTION = TP + "Connection"
REQUESTS = CONNECTION + ".Interface.Requests"
CONTACT_LIST = CONNECTION + ".Interface.ContactList"
CAPABILITIES = CONNECTION + ".Interface.ContactCapabilities"
PRESENCE = CONNECTION + ".Interface.SimplePresence"
ALIASING = CONNECTION + ".Interface.Aliasing"
TRUST = CONNECTION + ".Interface.Pneuma.Trust1"
CHANNEL = TP + "Channel"
TUBE = CHANNEL + ".Interface.Tube"
STREAM_TUBE = CHANNEL + ".Type.StreamTube"
DBUS_TUBE = CHANNEL + ".Type.DBusTube"
STATISTICS = CHANNEL + ".Interface.Pneuma.Statistics1"
PATIENCE = 40  # seconds; waited out only by a test that fails
UNIX, ABSTRACT, IPV4, IPV6 = 0, 1, 2, 3
LOCALHOST, PORT, CREDENTIALS = 0, 1, 3
# Users every Debian has and who own nothing here; dbus-daemon wants users with a name.
ALICE, BOB, MALLORY = (pwd.getpwnam(name).pw_uid for name in ("games", "news", "nobody"))

to_close = []


def _close_all():
    while to_close:
        to_close.pop().close()


atexit.register(_close_all)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


class Failure(Exception):
    """A test did not see what it should."""


class Error(Exception):
    """A D-Bus error answer."""

    def __init__(self, name, message):
        super().__init__(f"{name}: {message}")
        self.name, self.short, self.message = name, name.rsplit(".", 1)[-1], message


def binary(name):
    """A program of ours, from the build this tree made last (or from $PNEUMA_BIN)."""
    folder = os.environ.get("PNEUMA_BIN", os.path.join(ROOT, "target", "debug"))
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        raise Failure(f"{path} is not built: cargo build --bins")
    return path


_public = None


def public(source):
    """A copy of a file where every user may read and run it: the tree may lie in a home directory."""
    global _public
    if _public is None:
        _public = tempfile.mkdtemp(prefix="pneuma-public-", dir="/tmp")
        os.chmod(_public, 0o755)
        atexit.register(shutil.rmtree, _public, True)
    path = os.path.join(_public, os.path.basename(source))
    if not os.path.exists(path):
        shutil.copy(source, path)
        os.chmod(path, 0o755)
    return path


def run(*command, check=True):
    done = subprocess.run(command, capture_output=True, text=True)
    if check and done.returncode != 0:
        raise Failure(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def free_port():
    """A UDP port nobody has now: it isolates one test's discovery from everybody else's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, attempt, patience=PATIENCE, detail=lambda: ""):
    """Lets the main loop run until `attempt` gives something; D-Bus signals wake it."""
    context = GLib.MainContext.default()
    deadline = time.monotonic() + patience
    tick = GLib.timeout_add(200, lambda: True)
    try:
        while True:
            found = attempt()
            if found or found == 0 and found is not False:
                return found
            if time.monotonic() > deadline:
                raise Failure(f"waited until {what}\n{detail()}")
            context.iteration(True)
            while context.pending():
                context.iteration(False)
    finally:
        GLib.source_remove(tick)


def settle(seconds):
    """Lets a time pass in which something must NOT happen. There is no event to wait for."""
    deadline = time.monotonic() + seconds
    until("time has passed", lambda: time.monotonic() > deadline, seconds + 5)


class Process:
    """A child with its output in a file, ended by its id."""

    def __init__(self, label, command, env, log, **more):
        self.label, self.log = label, log
        self.file = open(log, "ab")
        self.child = subprocess.Popen(command, env=env, stderr=self.file,
                                      **{"stdin": subprocess.DEVNULL, "stdout": self.file, **more})

    @property
    def pid(self):
        return self.child.pid

    def output(self):
        with open(self.log, errors="replace") as log:
            return "".join(f"[{self.label}] {line}" for line in log.readlines()[-120:])

    def kill(self):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        self.file.close()

    def terminate(self, patience=PATIENCE):
        if self.child.poll() is None:
            self.child.terminate()
        code = self.child.wait(timeout=patience)
        self.file.close()
        return code

    def usage(self):
        """(descriptors, threads, resident KiB)"""
        with open(f"/proc/{self.pid}/status") as status:
            resident = next(int(row.split()[1]) for row in status if row.startswith("VmRSS:"))
        return (len(os.listdir(f"/proc/{self.pid}/fd")),
                len(os.listdir(f"/proc/{self.pid}/task")), resident)


class Agent:
    """Runs functions of a test as somebody, somewhere. The functions stand on their own: they
    import what they use, take and return what JSON can carry, and may share `kept`."""

    def __init__(self, machine, uid=None, env=None, log=None):
        self.log = log or tempfile.mkstemp(prefix="pneuma-agent-", dir="/tmp")[1]
        self.own_log = log is None
        environment = {"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1", **(env or {})}
        command = machine.prefix(uid) + ["/usr/bin/python3", public(os.path.join(ROOT, "tests", "support", "agent.py"))]
        self.process = Process("agent", command, environment, self.log,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        to_close.append(self)

    def start(self, function, *arguments):
        """Asks, without waiting for the answer (`answer` does)."""
        asked = {"source": textwrap.dedent(inspect.getsource(function)),
                 "name": function.__name__, "arguments": arguments}
        self.process.child.stdin.write((json.dumps(asked) + "\n").encode())
        self.process.child.stdin.flush()

    def answer(self, patience=PATIENCE):
        """Waits for an answer while this process's own main loop goes on."""
        out = self.process.child.stdout
        ready = []
        watch = GLib.io_add_watch(out.fileno(), GLib.IO_IN | GLib.IO_HUP,
                                  lambda *_: ready.append(1) or False)
        try:
            until("the agent answered", lambda: bool(ready), patience, self.process.output)
        finally:
            if not ready:
                GLib.source_remove(watch)
        line = out.readline()
        if not line:
            raise Failure("the agent ended\n" + self.process.output())
        answer = json.loads(line)
        if "raised" in answer:
            raise Failure("in the agent: " + answer["raised"] + "\n" + self.process.output())
        return answer["returned"]

    def call(self, function, *arguments, patience=PATIENCE):
        self.start(function, *arguments)
        return self.answer(patience)

    def close(self):
        self.process.child.stdin.close()
        self.process.kill()
        if self.own_log:
            os.unlink(self.log)
        if self in to_close:
            to_close.remove(self)


class Runner:
    """Collects scenarios, runs those whose name holds an argument, and says how it went."""

    def __init__(self):
        self.scenarios = []

    def __call__(self, function):
        self.scenarios.append(function)
        return function

    def main(self):
        wanted = sys.argv[1:]
        passed, failed = 0, []
        for function in self.scenarios:
            if wanted and not any(word in function.__name__ for word in wanted):
                continue
            begun = time.monotonic()
            try:
                function()
            except Exception as error:
                failed.append(f"FAILED {function.__name__}: {type(error).__name__}: {error}")
                print(f"FAILED {function.__name__}: {function.__doc__.splitlines()[0]}")
                traceback.print_exc(file=sys.stdout)
            else:
                passed += 1
                print(f"ok {function.__name__} ({time.monotonic() - begun:.1f}s)")
            finally:
                _close_all()
            sys.stdout.flush()
        # Once more, at the end: of a long log that may be all that is kept.
        for each in failed:
            print(each)
        print(f"{passed} passed, {len(failed)} failed")
        return 1 if failed or not passed else 0
