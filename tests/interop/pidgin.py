"""Files to and from libpurple's Bonjour, as Pidgin has it: Debian's finch, told what to do over D-Bus.

    a person's machine                          the other's
    telepathy-pneuma, discovery built in ────── finch ─ libbonjour ─ Avahi

libpurple answers no service discovery and knows no encryption: the account allows plaintext. finch wants
a terminal to draw on and gets one that nobody looks at.
"""
import pty
import threading

from avahi import SystemBus
from home import *  # noqa: F403

FILE_TRANSFER = CHANNEL + ".Type.FileTransfer"
PURPLE = "im.pidgin.purple."
PENDING, ACCEPTED, OPEN, COMPLETED, CANCELLED = 1, 2, 3, 4, 5
REMOTE_STOPPED = 3
# Each machine of a Lan is a network of its own, so this is everybody's.
PORT = 5353


class Finch:
    """finch with a Bonjour account that is online."""

    def __init__(self, name, machine, system):
        self.signals = []
        self.dir = tempfile.mkdtemp(prefix=f"pneuma-{name}-", dir="/tmp")
        to_close.append(self)
        os.mkdir(os.path.join(self.dir, "run"), 0o700)
        with open(os.path.join(self.dir, "bus.conf"), "w") as conf:
            conf.write(
                '<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"'
                ' "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd"><busconfig>'
                f"<type>session</type><listen>unix:path={self.dir}/bus</listen><auth>EXTERNAL</auth>"
                '<policy context="default"><allow user="*"/><allow send_destination="*" eavesdrop="true"/>'
                '<allow eavesdrop="true"/><allow own="*"/></policy></busconfig>')
        environment = {"PATH": os.environ["PATH"], "HOME": self.dir, "LANG": "C.UTF-8", "TERM": "xterm",
                       "XDG_RUNTIME_DIR": f"{self.dir}/run",
                       "DBUS_SESSION_BUS_ADDRESS": f"unix:path={self.dir}/bus", **system.env()}
        self.daemon = Process("finch's bus", machine.prefix() + [
            "dbus-daemon", f"--config-file={self.dir}/bus.conf", "--nofork", "--nopidfile"],
            environment, os.path.join(self.dir, "bus.log"))
        until("finch's bus listens", lambda: os.path.exists(f"{self.dir}/bus"), detail=self.daemon.output)
        flags = Gio.DBusConnectionFlags
        self.bus = Gio.DBusConnection.new_for_address_sync(
            f"unix:path={self.dir}/bus", flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION, None, None)
        self.bus.set_exit_on_close(False)
        self.bus.signal_subscribe(None, PURPLE + "PurpleInterface", None, None, None, Gio.DBusSignalFlags.NONE,
                                  self._signal)
        screen, terminal = pty.openpty()
        threading.Thread(target=_let_draw, args=(screen,), daemon=True).start()
        self.process = Process("finch", machine.prefix() + ["finch", "-d", "-c", f"{self.dir}/purple"],
                               environment, os.path.join(self.dir, "debug.log"),
                               stdin=terminal, stdout=terminal, start_new_session=True)
        os.close(terminal)
        until("finch is on its bus", self._serves, detail=self.process.output)
        self.account = self.ask("PurpleAccountNew", "ss", name, "prpl-bonjour")
        self.ask("PurpleAccountsAdd", "i", self.account)
        self.ask("PurpleAccountSetEnabled", "isi", self.account, "gnt-purple", 1)
        until("finch is online", lambda: self.ask("PurpleAccountIsConnected", "i", self.account),
              detail=self.process.output)

    def _signal(self, _bus, _sender, _path, _interface, member, arguments):
        self.signals.append((member, arguments.unpack()))

    def _call(self, name, path, interface, method, arguments=None):
        return self.bus.call_sync(name, path, interface, method, arguments, None,
                                  Gio.DBusCallFlags.NONE, PATIENCE * 1000, None).unpack()

    def _serves(self):
        return self._call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                          "NameHasOwner", GLib.Variant("(s)", (PURPLE + "PurpleService",)))[0]

    def ask(self, method, signature, *arguments):
        """Calls a function of libpurple; gives what it gives, if that is one thing."""
        given = self._call(PURPLE + "PurpleService", "/im/pidgin/purple/PurpleObject", PURPLE + "PurpleInterface",
                           method, GLib.Variant(f"({signature})", arguments))
        return given[0] if given else None

    def sees(self, name):
        """The name of the buddy that begins with this."""
        def attempt():
            for buddy in self.ask("PurpleFindBuddies", "is", self.account, ""):
                found = self.ask("PurpleBuddyGetName", "i", buddy)
                presence = self.ask("PurpleBuddyGetPresence", "i", buddy)
                if found.split("@")[0] == name and self.ask("PurplePresenceIsOnline", "i", presence):
                    return found
            return None
        return until(f"finch sees {name}", attempt, detail=self.process.output)

    def sends(self, buddy, path):
        connection = self.ask("PurpleAccountGetConnection", "i", self.account)
        self.ask("ServSendFile", "iss", connection, buddy, path)

    def hears(self, member):
        """The first argument of the first such signal, which is taken."""
        def attempt():
            for number, (heard, arguments) in enumerate(self.signals):
                if heard == member:
                    del self.signals[number]
                    return arguments
            return None
        return until(f"finch says {member}", attempt, detail=self.process.output)[0]

    def close(self):
        for process in (self.process, self.daemon):
            process.kill()
        shutil.rmtree(self.dir, ignore_errors=True)
        if self in to_close:
            to_close.remove(self)


def _let_draw(screen):
    """Reads what a program draws, so that it goes on."""
    try:
        while os.read(screen, 65536):
            pass
    except OSError:
        pass
    os.close(screen)


class Scene:
    def __init__(self):
        lan = Lan("romeo", "juliet")
        self.system = SystemBus(lan.juliet, "juliet")
        self.finch = Finch("finch", lan.juliet, self.system)
        self.romeo = Person("romeo", lan.romeo, None, PORT, {
            "pneuma-discovery": GLib.Variant("s", "built-in"), "require-encryption": GLib.Variant("b", False),
        }, env={"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent/pneuma"})
        self.buddy = self.finch.sees("romeo")
        self.contact, self.handle = self.romeo.sees("finch", able=False)

    def file(self, size):
        """A file on finch's machine with something in it."""
        path = os.path.join(self.finch.dir, "gift of fruit & nuts.bin")
        data = os.urandom(size)
        with open(path, "wb") as file:
            file.write(data)
        return path, data

    def offered(self):
        """The channel and the properties of the file that romeo is offered."""
        def matches(_path, interface, member, arguments):
            return interface == REQUESTS and member == "NewChannels" and any(
                properties.get(CHANNEL + ".ChannelType") == FILE_TRANSFER for _, properties in arguments[0])
        return self.romeo.take("romeo is offered a file", matches)[3][0][0]

    def offer(self, name, size):
        request = {CHANNEL + ".ChannelType": GLib.Variant("s", FILE_TRANSFER),
                   CHANNEL + ".TargetHandleType": GLib.Variant("u", 1),
                   CHANNEL + ".TargetHandle": GLib.Variant("u", self.handle),
                   FILE_TRANSFER + ".Filename": GLib.Variant("s", name),
                   FILE_TRANSFER + ".Size": GLib.Variant("t", size),
                   FILE_TRANSFER + ".ContentType": GLib.Variant("s", "application/octet-stream")}
        return self.romeo.on(self.romeo.path, REQUESTS, "CreateChannel", GLib.Variant("(a{sv})", (request,)))[0]

    def becomes(self, channel, state):
        """Why it became so."""
        row = self.romeo.take(f"{channel} is in state {state}", lambda path, _interface, member, arguments: (
            path == channel and member == "FileTransferStateChanged" and arguments[0] == state))
        return row[3][1]


def dialled(address):
    """A connection to the socket of a transfer."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE)
    client.connect(bytes(address).rstrip(b"\0").decode())
    return client


def in_a_thread(work):
    """Starts it; gives what tells whether it is done, and then what came of it."""
    box = []
    threading.Thread(target=lambda: box.append(work()), daemon=True).start()
    return box


@scenario
def pidgins_bonjour_sends_a_file_and_is_declined_one():
    """finch sends a file, contents compared; a second one is declined, which finch is told."""
    scene = Scene()
    path, data = scene.file(3_000_001)
    scene.finch.sends(scene.buddy, path)
    channel, properties = scene.offered()
    assert properties[FILE_TRANSFER + ".Filename"] == os.path.basename(path), properties
    assert properties[FILE_TRANSFER + ".Size"] == len(data), properties
    address = scene.romeo.on(channel, FILE_TRANSFER, "AcceptFile",
                             GLib.Variant("(uuvt)", (0, 0, GLib.Variant("s", ""), 0)))

    def read():
        with dialled(address) as client, client.makefile("rb") as file:
            return file.read()
    came = in_a_thread(read)
    scene.becomes(channel, COMPLETED)
    until("all of it is read", lambda: came, detail=scene.romeo.seen)
    assert came[0] == data, (len(came[0]), len(data))
    scene.finch.hears("FileSendComplete")
    scene.romeo.close_channel(channel)
    scene.finch.sends(scene.buddy, path)
    channel, _ = scene.offered()
    scene.romeo.close_channel(channel)
    scene.finch.hears("FileSendCancel")


@scenario
def pidgins_bonjour_receives_a_file_and_declines_one():
    """finch receives a file, contents compared; a second one it declines, which is RemoteStopped."""
    scene = Scene()
    data = os.urandom(3_000_001)
    channel = scene.offer("figs & dates.bin", len(data))
    address = scene.romeo.on(channel, FILE_TRANSFER, "ProvideFile",
                             GLib.Variant("(uuv)", (0, 0, GLib.Variant("s", ""))))
    transfer = scene.finch.hears("FileRecvRequest")
    assert scene.finch.ask("PurpleXferGetFilename", "i", transfer) == "figs & dates.bin"
    assert scene.finch.ask("PurpleXferGetSize", "i", transfer) == len(data)
    target = os.path.join(scene.finch.dir, "figs")
    scene.finch.ask("PurpleXferRequestAccepted", "is", transfer, target)
    scene.becomes(channel, OPEN)

    def write():
        with dialled(address) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return client.recv(1)
    in_a_thread(write)
    scene.finch.hears("FileRecvComplete")
    scene.becomes(channel, COMPLETED)
    # It says so before it has closed its file.
    until("finch has written all of it", lambda: os.path.getsize(target) == len(data), detail=scene.finch.process.output)
    with open(target, "rb") as file:
        assert file.read() == data
    scene.romeo.close_channel(channel)
    channel = scene.offer("spam", 5)
    transfer = scene.finch.hears("FileRecvRequest")
    scene.finch.ask("PurpleXferRequestDenied", "i", transfer)
    assert scene.becomes(channel, CANCELLED) == REMOTE_STOPPED


@scenario
def pidgins_bonjour_is_offered_no_tubes():
    """finch knows of neither type: it is not shown as one who takes them, and nothing of them is sent to it."""
    scene = Scene()

    def types():
        classes = scene.romeo.on(scene.romeo.path, CAPABILITIES, "GetContactCapabilities",
                                 GLib.Variant("(au)", ([scene.handle],))).get(scene.handle, [])
        return {fixed[CHANNEL + ".ChannelType"] for fixed, _ in classes}
    until("it is known what finch takes", lambda: FILE_TRANSFER in types(), detail=scene.romeo.seen)
    assert not types() & {STREAM_TUBE, DBUS_TUBE}, types()
    for service, kind in (("http", STREAM_TUBE), ("com.example.Chess", DBUS_TUBE)):
        try:
            scene.romeo.create_tube(scene.handle, service, kind)
        except Error as error:
            assert error.short == "NotCapable", error
        else:
            raise Failure(f"finch was offered a tube\n{scene.romeo.seen()}")
