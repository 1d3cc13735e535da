"""One side's client, by telepathy-glib through GObject introspection.

telepathy-glib's high-level client (TpBaseClient, TpAccountChannelRequest) wants Mission Control, which
is not here: the connection is requested and the channel created by plain D-Bus calls, as Mission
Control would make them. Everything after that is telepathy-glib's own: it introspects the connection
manager, prepares the connection, the contact list and the capabilities, and drives the tube with
TpStreamTubeChannel, which picks the sockets and pairs the signals by its own rules.

Runs inside an agent, one process for each side, since telepathy-glib knows one session bus only.
"""
import os
import socket
import threading
import time

import gi

gi.require_version("TelepathyGLib", "0.12")
from gi.repository import Gio, GLib, TelepathyGLib as Tp  # noqa: E402

CONNECTION = "org.freedesktop.Telepathy.Connection"
CHANNEL = "org.freedesktop.Telepathy.Channel"
STREAM_TUBE = CHANNEL + ".Type.StreamTube"
PATIENCE = 30


def until(what, attempt):
    context = GLib.MainContext.default()
    deadline = time.monotonic() + PATIENCE
    tick = GLib.timeout_add(200, lambda: True)
    try:
        while not (found := attempt()):
            if time.monotonic() > deadline:
                raise TimeoutError("waited until " + what)
            context.iteration(True)
        return found
    finally:
        GLib.source_remove(tick)


def finished(start, finish, *arguments):
    """Runs an asynchronous call of telepathy-glib to its end."""
    box = []
    start(*arguments, lambda source, result, *_: box.append(result))
    until(start.__name__ + " finishes", lambda: box)
    return finish(box[0])


def tubes(capabilities, service="x-any"):
    """Whether telepathy-glib reads stream tubes out of capabilities. For those of a contact it wants a
    class with just this service; for those of a connection it does not look at the service. (NULL,
    which asks about any service, does not go through introspection.)"""
    return capabilities.supports_stream_tubes(Tp.HandleType.CONTACT, service)


class Client:
    def __init__(self):
        self.daemon = Tp.DBusDaemon.dup()
        self.bus = Gio.bus_get_sync(Gio.BusType.SESSION, None)
        self.factory = Tp.AutomaticClientFactory.new(self.daemon)
        of = Tp.Connection
        self.factory.add_connection_features([
            of.get_feature_quark_connected(), of.get_feature_quark_contact_list(),
            of.get_feature_quark_capabilities(), of.get_feature_quark_aliasing()])
        self.factory.add_contact_features([
            Tp.ContactFeature.ALIAS, Tp.ContactFeature.PRESENCE, Tp.ContactFeature.CAPABILITIES])
        self.offered, self.kept = [], []
        self.connections = []
        self.bus.signal_subscribe(None, CONNECTION + ".Interface.Requests", "NewChannels", None, None,
                                  Gio.DBusSignalFlags.NONE, self._new_channels)

    def _new_channels(self, _bus, _sender, _path, _interface, _member, arguments):
        for path, properties in arguments.unpack()[0]:
            if not properties[CHANNEL + ".Requested"]:
                self.offered.append((path, properties))

    def describe_manager(self):
        """What telepathy-glib makes of the connection manager."""
        manager = Tp.ConnectionManager.new(self.daemon, "pneuma", None)
        finished(manager.prepare_async, manager.prepare_finish,
                 [Tp.ConnectionManager.get_feature_quark_core()])
        protocol = manager.get_protocol_object("local-xmpp")
        parameters = sorted(name for name in protocol.dup_param_names())
        return {"running": manager.is_running(), "protocols": sorted(manager.dup_protocol_names()),
                "parameters": parameters, "english": protocol.get_english_name(),
                "icon": protocol.get_icon_name(),
                "tubes": tubes(protocol.get_capabilities()),
                "required": [name for name in parameters
                             if protocol.get_param(name).is_required()]}

    def call(self, name, path, interface, method, arguments, result):
        return self.bus.call_sync(name, path, interface, method, arguments,
                                  GLib.VariantType(result), Gio.DBusCallFlags.NONE, PATIENCE * 1000, None)

    def connect(self, name, port):
        """Brings the account online; gives our identifier."""
        parameters = {"published-name": GLib.Variant("s", name),
                      "pneuma-interface": GLib.Variant("s", "lo"),
                      "pneuma-mdns-port": GLib.Variant("q", port)}
        manager = "org.freedesktop.Telepathy.ConnectionManager.pneuma"
        bus_name, path = self.call(
            manager, "/" + manager.replace(".", "/"), "org.freedesktop.Telepathy.ConnectionManager",
            "RequestConnection", GLib.Variant("(sa{sv})", ("local-xmpp", parameters)), "(so)").unpack()
        self.bus_name, self.path = bus_name, path
        self.connection = self.factory.ensure_connection(path, {})
        finished(self.connection.prepare_async, self.connection.prepare_finish,
                 [Tp.Connection.get_feature_quark_core()])
        self.call(bus_name, path, CONNECTION, "Connect", None, "()")
        finished(self.connection.prepare_async, self.connection.prepare_finish,
                 self.factory.dup_connection_features(self.connection))
        status, _reason = self.connection.get_status()
        assert status == Tp.ConnectionStatus.CONNECTED, status
        assert tubes(self.connection.get_capabilities())
        assert self.connection.get_contact_list_state() == Tp.ContactListState.SUCCESS
        assert self.connection.has_immortal_handles()
        return self.connection.get_self_contact().get_identifier()

    def announce(self, service):
        """Registers a service as a Handler would through Mission Control."""
        fixed = {CHANNEL + ".ChannelType": GLib.Variant("s", STREAM_TUBE),
                 CHANNEL + ".TargetHandleType": GLib.Variant("u", 1),
                 STREAM_TUBE + ".Service": GLib.Variant("s", service)}
        self.call(self.bus_name, self.path, CONNECTION + ".Interface.ContactCapabilities",
                  "UpdateCapabilities",
                  GLib.Variant("(a(saa{sv}as))", ([("org.freedesktop.Telepathy.Client.Test", [fixed], [])],)),
                  "()")

    def contact(self, identifier):
        found = [each for each in self.connection.dup_contact_list()
                 if each.get_identifier() == identifier]
        return found[0] if found else None

    def sees(self, identifier, service):
        """Waits for a contact whose capabilities telepathy-glib reads as able to take `service`."""
        def able():
            contact = self.contact(identifier)
            capabilities = contact and contact.get_capabilities()
            if not capabilities or not capabilities.is_specific_to_contact():
                return None
            return tubes(capabilities, service) and contact
        contact = until(f"{identifier} takes {service}", able)
        return [contact.get_alias(), int(contact.get_presence_type()), contact.get_presence_status()]

    def _channel(self, path, properties):
        plain = {key: value for key, value in properties.items()}
        channel = self.factory.ensure_channel(self.connection, path, plain)
        finished(channel.prepare_async, channel.prepare_finish,
                 self.factory.dup_channel_features(channel))
        assert isinstance(channel, Tp.StreamTubeChannel), type(channel)
        return channel

    def offer(self, identifier, service, parameters):
        """Offers a tube; telepathy-glib chooses the socket and listens on it."""
        handle = self.contact(identifier).get_handle()
        request = {CHANNEL + ".ChannelType": GLib.Variant("s", STREAM_TUBE),
                   CHANNEL + ".TargetHandleType": GLib.Variant("u", 1),
                   CHANNEL + ".TargetHandle": GLib.Variant("u", handle),
                   STREAM_TUBE + ".Service": GLib.Variant("s", service)}
        path, properties = self.call(
            self.bus_name, self.path, CONNECTION + ".Interface.Requests", "CreateChannel",
            GLib.Variant("(a{sv})", (request,)), "(oa{sv})").unpack()
        self.channel = self._channel(path, properties)
        assert self.channel.get_service() == service
        self.channel.connect("incoming", self._incoming)
        finished(self.channel.offer_async, self.channel.offer_finish, parameters)
        return path

    def _incoming(self, _channel, connection):
        """A connection through the tube: echo it, on a thread with a descriptor of its own."""
        self.connections.append(connection.get_contact().get_identifier())
        self.kept.append(connection)
        descriptor = connection.get_socket_connection().get_socket().get_fd()
        client = socket.socket(fileno=os.dup(descriptor))
        client.setblocking(True)

        def echo():
            while data := client.recv(65536):
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            client.close()
        threading.Thread(target=echo, daemon=True).start()

    def accept(self, service):
        """Accepts the tube that is offered for `service`; gives its parameters."""
        def found():
            return next((each for each in self.offered
                         if each[1][STREAM_TUBE + ".Service"] == service), None)
        path, properties = until(f"{service} is offered", found)
        self.channel = self._channel(path, properties)
        self.tube = finished(self.channel.accept_async, self.channel.accept_finish)
        assert isinstance(self.tube, Tp.StreamTubeConnection), type(self.tube)
        parameters = self.channel.dup_parameters_vardict()
        return {"from": self.tube.get_contact().get_identifier(), "parameters": parameters.unpack()}

    def exchange(self, text):
        """Sends a text through the accepted tube and reads as much back."""
        stream = self.tube.get_socket_connection()
        out, back = stream.get_output_stream(), stream.get_input_stream()
        out.write_all(text.encode(), None)
        got = b""
        while len(got) < len(text.encode()):
            part = back.read_bytes(65536, None).get_data()
            if not part:
                break
            got += part
        return got.decode()

    def served(self, count):
        """Lets the main loop take connections until `count` came; gives from whom."""
        until(f"{count} connections came", lambda: len(self.connections) >= count)
        return self.connections

    def close(self):
        return bool(finished(self.channel.close_async, self.channel.close_finish))

    def invalidated(self):
        """Waits until the channel is gone; gives telepathy-glib's word for why."""
        until("the channel is gone", lambda: self.channel.get_invalidated() is not None)
        return self.channel.get_invalidated().message
