"""People, buses, machines and a network for the tests in Python.

 Lan ── a bridge in a network namespace of its own
   └── Machine ── a namespace, or (without a Lan) this machine's loopback
         └── Person ── a user id, directories, a dbus-daemon, a connection manager, a client
               └── Agent ── a Python process as that person (or anybody else) on that machine

Everything waits for events with a deadline; what fails shows the signals that were seen and what
the connection manager wrote. Everything is taken down by `close`, also when a test fails.
"""
import atexit
import inspect
import itertools
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
STATISTICS = CHANNEL + ".Interface.Pneuma.Statistics1"
PATIENCE = 40  # seconds; waited out only by a test that fails
UNIX, IPV4, IPV6 = 0, 2, 3
# Users every Debian has and who own nothing here; dbus-daemon wants users with a name.
ALICE, BOB, MALLORY = (pwd.getpwnam(name).pw_uid for name in ("games", "news", "nobody"))

numbers = itertools.count(1)
_to_close = []


def _close_all():
    while _to_close:
        _to_close.pop().close()


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


class Machine:
    """Where processes run. Without a Lan: here, on the loopback interface."""

    def __init__(self, lan=None, address=None, interface="lo"):
        self.lan, self.interface = lan, interface
        self.namespace = f"pn{os.getpid() % 100000}-{next(numbers)}" if lan else None
        self.address = address or "127.0.0.1"

    def prefix(self, uid=None):
        """What to put before a command so that it runs on this machine as that user."""
        command = ["ip", "netns", "exec", self.namespace] if self.namespace else []
        if uid is not None and uid != os.getuid():
            command += ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups",
                        "--no-new-privs", "--"]
        return command


class Lan:
    """A bridge with machines on it; needs root."""

    def __init__(self, *names):
        self.bridge = f"pn{os.getpid() % 100000}-b{next(numbers)}"
        self.machines = {}
        _to_close.append(self)
        run("ip", "netns", "add", self.bridge)
        self._ip("link", "add", "br0", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
        self._ip("link", "set", "br0", "up")
        for number, name in enumerate(names, 1):
            self._add(name, f"10.99.0.{number}", f"fd99::{number}")

    def _ip(self, *arguments):
        return run("ip", "-n", self.bridge, *arguments)

    def _add(self, name, ipv4, ipv6):
        machine = Machine(self, ipv4, "eth0")
        self.machines[name] = machine
        setattr(self, name, machine)
        port = f"p{len(self.machines)}"
        run("ip", "netns", "add", machine.namespace)
        self._ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", machine.namespace)
        self._ip("link", "set", port, "master", "br0", "up")
        inside = ["ip", "-n", machine.namespace]
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "addr", "add", f"{ipv4}/24", "dev", "eth0")
        run(*inside, "addr", "add", f"{ipv6}/64", "dev", "eth0", "nodad")
        run(*inside, "route", "add", "default", "dev", "eth0")

    def close(self):
        for machine in self.machines.values():
            run("ip", "netns", "del", machine.namespace, check=False)
        run("ip", "netns", "del", self.bridge, check=False)
        if self in _to_close:
            _to_close.remove(self)


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
        _to_close.append(self)

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
        if self in _to_close:
            _to_close.remove(self)


class Person:
    """A user with a bus and a connection manager."""

    def __init__(self, name, machine=None, uid=None, port=None, parameters=None, online=True, env=None):
        self.name, self.machine = name, machine or Machine()
        self.uid, self.port = uid, port or free_port()
        self.extra = parameters or {}
        self.environment = env or {}
        self.dir = tempfile.mkdtemp(prefix=f"pneuma-{name}-", dir="/tmp")
        self.signals, self.taken, self.agents = [], set(), []
        self.manager = self.connection = self.path = None
        _to_close.append(self)
        for part in ("run", "state", "config", "data", "home", "services"):
            os.mkdir(os.path.join(self.dir, part), 0o700)
        with open(os.path.join(self.dir, "bus.conf"), "w") as conf:
            conf.write(
                '<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"'
                ' "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd"><busconfig>'
                f"<type>session</type><listen>unix:path={self.dir}/bus</listen><auth>EXTERNAL</auth>"
                f"<servicedir>{self.dir}/services</servicedir>"
                '<policy context="default"><allow user="*"/><allow send_destination="*" eavesdrop="true"/>'
                '<allow eavesdrop="true"/><allow own="*"/></policy></busconfig>')
        if uid is not None:
            for at, folders, files in os.walk(self.dir):
                for each in [at, *(os.path.join(at, f) for f in files)]:
                    os.chown(each, uid, uid)
        self.bus_address = f"unix:path={self.dir}/bus"
        self.daemon = Process("dbus-daemon", self.machine.prefix(uid) + [
            "dbus-daemon", f"--config-file={self.dir}/bus.conf", "--nofork", "--nopidfile"],
            self.env(), os.path.join(self.dir, "bus.log"))
        until("the bus listens", lambda: os.path.exists(f"{self.dir}/bus"), detail=self.daemon.output)
        flags = Gio.DBusConnectionFlags
        self.bus = Gio.DBusConnection.new_for_address_sync(
            self.bus_address, flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION, None, None)
        self.bus.set_exit_on_close(False)
        self.bus.signal_subscribe(None, None, None, None, None, Gio.DBusSignalFlags.NONE, self._signal)
        self.start_manager()
        if online:
            self.go_online()

    def env(self):
        at = lambda part: os.path.join(self.dir, part)
        return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": at("home"),
                "XDG_RUNTIME_DIR": at("run"), "XDG_STATE_HOME": at("state"),
                "XDG_CONFIG_HOME": at("config"), "XDG_DATA_HOME": at("data"),
                "DBUS_SESSION_BUS_ADDRESS": self.bus_address, "RUST_BACKTRACE": "1",
                "RUST_LOG": os.environ.get("RUST_LOG", "info"), **self.environment}

    def _signal(self, _bus, _sender, path, interface, member, arguments, *_):
        self.signals.append((path, interface, member, arguments.unpack()))

    def start_manager(self):
        self.manager = Process(self.name, self.machine.prefix(self.uid) + [
            public(binary("telepathy-pneuma")), "--persist"], self.env(), os.path.join(self.dir, "cm.log"))
        until("the connection manager has its name", lambda: self.has_owner(CM_NAME), detail=self.seen)

    def has_owner(self, name):
        return self.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                         "NameHasOwner", GLib.Variant("(s)", (name,)))

    def seen(self):
        rows = [f"  {path} {interface.replace(TP, '')}.{member} {arguments}"[:400]
                for path, interface, member, arguments in self.signals[-60:]]
        return "\n".join([f"signals on {self.name}'s bus:"] + rows + [self.manager.output() if self.manager else ""])

    def call(self, name, path, interface, method, arguments=None, patience=PATIENCE):
        """Calls a method; gives its one return value, or a tuple of them."""
        try:
            answer = self.bus.call_sync(name, path, interface, method, arguments, None,
                                        Gio.DBusCallFlags.NONE, patience * 1000, None)
        except GLib.Error as error:
            name = Gio.DBusError.get_remote_error(error) or "local"
            Gio.DBusError.strip_remote_error(error)
            raise Error(name, error.message) from None
        values = answer.unpack()
        return values[0] if len(values) == 1 else values

    def start_call(self, name, path, interface, method, arguments, patience=PATIENCE):
        """Starts a call; the list it gives gets the answer's values or the Error."""
        box = []

        def done(bus, result):
            try:
                box.append(bus.call_finish(result).unpack())
            except GLib.Error as error:
                name = Gio.DBusError.get_remote_error(error) or "local"
                Gio.DBusError.strip_remote_error(error)
                box.append(Error(name, error.message))
        self.bus.call(name, path, interface, method, arguments, None, Gio.DBusCallFlags.NONE,
                      patience * 1000, None, done)
        return box

    def on(self, path, interface, method, arguments=None, **more):
        return self.call(CM_NAME, path, interface, method, arguments, **more)

    def property(self, path, interface, name):
        return self.on(path, "org.freedesktop.DBus.Properties", "Get",
                       GLib.Variant("(ss)", (interface, name)))

    def parameters(self):
        given = {"published-name": GLib.Variant("s", self.name),
                 "pneuma-interface": GLib.Variant("s", self.machine.interface),
                 "pneuma-mdns-port": GLib.Variant("q", self.port)}
        given.update(self.extra)
        return given

    def go_online(self):
        bus_name, self.path = self.on(CM_PATH, TP + "ConnectionManager", "RequestConnection",
                                      GLib.Variant("(sa{sv})", ("local-xmpp", self.parameters())))
        self.connection = bus_name
        self.on(self.path, CONNECTION, "Connect")
        self.take("StatusChanged(Connected)", lambda path, interface, member, arguments:
                  member == "StatusChanged" and path == self.path and arguments[0] == 0)

    def take(self, what, matches, patience=PATIENCE):
        """The arguments of the first signal not taken before that matches."""
        def attempt():
            for number, row in enumerate(self.signals):
                if number not in self.taken and matches(*row):
                    self.taken.add(number)
                    return [row]
            return None
        return until(what, attempt, patience, self.seen)[0]

    def contacts(self):
        """{id: (handle, presence type, services)} of those who take stream tubes and the others
        with services None."""
        rows = self.on(self.path, CONTACT_LIST, "GetContactListAttributes",
                       GLib.Variant("(asb)", ([ALIASING, PRESENCE, CAPABILITIES], False)))
        found = {}
        for handle, values in rows.items():
            classes = values.get(CAPABILITIES + "/capabilities", [])
            tubes = [fixed for fixed, _ in classes if fixed.get(CHANNEL + ".ChannelType") == STREAM_TUBE]
            services = {fixed[STREAM_TUBE + ".Service"] for fixed in tubes if STREAM_TUBE + ".Service" in fixed}
            presence = values.get(PRESENCE + "/presence", (0, "", ""))[0]
            found[values[CONNECTION + "/contact-id"]] = (handle, presence, services if tubes else None)
        return found

    def sees(self, other, able=True):
        """Waits for another person by name; gives (id, handle). `able`: until it takes tubes."""
        name = other if isinstance(other, str) else other.name

        def attempt():
            for contact, (handle, presence, services) in self.contacts().items():
                if contact.split("@")[0] == name and (services is not None or not able) and presence > 1:
                    return contact, handle
            return None
        return until(f"{self.name} sees {name}", attempt, detail=self.seen)

    def handle_of(self, name):
        return self.sees(name)[1]

    def create_tube(self, handle, service):
        request = {CHANNEL + ".ChannelType": GLib.Variant("s", STREAM_TUBE),
                   CHANNEL + ".TargetHandleType": GLib.Variant("u", 1),
                   CHANNEL + ".TargetHandle": GLib.Variant("u", handle),
                   STREAM_TUBE + ".Service": GLib.Variant("s", service)}
        return self.on(self.path, REQUESTS, "CreateChannel", GLib.Variant("(a{sv})", (request,)))[0]

    def offer(self, channel, address, parameters=None):
        kind, variant = to_variant(address)
        self.on(channel, STREAM_TUBE, "Offer",
                GLib.Variant("(uvua{sv})", (kind, variant, 0, parameters or {})))

    def offered(self, service, patience=PATIENCE):
        def matches(_path, interface, member, arguments):
            return interface == REQUESTS and member == "NewChannels" and any(
                properties.get(STREAM_TUBE + ".Service") == service and not properties[CHANNEL + ".Requested"]
                for _, properties in arguments[0])
        row = self.take(f"{self.name} is offered {service}", matches, patience)
        return row[3][0][0][0]

    def accept(self, channel, kind):
        value = self.on(channel, STREAM_TUBE, "Accept",
                        GLib.Variant("(uuv)", (kind, 0, GLib.Variant("u", 0))))
        if kind == UNIX:
            return ["unix", bytes(value).rstrip(b"\0").decode()]
        return ["tcp", value[0], value[1]]

    def close_channel(self, channel):
        self.on(channel, CHANNEL, "Close")

    def closed(self, channel, patience=PATIENCE):
        self.take(f"Closed of {channel}", lambda path, interface, member, _:
                  path == channel and interface == CHANNEL and member == "Closed", patience)

    def connection_closed(self, channel, patience=PATIENCE):
        row = self.take(f"ConnectionClosed of {channel}", lambda path, _interface, member, _arguments:
                        path == channel and member == "ConnectionClosed", patience)
        return row[3][1].rsplit(".", 1)[-1]

    def agent(self, uid=None, machine=None):
        """Somebody who acts on this person's machine; by default the person."""
        given = self.uid if uid is None else uid
        log = os.path.join(self.dir, f"agent{len(self.agents)}.log")
        made = Agent(machine or self.machine, given, self.env(), log)
        self.agents.append(made)
        return made

    def objects(self, path="/"):
        """Every object path the connection manager has."""
        xml = self.on(path, "org.freedesktop.DBus.Introspectable", "Introspect")
        found = [path]
        for part in xml.split('<node name="')[1:]:
            child = part.split('"')[0]
            found += self.objects(path.rstrip("/") + "/" + child)
        return found

    def close(self):
        for agent in self.agents:
            agent.close()
        for process in (self.manager, self.daemon):
            if process:
                process.kill()
        shutil.rmtree(self.dir, ignore_errors=True)
        if self in _to_close:
            _to_close.remove(self)


def to_variant(address):
    """(Socket_Address_Type, variant) of ["unix", path] or ["tcp", host, port]."""
    if address[0] == "unix":
        return UNIX, GLib.Variant("ay", os.fsencode(address[1]))
    return (IPV6 if ":" in address[1] else IPV4), GLib.Variant("(sq)", (address[1], address[2]))


# Functions for agents.

def echo_server(address):
    """Serves an echo for ever; gives its address."""
    import os
    import socket
    import threading
    if address[0] == "unix":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address[1])
    else:
        listener = socket.socket(socket.AF_INET6 if ":" in address[1] else socket.AF_INET)
        listener.bind((address[1], address[2]))
        address = ["tcp", *listener.getsockname()[:2]]
    listener.listen(512)

    def serve(client):
        try:
            while data := client.recv(65536):
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        finally:
            client.close()

    def loop():
        while True:
            client, _ = listener.accept()
            kept["echo_connections"] = kept.get("echo_connections", 0) + 1
            threading.Thread(target=serve, args=(client,), daemon=True).start()
    threading.Thread(target=loop, daemon=True).start()
    return address


def exchange(address, size):
    """Sends `size` bytes through an echo and compares; gives how many came back right."""
    import hashlib
    import os
    import socket
    import threading
    if address[0] == "unix":
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(30)
        client.connect(address[1])
    else:
        client = socket.create_connection((address[1], address[2]), 30)
    data = os.urandom(size)

    def send():
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    back = hashlib.sha256()
    count = 0
    while part := client.recv(65536):
        back.update(part)
        count += len(part)
    sender.join(30)
    client.close()
    if back.digest() != hashlib.sha256(data).digest():
        raise ValueError(f"sent {size}, {count} came back, not the same")
    return count


def knock(address, data, wait=5):
    """Connects, sends `data` (hexadecimal), and tells what happened: 'refused', 'closed' or 'open',
    with what was read."""
    import socket
    try:
        if address[0] == "unix":
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(wait)
            client.connect(address[1])
        else:
            client = socket.create_connection((address[1], address[2]), wait)
            client.settimeout(wait)
    except OSError as error:
        return ["refused", error.strerror or str(error)]
    got = b""
    try:
        client.sendall(bytes.fromhex(data))
        while part := client.recv(65536):
            got += part
        return ["closed", got.hex()]
    except socket.timeout:
        return ["open", got.hex()]
    except OSError:
        return ["closed", got.hex()]
    finally:
        client.close()


class Runner:
    """Collects scenarios, runs those whose name holds an argument, and says how it went."""

    def __init__(self):
        self.scenarios = []

    def __call__(self, function):
        self.scenarios.append(function)
        return function

    def main(self):
        wanted = sys.argv[1:]
        passed = failed = 0
        for function in self.scenarios:
            if wanted and not any(word in function.__name__ for word in wanted):
                continue
            begun = time.monotonic()
            try:
                function()
            except Exception:
                failed += 1
                print(f"FAILED {function.__name__}: {function.__doc__.splitlines()[0]}")
                traceback.print_exc(file=sys.stdout)
            else:
                passed += 1
                print(f"ok {function.__name__} ({time.monotonic() - begun:.1f}s)")
            finally:
                _close_all()
            sys.stdout.flush()
        print(f"{passed} passed, {failed} failed")
        return 1 if failed or not passed else 0
