"""A service of one person's session bus, used by another one: programs nobody here wrote at both ends.

    alice's session bus                                              bob's
    mpv ─ pneuma offer ─ telepathy-pneuma ══ telepathy-pneuma ─ pneuma accept ─ busctl, gdbus, playerctl
"""
import struct

from home import *  # noqa: F403  (the tests' own vocabulary)

MPV = "org.mpris.MediaPlayer2.mpv"
ROOT_INTERFACE = "org.mpris.MediaPlayer2"
PLAYER = "org.mpris.MediaPlayer2.Player"
PATH = "/org/mpris/MediaPlayer2"
PROPERTIES = "org.freedesktop.DBus.Properties"
TITLE, ARTIST = "Stille Nächte", "Niemand"
DCONF, WRITER = "ca.desrt.dconf", "/ca/desrt/dconf/Writer"


def people():
    """Alice and Bob, users of their own, whose commands find their accounts; and Bob's id and hers."""
    port = free_port()
    made = [Person(name, uid=uid, port=port, env={
        "PNEUMA_NAME": name, "PNEUMA_INTERFACE": "lo", "PNEUMA_MDNS_PORT": str(port)})
        for name, uid in (("alice", ALICE), ("bob", BOB))]
    alice, bob = made
    return alice, bob, alice.sees(bob)[0], bob.sees(alice)[0]


def song(person):
    """Ten minutes of silence that say who made them: a RIFF file of one channel, a byte a sample."""
    path = os.path.join(person.dir, "song.wav")
    chunk = lambda name, data: name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    said = b"INFO" + chunk(b"INAM", TITLE.encode() + b"\0") + chunk(b"IART", ARTIST.encode() + b"\0")
    body = (b"WAVE" + chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 8000, 8000, 1, 8)) + chunk(b"LIST", said)
            + chunk(b"data", b"\x80" * 8000 * 600))
    with open(path, "wb") as file:
        file.write(chunk(b"RIFF", body))
    return path


class Follower(Process):
    """A tool that goes on telling, at a bus."""

    def __init__(self, person, address, *command):
        log = os.path.join(person.dir, f"{command[0]}-{time.monotonic_ns()}.log")
        super().__init__(command[0], person.machine.prefix(person.uid) + list(command),
                         {**person.env(), "DBUS_SESSION_BUS_ADDRESS": address}, log, cwd=person.dir)
        to_close.append(self)

    def says(self, text, times=1):
        """Waits until it has said this, so often."""
        until(f"{self.label} says {text}", lambda: self.output().count(text) >= times, detail=self.output)

    def close(self):
        self.kill()
        if self in to_close:
            to_close.remove(self)


class Playing:
    """mpv on a person's session bus: paused, silent, without a screen."""

    def __init__(self, person):
        self.person = person
        self.mpv = Follower(person, person.bus_address, "mpv", "--ao=null", "--no-video", "--pause", "--loop",
                            song(person))
        here(person, person.bus_address, MPV)
        until("mpv knows what it plays", lambda: TITLE in str(self.has("Metadata")), detail=self.mpv.output)

    def has(self, name, interface=PLAYER):
        """A property, at its own bus."""
        return self.person.call(MPV, PATH, PROPERTIES, "Get", GLib.Variant("(ss)", (interface, name)))

    def becomes(self, name, value):
        until(f"{name} is {value}", lambda: self.has(name) == value,
              detail=lambda: f"{self.has(name)}\n{self.person.seen()}")


def tool(person, address, *command, **more):
    """Runs a person's tool at a bus."""
    return person.run(*command, env={"DBUS_SESSION_BUS_ADDRESS": address}, **more)


def here(person, address, name):
    """Waits as people's scripts do until a bus has a name."""
    tool(person, address, "gdbus", "wait", "--session", "--timeout", str(PATIENCE - 5), name)


def refused(person, address, *command, saying):
    done = tool(person, address, *command, check=False)
    assert done.returncode != 0 and saying in done.stdout + done.stderr, (command, done)


def joined(sharing, using, ids, name, offered=(), accepted=()):
    """Both commands once the tube is open, and where it is."""
    to, whose = ids
    offering = sharing.pneuma("offer", f"dbus:{name}", "--to", to, *offered)
    offering.event("offered")
    accepting = using.pneuma("accept", whose, f"dbus:{name}", *accepted)
    address = accepting.event("accepted")["address"]
    offering.event("opened")
    return offering, accepting, address


def small_bus(person):
    """Where the person wants the small bus to be: the option, and the address."""
    path = os.path.join(person.dir, "run", "alices")
    return ("--listen", f"unix:{path}"), f"unix:path={path}"


def busctl(person, address, *arguments, **more):
    return tool(person, address, "busctl", f"--address={address}", "--no-pager", *arguments, **more)


def controlled(playing, bob, address, name):
    """Every tool of Bob's at this bus plays, pauses, reads, writes and hears what `playing` does."""
    alice, short = playing.person, name.removeprefix(ROOT_INTERFACE + ".")
    playerctl = lambda *arguments: tool(bob, address, "playerctl", f"--player={short}", *arguments).strip()
    assert short in tool(bob, address, "playerctl", "--list-all").split()
    every = "{{title}}|{{artist}}|{{xesam:url}}|{{mpris:length}}|{{volume}}"
    same = tool(alice, alice.bus_address, "playerctl", "--player=mpv", "metadata", "--format", every).strip()
    assert playerctl("metadata", "--format", every) == same and same.startswith(f"{TITLE}|{ARTIST}|file:///"), same

    follower = Follower(bob, address, "playerctl", f"--player={short}", "--follow", "status")
    follower.says("Paused")
    playerctl("play")
    playing.becomes("PlaybackStatus", "Playing")
    follower.says("Playing")
    at = playing.has("Position")
    until("it goes on", lambda: playing.has("Position") > at + 200_000, detail=alice.seen)
    tool(bob, address, "gdbus", "call", "--session", "--dest", name, "--object-path", PATH,
         "--method", PLAYER + ".Pause")
    playing.becomes("PlaybackStatus", "Paused")
    follower.says("Paused", 2)
    busctl(bob, address, "set-property", name, PATH, PLAYER, "Volume", "d", "0.5")
    playing.becomes("Volume", 0.5)
    assert "d 0.5" in busctl(bob, address, "get-property", name, PATH, PLAYER, "Volume")
    assert "PlayPause" in busctl(bob, address, "introspect", name, PATH)
    assert PATH in busctl(bob, address, "tree", name)

    # What somebody at her own bus does is heard; the first time only once it listens, after it has said so.
    monitor = Follower(bob, address, "gdbus", "monitor", "--session", "--dest", name)
    monitor.says("is owned by")
    volumes = iter(range(1, 1000))

    def heard():
        tool(alice, alice.bus_address, "playerctl", "--player=mpv", "volume", str(next(volumes) / 1000))
        return "'Volume'" in monitor.output() and PLAYER in monitor.output()
    until("a change is heard", heard, detail=monitor.output)
    return monitor


@scenario
def mpv_is_controlled_at_a_small_bus():
    """By playerctl, gdbus and busctl, through the tube; nothing else of Alice's bus is there or heard."""
    alice, bob, *ids = people()
    playing = Playing(alice)
    option, address = small_bus(bob)
    offering, accepting, at = joined(alice, bob, ids, MPV, accepted=option)
    assert at == address, at
    here(bob, address, MPV)
    controlled(playing, bob, address, MPV).close()

    # Everything that Bob can hear and see of Alice's bus is mpv's.
    listener = bob.agent()
    listener.call(hear_everything, address, MPV)
    secret = "com.example.Secret"
    alice.bus.call_sync("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "RequestName",
                        GLib.Variant("(su)", (secret, 0)), None, Gio.DBusCallFlags.NONE, -1, None)
    alice.bus.emit_signal(None, PATH, PLAYER, "Secret", GLib.Variant("(s)", ("not for Bob",)))
    alice.bus.emit_signal(None, "/", secret, "Secret", GLib.Variant("(s)", ("not for Bob",)))
    tool(alice, alice.bus_address, "playerctl", "--player=mpv", "volume", "1.0")
    heard = listener.call(heard_until, "'Volume': <1.0>")
    assert not [row for row in heard if "Secret" in str(row)], heard
    names = {row.split()[0] for row in busctl(bob, address, "list", "--no-legend").splitlines()}
    assert {name for name in names if not name.startswith(":")} == {"org.freedesktop.DBus", MPV}, names
    for other in (secret, CM_NAME, "org.freedesktop.systemd1"):
        refused(bob, address, "gdbus", "call", "--session", "--dest", other, "--object-path", "/", "--method",
                "org.freedesktop.DBus.Peer.Ping", saying="ServiceUnknown")

    # The player comes and goes; the tube stays.
    monitor = Follower(bob, address, "gdbus", "monitor", "--session", "--dest", MPV)
    monitor.says("is owned by")
    tool(bob, address, "gdbus", "call", "--session", "--dest", MPV, "--object-path", PATH, "--method",
         ROOT_INTERFACE + ".Quit", check=False)
    monitor.says("does not have an owner")
    refused(bob, address, "playerctl", "--player=mpv", "status", saying="No players found")
    playing = Playing(alice)
    monitor.says("is owned by", 2)
    tool(bob, address, "playerctl", "--player=mpv", "play")
    playing.becomes("PlaybackStatus", "Playing")

    assert accepting.interrupt() == 0
    offering.event("closed")
    assert offering.ends() == 0
    assert not os.path.exists(address.removeprefix("unix:path="))
    # Whoever used it has stopped nothing else.
    assert playing.has("PlaybackStatus") == "Playing"


def hear_everything(address, name):
    """Connects to a bus and keeps every signal that it gives to anybody who asks for all of them."""
    import threading
    from gi.repository import Gio, GLib
    flags = Gio.DBusConnectionFlags
    bus = Gio.DBusConnection.new_for_address_sync(
        address, flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION, None, None)
    kept["heard"] = []
    kept["bus"] = bus
    context = GLib.MainContext.default()
    bus.signal_subscribe(None, None, None, None, None, Gio.DBusSignalFlags.NONE, lambda *row: kept["heard"].append(
        [row[1], row[2], row[3], row[4], row[5].print_(False)]))
    # Its rule is in force once a later call is answered.
    bus.call_sync(name, "/", "org.freedesktop.DBus.Peer", "Ping", None, None, Gio.DBusCallFlags.NONE, 20000, None)
    threading.Thread(target=GLib.MainLoop(context).run, daemon=True).start()


def heard_until(text):
    """Waits for a signal with this in it; gives all that came."""
    import time
    deadline = time.monotonic() + 30
    while not any(text in row[4] for row in kept["heard"]):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{text} was not heard: {kept['heard']}")
        time.sleep(0.05)
    return kept["heard"]


@scenario
def mpv_is_controlled_under_a_name_on_the_contacts_bus():
    """The same tools on Bob's own session bus, among his other services."""
    alice, bob, *ids = people()
    playing = Playing(alice)
    own = ROOT_INTERFACE + ".alices"
    offering, accepting, at = joined(alice, bob, ids, MPV, accepted=("--own", own))
    assert at == f"dbus:{own}", at
    assert accepting.event("service")["is"] == "here"
    monitor = controlled(playing, bob, bob.bus_address, own)
    # Beside a player of his own, which is another one.
    his = Playing(bob)
    listed = tool(bob, bob.bus_address, "playerctl", "--list-all").split()
    assert sorted(listed) == ["alices", "mpv"], listed
    tool(bob, bob.bus_address, "playerctl", "--player=alices", "play")
    playing.becomes("PlaybackStatus", "Playing")
    assert his.has("PlaybackStatus") == "Paused"

    playing.mpv.close()
    assert accepting.event("service")["is"] == "away"
    monitor.says("does not have an owner")
    assert not bob.has_owner(own)
    playing = Playing(alice)
    assert accepting.event("service")["is"] == "here"
    tool(bob, bob.bus_address, "playerctl", "--player=alices", "play")
    playing.becomes("PlaybackStatus", "Playing")
    assert offering.interrupt() == 0
    assert accepting.ends() == 0
    until("the name is free", lambda: not bob.has_owner(own), detail=bob.seen)
    assert his.has("PlaybackStatus") == "Paused"


@scenario
def mpv_that_is_only_shown_is_not_controlled():
    """With --read-only it is read and heard, and what would change it is refused; with --object and
    --dbus-interface so is everything else."""
    alice, bob, *ids = people()
    playing = Playing(alice)
    option, address = small_bus(bob)
    get = lambda interface, name: ("busctl", f"--address={address}", "get-property", MPV, PATH, interface, name)
    volume = lambda: tool(bob, address, *get(PLAYER, "Volume"))
    change = [("playerctl", "--player=mpv", "play"),
              ("gdbus", "call", "--session", "--dest", MPV, "--object-path", PATH, "--method", PLAYER + ".Pause"),
              ("busctl", f"--address={address}", "set-property", MPV, PATH, PLAYER, "Volume", "d", "0.5")]

    offering, accepting, _ = joined(alice, bob, ids, MPV, ("--read-only",), option)
    here(bob, address, MPV)
    follower = Follower(bob, address, "playerctl", "--player=mpv", "--follow", "status")
    follower.says("Paused")
    assert TITLE in tool(bob, address, "playerctl", "--player=mpv", "metadata", "title")
    for command in change:
        done = tool(bob, address, *command, check=False)
        # busctl and GDBus each have their words for AccessDenied.
        said = (done.stdout + done.stderr).lower().replace(" ", "")
        assert done.returncode != 0 and "accessdenied" in said, (command, done)
    assert playing.has("PlaybackStatus") == "Paused" and playing.has("Volume") == 1.0
    # What Alice does herself is heard.
    tool(alice, alice.bus_address, "playerctl", "--player=mpv", "play")
    follower.says("Playing")
    assert "d 1" in volume()
    tool(alice, alice.bus_address, "playerctl", "--player=mpv", "pause")
    follower.says("Paused", 2)
    assert accepting.interrupt() == 0
    assert offering.ends() == 0

    only = ("--object", PATH, "--dbus-interface", PLAYER)
    offering, accepting, _ = joined(alice, bob, ids, MPV, only, option)
    here(bob, address, MPV)
    assert "s \"Paused\"" in tool(bob, address, *get(PLAYER, "PlaybackStatus"))
    call = ("busctl", f"--address={address}", "call", MPV)
    for command in (get(ROOT_INTERFACE, "Identity"), (*call, PATH, ROOT_INTERFACE, "Quit"),
                    (*call, "/", PLAYER, "Play")):
        refused(bob, address, *command, saying="Access denied")
    tool(bob, address, *call, PATH, PLAYER, "Play")
    playing.becomes("PlaybackStatus", "Playing")
    assert accepting.interrupt() == 0
    assert offering.ends() == 0


@scenario
def settings_are_written_on_the_other_side():
    """Debian's dconf-service and dconf: Bob's writes are Alice's settings, and what she changes he hears of."""
    alice, bob, *ids = people()
    Follower(alice, alice.bus_address, "/usr/libexec/dconf-service")
    here(alice, alice.bus_address, DCONF)
    option, address = small_bus(bob)
    joined(alice, bob, ids, DCONF, ("--object", WRITER), option)
    here(bob, address, DCONF)
    dconf = lambda *arguments: tool(bob, address, "dconf", *arguments)
    dconf("write", "/org/example/light", "'green'")
    read = lambda key: alice.run("dconf", "read", key).strip()
    assert read("/org/example/light") == "'green'", read("/org/example/light")
    # Nothing was written at Bob's.
    assert not os.path.exists(os.path.join(bob.dir, "config", "dconf")), os.listdir(os.path.join(bob.dir, "config"))
    # A megabyte of settings in one message.
    large = repr("x" * 1_000_000)
    tool(bob, address, "dconf", "load", "/org/example/", input=f"[/]\nlarge={large}\n", stdin=None)
    assert read("/org/example/large") == large
    monitor = Follower(bob, address, "gdbus", "monitor", "--session", "--dest", DCONF)
    monitor.says("is owned by")
    numbers = iter(range(1000))

    def heard():
        alice.run("dconf", "write", "/org/example/number", str(next(numbers)))
        return "/org/example/number" in monitor.output()
    until("a change is heard", heard, detail=monitor.output)
    # One that is refused is told so.
    refused(bob, address, "gdbus", "call", "--session", "--dest", DCONF, "--object-path", "/", "--method",
            "org.freedesktop.DBus.Introspectable.Introspect", saying="AccessDenied")
