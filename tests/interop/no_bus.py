"""A client nobody here wrote (GDBus) at the private socket, with no bus between."""
import os
import subprocess

from gi.repository import Gio, GLib

from home import *  # noqa: F403  (the tests' own vocabulary)


class Private:
    """GDBus at a person's private socket."""

    def __init__(self, person):
        self.signals = []
        path = os.path.join(person.dir, "run", "pneuma", "bus")
        self.peer = Gio.DBusConnection.new_for_address_sync(
            f"unix:path={path}", Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT, None, None)
        self.peer.set_exit_on_close(False)
        self.peer.signal_subscribe(None, None, None, None, None, Gio.DBusSignalFlags.NONE, self._signal)

    def _signal(self, _peer, _sender, path, interface, member, arguments, *_):
        self.signals.append((path, interface, member, arguments.unpack()))

    def call(self, path, interface, method, arguments=None):
        answer = self.peer.call_sync(None, path, interface, method, arguments, None,
                                     Gio.DBusCallFlags.NONE, PATIENCE * 1000, None).unpack()
        return answer[0] if len(answer) == 1 else answer

    def wait(self, what, matches):
        return until(what, lambda: [row for row in self.signals if matches(*row)],
                     detail=lambda: str(self.signals[-20:]))[0]


@scenario
def gdbus_offers_a_tube_without_a_bus():
    """From RequestConnection to the bytes, by GDBus at the private socket; a second one hears it all."""
    port = free_port()
    alice = Person("alice", port=port, online=False, arguments=["--serve", "both"])
    bob = Person("bob", port=port)
    service = alice.agent().call(echo_server, ["tcp", "127.0.0.1", 0])
    client, listener = Private(alice), Private(alice)

    _, path = client.call(CM_PATH, TP + "ConnectionManager", "RequestConnection",
                          GLib.Variant("(sa{sv})", ("local-xmpp", alice.parameters())))
    client.call(path, CONNECTION, "Connect")
    for each in (client, listener):
        each.wait("Connected", lambda at, _interface, member, arguments:
                  at == path and member == "StatusChanged" and arguments[0] == 0)
    xml = client.call(path, "org.freedesktop.DBus.Introspectable", "Introspect")
    assert f'<interface name="{CONTACT_LIST}">' in xml

    def handle_of_bob():
        rows = client.call(path, CONTACT_LIST, "GetContactListAttributes",
                           GLib.Variant("(asb)", ([CAPABILITIES], False)))
        for handle, values in rows.items():
            able = any(fixed.get(CHANNEL + ".ChannelType") == STREAM_TUBE
                       for fixed, _ in values.get(CAPABILITIES + "/capabilities", []))
            if able and values[CONNECTION + "/contact-id"].startswith("bob@"):
                return handle
        return None
    request = {CHANNEL + ".ChannelType": GLib.Variant("s", STREAM_TUBE),
               CHANNEL + ".TargetHandleType": GLib.Variant("u", 1),
               CHANNEL + ".TargetHandle": GLib.Variant("u", until("Bob is there", handle_of_bob)),
               STREAM_TUBE + ".Service": GLib.Variant("s", "x-echo")}
    channel, _ = client.call(path, REQUESTS, "CreateChannel", GLib.Variant("(a{sv})", (request,)))
    kind, address = to_variant(service)
    client.call(channel, STREAM_TUBE, "Offer", GLib.Variant("(uvua{sv})", (kind, address, 0, {})))
    door = bob.accept(bob.offered("x-echo"), IPV4)
    assert bob.agent().call(exchange, door, 300_000) == 300_000
    for each in (client, listener):
        each.wait("the connection", lambda at, _interface, member, _arguments:
                  at == channel and member == "NewRemoteConnection")

    # There is no bus to greet: the tools that insist on one say so.
    socket = os.path.join(alice.dir, "run", "pneuma", "bus")
    tool = subprocess.run(["gdbus", "introspect", "--address", f"unix:path={socket}", "--dest", "x",
                           "--object-path", CM_PATH], capture_output=True, text=True, timeout=PATIENCE)
    assert tool.returncode != 0 and "org/freedesktop/DBus" in tool.stderr, tool
