"""The objects on the bus beside the specification."""
import os
import subprocess

from gi.repository import GLib

from home import *  # noqa: F403  (the tests' own vocabulary)
from dbus_tubes import SERVICE, made

FILE_TRANSFER = CHANNEL + ".Type.FileTransfer"
REQUIRED = {
    "manager": ["org.freedesktop.Telepathy.ConnectionManager"],
    "protocol": ["org.freedesktop.Telepathy.Protocol",
                 "org.freedesktop.Telepathy.Protocol.Interface.Presence"],
    "connection": ["org.freedesktop.Telepathy.Connection", REQUESTS,
                   CONNECTION + ".Interface.Contacts", CONTACT_LIST,
                   CONNECTION + ".Interface.ContactGroups", PRESENCE, ALIASING, CAPABILITIES],
    "channel": [CHANNEL, TUBE, STREAM_TUBE],
    "file": [CHANNEL, FILE_TRANSFER, CHANNEL + ".Interface.FileTransfer.Metadata"],
    "dbus": [CHANNEL, TUBE, CHANNEL + ".Type.DBusTube"],
    "debug": [TP + "Debug"],
}


CHECKER = os.path.join(ROOT, "..", "shared", "tools", "check-introspection")


def check(person, name, path, interfaces):
    """Holds an object against the specification, where the checker is beside the tree; gives its last word."""
    xml = person.call(name, path, "org.freedesktop.DBus.Introspectable", "Introspect")
    for interface in interfaces:
        assert f'<interface name="{interface}">' in xml, (path, interface)
    if not os.path.exists(CHECKER):
        return "check-introspection is not beside this tree: only the interfaces were compared"
    checked = subprocess.run(["/usr/bin/python3", CHECKER, name, path, "--require", *interfaces],
                             env=person.env(), capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    return checked.stdout.strip().splitlines()[-1:]


def a_file(alice, bob):
    """Both objects of a file that Alice offers to Bob."""
    takes = {CHANNEL + ".ChannelType": GLib.Variant("s", FILE_TRANSFER)}
    bob.on(bob.path, CAPABILITIES, "UpdateCapabilities",
           GLib.Variant("(a(saa{sv}as))", ([("org.example.Files", [takes], [])],)))
    request = {CHANNEL + ".ChannelType": GLib.Variant("s", FILE_TRANSFER),
               CHANNEL + ".TargetHandleType": GLib.Variant("u", 1),
               CHANNEL + ".TargetHandle": GLib.Variant("u", alice.handle_of("bob")),
               FILE_TRANSFER + ".ContentType": GLib.Variant("s", "text/plain"),
               FILE_TRANSFER + ".Filename": GLib.Variant("s", "notes.txt"),
               FILE_TRANSFER + ".Size": GLib.Variant("t", 5)}

    def created():
        try:
            return alice.on(alice.path, REQUESTS, "CreateChannel", GLib.Variant("(a{sv})", (request,)))[0]
        except Error as error:
            # Bob takes a moment to say that he takes files.
            assert error.name.endswith(".NotCapable"), error
            return None
    sent = until("Bob takes files", created)
    row = bob.take("Bob is offered a file", lambda _path, interface, member, arguments: (
        interface == REQUESTS and member == "NewChannels"
        and FILE_TRANSFER + ".Filename" in arguments[0][0][1]))
    return sent, row[3][0][0][0]


def a_dbus_tube(alice, bob):
    """Both objects of an open D-Bus tube, and one that is not offered yet."""
    made(alice, bob)
    rows = [(person, "dbus", path) for person in (alice, bob) for path, fixed in person.property(
        person.path, REQUESTS, "Channels") if fixed[CHANNEL + ".ChannelType"] == DBUS_TUBE]
    assert len(rows) == 2, rows
    return [*rows, (alice, "dbus", alice.create_tube(alice.handle_of("bob"), SERVICE, DBUS_TUBE))]


@scenario
def objects_are_what_the_specification_says():
    """check-introspection finds no difference on any object, where the checker is beside the tree."""
    port = free_port()
    alice, bob = Person("alice", port=port), Person("bob", port=port)
    echo = bob.agent()
    address = alice.agent().call(echo_server, ["tcp", "127.0.0.1", 0])
    requested = alice.create_tube(alice.handle_of("bob"), "x-echo")
    alice.offer(requested, address)
    incoming = bob.offered("x-echo")
    sent, received = a_file(alice, bob)
    objects = [(alice, "manager", CM_PATH), (alice, "protocol", CM_PATH + "/local_xmpp"),
               (alice, "connection", alice.path), (alice, "channel", requested),
               (bob, "channel", incoming), (alice, "file", sent), (bob, "file", received),
               *a_dbus_tube(alice, bob), (alice, "debug", "/org/freedesktop/Telepathy/debug")]
    for person, kind, path in objects:
        others = REQUIRED[kind][1:]
        listed = others and person.property(path, REQUIRED[kind][0], "Interfaces")
        for interface in others:
            # A channel's type is not among its interfaces.
            assert interface in listed or interface in (STREAM_TUBE, DBUS_TUBE, FILE_TRANSFER), (path, interface, listed)
        print(f"   {kind}: {check(person, CM_NAME, path, REQUIRED[kind])}")
    echo.close()
