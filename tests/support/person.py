"""A person: a user with a bus, a connection manager and a client's view of it by plain D-Bus."""
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ElementTree

from gi.repository import Gio, GLib

from network import Machine
from world import *  # noqa: F403  (names and helpers)


class Person:
    """A user with a bus and a connection manager."""

    def __init__(self, name, machine=None, uid=None, port=None, parameters=None, online=True, env=None,
                 arguments=()):
        self.name, self.machine = name, machine or Machine()
        self.uid, self.port = uid, port or free_port()
        self.extra = parameters or {}
        self.environment, self.arguments = env or {}, arguments
        self.dir = tempfile.mkdtemp(prefix=f"pneuma-{name}-", dir="/tmp")
        self.signals, self.taken, self.agents = [], set(), []
        self.manager = self.connection = self.path = None
        to_close.append(self)
        for part in ("run", "state", "config", "data", "home", "services"):
            os.mkdir(os.path.join(self.dir, part), 0o700)
        with open(os.path.join(self.dir, "bus.conf"), "w") as conf:
            conf.write(
                '<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"'
                ' "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd"><busconfig>'
                f"<type>session</type><listen>unix:path={self.dir}/bus</listen><auth>EXTERNAL</auth>"
                + "".join(f"<servicedir>{folder}</servicedir>" for folder in self.service_folders()) +
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
        until("the bus listens", self._bus_listens, detail=self.daemon.output)
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

    def _bus_listens(self):
        # Its file is there before it listens.
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(f"{self.dir}/bus") == 0

    def service_folders(self):
        """Where the bus looks for what it may start."""
        return [f"{self.dir}/services"]

    def _signal(self, _bus, _sender, path, interface, member, arguments, *_):
        self.signals.append((path, interface, member, arguments.unpack()))

    def start_manager(self):
        self.manager = Process(self.name, self.machine.prefix(self.uid) + [
            public(binary("telepathy-pneuma")), "--persist", *self.arguments], self.env(), os.path.join(self.dir, "cm.log"))
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

    def request(self):
        """Makes the connection and lets it go online, without waiting for that."""
        bus_name, self.path = self.on(CM_PATH, TP + "ConnectionManager", "RequestConnection",
                                      GLib.Variant("(sa{sv})", ("local-xmpp", self.parameters())))
        self.connection = bus_name
        self.on(self.path, CONNECTION, "Connect")

    def go_online(self):
        self.request()
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

    def create_tube(self, handle, service, kind=STREAM_TUBE):
        name = STREAM_TUBE + ".Service" if kind == STREAM_TUBE else DBUS_TUBE + ".ServiceName"
        request = {CHANNEL + ".ChannelType": GLib.Variant("s", kind),
                   CHANNEL + ".TargetHandleType": GLib.Variant("u", 1),
                   CHANNEL + ".TargetHandle": GLib.Variant("u", handle),
                   name: GLib.Variant("s", service)}
        return self.on(self.path, REQUESTS, "CreateChannel", GLib.Variant("(a{sv})", (request,)))[0]

    def offer(self, channel, address, parameters=None, access=LOCALHOST):
        kind, variant = to_variant(address)
        self.on(channel, STREAM_TUBE, "Offer",
                GLib.Variant("(uvua{sv})", (kind, variant, access, parameters or {})))

    def offered(self, service, patience=PATIENCE):
        """The tube of either type that is offered for a service."""
        def matches(_path, interface, member, arguments):
            return interface == REQUESTS and member == "NewChannels" and any(
                service in (properties.get(STREAM_TUBE + ".Service"), properties.get(DBUS_TUBE + ".ServiceName"))
                and not properties[CHANNEL + ".Requested"] for _, properties in arguments[0])
        row = self.take(f"{self.name} is offered {service}", matches, patience)
        return row[3][0][0][0]

    def accept(self, channel, kind, access=LOCALHOST, parameter=None):
        """Where to connect to; who has to say a byte first finds it as the last element."""
        value = self.on(channel, STREAM_TUBE, "Accept", GLib.Variant(
            "(uuv)", (kind, access, parameter or GLib.Variant("u", 0))))
        if kind in (UNIX, ABSTRACT):
            return ["unix", bytes(value).rstrip(b"\0").decode(), "7f" if access == CREDENTIALS else ""]
        return ["tcp", value[0], value[1]]

    def offer_dbus(self, channel, access=CREDENTIALS):
        """The address of our end."""
        return self.on(channel, DBUS_TUBE, "Offer", GLib.Variant("(a{sv}u)", ({}, access)))

    def accept_dbus(self, channel, access=CREDENTIALS):
        """The address of our end."""
        return self.on(channel, DBUS_TUBE, "Accept", GLib.Variant("(u)", (access,)))

    def opens(self, channel):
        """Waits until a tube is open."""
        self.take(f"{self.name}'s tube is open", lambda path, interface, member, arguments: (
            path == channel and interface == TUBE and member == "TubeChannelStateChanged" and arguments == (2,)))

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

    def run(self, *command, check=True, text=True, patience=PATIENCE, env=None, **more):
        """Runs a program as this person on this person's machine, to its end."""
        done = subprocess.run(self.machine.prefix(self.uid) + list(command), env={**self.env(), **(env or {})},
                              text=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=patience,
                              cwd=self.dir, **{"stdin": subprocess.DEVNULL, **more})
        if check and done.returncode != 0:
            raise Failure(f"{command} ended with {done.returncode}: {done.stdout} {done.stderr}\n{self.seen()}")
        return done.stdout if check else done

    def pneuma(self, *arguments):
        """Our command line, running: its lines of JSON are events."""
        return Command(self, arguments)

    def objects(self):
        """Every object path the connection manager has."""
        root = ElementTree.fromstring(
            self.on("/", "org.freedesktop.DBus.Introspectable", "Introspect"))

        def below(node, path):
            for child in node.findall("node"):
                inner = f"{path}/{child.get('name')}"
                yield inner
                yield from below(child, inner)
        return list(below(root, ""))

    def close(self):
        for agent in self.agents:
            agent.close()
        for process in (self.manager, self.daemon):
            if process:
                process.kill()
        shutil.rmtree(self.dir, ignore_errors=True)
        if self in to_close:
            to_close.remove(self)


class Command(Process):
    """A command of ours that goes on. The file for its output is the person's."""

    def __init__(self, person, arguments):
        self.person, self.seen = person, 0
        log = os.path.join(person.dir, f"pneuma-{len(person.agents)}-{time.monotonic_ns()}.log")
        super().__init__(f"pneuma {' '.join(arguments)}", person.machine.prefix(person.uid) + [
            public(binary("pneuma")), "--json", "--yes", *arguments], person.env(), log, cwd=person.dir)
        to_close.append(self)

    def event(self, name, patience=PATIENCE):
        """Waits for the next event of this name; gives it."""
        def attempt():
            lines = self.lines()
            for number, line in enumerate(lines[self.seen:], self.seen):
                if line.get("event") == name:
                    self.seen = number + 1
                    return line
            if self.child.poll() is not None:
                raise Failure(f"{self.label} ended with {self.child.poll()} before it said {name}\n"
                              + self.output() + self.person.seen())
            return None
        return until(f"{self.label} says {name}", attempt, patience,
                     lambda: self.output() + self.person.seen())

    def lines(self):
        with open(self.log, errors="replace") as log:
            rows = [row for row in log if row.startswith("{") and row.endswith("\n")]
        return [json.loads(row) for row in rows]

    def ends(self, patience=PATIENCE):
        """Waits for its end; gives its exit code."""
        until(f"{self.label} ends", lambda: self.child.poll() is not None, patience,
              lambda: self.output() + self.person.seen())
        return self.child.wait()

    def interrupt(self):
        """Ctrl-C; gives the exit code."""
        self.child.send_signal(signal.SIGINT)
        return self.ends()

    def close(self):
        self.kill()
        if self in to_close:
            to_close.remove(self)


def to_variant(address):
    """(Socket_Address_Type, variant) of ["unix", path or NUL and name] or ["tcp", host, port]."""
    if address[0] == "unix":
        return ABSTRACT if address[1].startswith("\0") else UNIX, GLib.Variant("ay", os.fsencode(address[1]))
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
        client.sendall(bytes.fromhex("".join(address[2:])))
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
        return ["refused", ""]
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
