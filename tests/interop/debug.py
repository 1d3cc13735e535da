"""The service's messages: by telepathy-glib's TpDebugClient, and in the journal's own protocol."""
import os
import shutil

from home import *  # noqa: F403  (the tests' own vocabulary)


@scenario
def telepathy_glib_reads_messages():
    """TpDebugClient gets what is kept, enables it and hears each new message."""
    alice = Person("alice", online=False)
    agent = alice.agent()
    kept = agent.call(watch, CM_NAME)
    assert any(domain == "pneuma/dbus" and level == INFO and text.startswith("serving")
               for domain, level, text in kept), kept
    agent.start(hear, "another status")
    alice.go_online()
    domain, level, text = agent.answer()
    assert domain == "pneuma/dbus" and level == DEBUG, (domain, level, text)


# GLib's numbers of levels.
INFO, DEBUG = 1 << 6, 1 << 7


def watch(name):
    import gi
    gi.require_version("TelepathyGLib", "0.12")
    from gi.repository import Gio, GLib, TelepathyGLib as Tp
    loop = GLib.MainLoop()
    failed = []

    def run(start, finish):
        """Runs an asynchronous call to its end."""
        box = []

        def done(source, result, *_):
            box.append(finish(result))
            loop.quit()
        start(done)
        GLib.timeout_add_seconds(30, lambda: failed.append(1) or loop.quit())
        loop.run()
        assert box, "no answer in time"
        return box[0]

    (owner,) = Gio.bus_get_sync(Gio.BusType.SESSION, None).call_sync(
        "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetNameOwner",
        GLib.Variant("(s)", (name,)), None, Gio.DBusCallFlags.NONE, 10_000, None).unpack()
    client = Tp.DebugClient.new(Tp.DBusDaemon.dup(), owner)
    run(lambda done: client.prepare_async(None, done, None), client.prepare_finish)
    heard = []

    def row(message):
        domain = "/".join(filter(None, (message.get_domain(), message.get_category())))
        return [domain, int(message.get_level()), message.get_message()]
    client.connect("new-debug-message", lambda _client, message: heard.append(row(message)))
    run(lambda done: client.set_enabled_async(True, done, None), client.set_enabled_finish)
    messages = run(lambda done: client.get_messages_async(done, None), client.get_messages_finish)
    kept.update(client=client, heard=heard)
    return [row(message) for message in messages]


def hear(part):
    import time
    from gi.repository import GLib
    context = GLib.MainContext.default()
    deadline = time.monotonic() + 30
    tick = GLib.timeout_add(200, lambda: True)
    try:
        while time.monotonic() < deadline:
            for message in kept["heard"]:
                if part in message[2]:
                    return message
            context.iteration(True)
    finally:
        GLib.source_remove(tick)
    raise ValueError(f"not heard: {kept['heard']}")


class Apart:
    """This machine, with mounts of its own: what it has in /run is nobody else's."""
    interface = "lo"

    def prefix(self, uid=None):
        assert uid is None
        root = [] if os.getuid() == 0 else ["sudo", "-n"]
        return [*root, "unshare", "--mount", "--propagation", "private"]


@scenario
def the_journal_gets_levels_and_fields():
    """Where standard error is the journal's, the journal's own socket gets the messages."""
    folder = tempfile.mkdtemp(prefix="pneuma-journal-", dir="/tmp")
    agent = Agent(Apart())
    try:
        record, rest = agent.call(journal, public(binary("telepathy-pneuma")), folder, True)
        assert record["PRIORITY"] == "6" and record["MESSAGE"].startswith("serving"), record
        assert record["TARGET"] == "pneuma::dbus::service", record
        assert record["SYSLOG_IDENTIFIER"] == "telepathy-pneuma", record
        assert rest == "", rest
        # Who inherits the variable and writes elsewhere is read there.
        record, rest = agent.call(journal, public(binary("telepathy-pneuma")), folder, False)
        assert record is None and "serving" in rest, (record, rest)
    finally:
        agent.close()
        shutil.rmtree(folder, True)


def journal(program, folder, named):
    """Serves as the journal for one run of the program; gives the record of its serving, or None, and
    what it wrote to standard error."""
    import os
    import socket
    import struct
    import subprocess
    import time
    if not os.path.ismount("/run"):
        subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
    place = "/run/systemd/journal"
    os.makedirs(place, exist_ok=True)
    if os.path.exists(place + "/socket"):
        os.unlink(place + "/socket")
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(place + "/socket")
    receiver.settimeout(0.2)

    def read(data):
        found = {}
        while data:
            line, _, data = data.partition(b"\n")
            name, equals, value = line.partition(b"=")
            if not equals:
                (size,) = struct.unpack("<Q", data[:8])
                value, data = data[8:8 + size], data[9 + size:]
            found[name.decode()] = value.decode()
        return found

    run = os.path.join(folder, "run")
    os.makedirs(run, mode=0o700, exist_ok=True)
    with open(os.path.join(folder, "stderr"), "w+") as stderr:
        status = os.fstat(stderr.fileno())
        stream = f"{status.st_dev}:{status.st_ino + (0 if named else 1)}"
        child = subprocess.Popen(
            [program, "--serve", "private"], stdin=subprocess.DEVNULL, stderr=stderr,
            env={"JOURNAL_STREAM": stream, "XDG_RUNTIME_DIR": run, "HOME": folder,
                 "PATH": os.environ["PATH"]})
        record = None
        try:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                try:
                    record = read(receiver.recv(65536))
                except socket.timeout:
                    record = None
                if record and record.get("MESSAGE", "").startswith("serving"):
                    break
                stderr.seek(0)
                if "serving" in stderr.read():
                    break
        finally:
            child.terminate()
            child.wait(30)
        receiver.close()
        stderr.seek(0)
        return [record, stderr.read()]
