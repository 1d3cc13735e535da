"""One side's client, by telepathy-glib through GObject introspection.

telepathy-glib gets its channels from Mission Control, which is not here. So this file plays Mission
Control's part by plain D-Bus: it owns the AccountManager's name, shows one Account, requests the
connection, creates channels, and hands each to the Handler (Client.Handler.HandleChannels), as Mission
Control would. The Handler is telepathy-glib's own TpSimpleHandler, and everything after that is its own
too: it introspects the connection manager, prepares the connection, the contact list and the
capabilities, and drives the tube with TpStreamTubeChannel, which picks the sockets and pairs the
signals by its own rules.

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
ACCOUNT = "/org/freedesktop/Telepathy/Account/pneuma/local_xmpp/test"
ACCOUNT_MANAGER = "org.freedesktop.Telepathy.AccountManager"
HANDLER = "org.freedesktop.Telepathy.Client"


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
    # What telepathy-glib makes of the channels, and where their sockets are listed.
    CHANNELS = Tp.StreamTubeChannel
    SOCKETS = STREAM_TUBE + ".SupportedSocketTypes"

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
        self.offered, self.kept, self.handled = [], [], []
        self.connections, self.parameters = [], []
        self.socket_types = None
        self.bus.signal_subscribe(None, CONNECTION + ".Interface.Requests", "NewChannels", None, None,
                                  Gio.DBusSignalFlags.NONE, self._new_channels)
        self.bus.signal_subscribe(None, STREAM_TUBE, "NewRemoteConnection", None, None,
                                  Gio.DBusSignalFlags.NONE, self._new_remote_connection)
        self._show_account()
        self.handler = Tp.SimpleHandler.new(
            self.daemon, True, False, "Test", False, self._handle, None)
        self.handler.register()

    def _show_account(self):
        """Mission Control's Account, as much of it as telepathy-glib looks at."""
        self.account = {
            "Interfaces": GLib.Variant("as", []), "DisplayName": GLib.Variant("s", "test"),
            "Icon": GLib.Variant("s", ""), "Valid": GLib.Variant("b", True),
            "Enabled": GLib.Variant("b", True), "Nickname": GLib.Variant("s", ""),
            "Service": GLib.Variant("s", ""), "Parameters": GLib.Variant("a{sv}", {}),
            "AutomaticPresence": GLib.Variant("(uss)", (2, "available", "")),
            "ConnectAutomatically": GLib.Variant("b", False),
            "Connection": GLib.Variant("o", "/"), "ConnectionStatus": GLib.Variant("u", 2),
            "ConnectionStatusReason": GLib.Variant("u", 0),
            "ConnectionError": GLib.Variant("s", ""), "ConnectionErrorDetails": GLib.Variant("a{sv}", {}),
            "CurrentPresence": GLib.Variant("(uss)", (1, "offline", "")),
            "RequestedPresence": GLib.Variant("(uss)", (2, "available", "")),
            "ChangingPresence": GLib.Variant("b", False), "NormalizedName": GLib.Variant("s", ""),
            "HasBeenOnline": GLib.Variant("b", True), "Supersedes": GLib.Variant("ao", [])}
        rows = "".join(f'<property name="{name}" type="{value.get_type_string()}" access="read"/>'
                       for name, value in self.account.items())
        node = Gio.DBusNodeInfo.new_for_xml(
            f'<node><interface name="org.freedesktop.Telepathy.Account">{rows}</interface></node>')
        self.bus.register_object(ACCOUNT, node.interfaces[0], None,
                                 lambda _bus, _sender, _path, _interface, name: self.account[name], None)
        Gio.bus_own_name_on_connection(self.bus, ACCOUNT_MANAGER, Gio.BusNameOwnerFlags.NONE, None, None)
        until("the AccountManager's name is ours", lambda: self._owned(ACCOUNT_MANAGER))

    def _owned(self, name):
        return self.bus.call_sync("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                                  "NameHasOwner", GLib.Variant("(s)", (name,)), GLib.VariantType("(b)"),
                                  Gio.DBusCallFlags.NONE, -1, None).unpack()[0]

    def _new_channels(self, _bus, _sender, _path, _interface, _member, arguments):
        rows = arguments.get_child_value(0)
        for row in (rows.get_child_value(number) for number in range(rows.n_children())):
            properties = row.get_child_value(1)
            requested = properties.lookup_value(CHANNEL + ".Requested", None)
            if not requested.get_boolean():
                self.offered.append((row.get_child_value(0).get_string(), properties))

    def _new_remote_connection(self, _bus, _sender, _path, _interface, _member, arguments):
        parameter = arguments.get_child_value(1).get_variant()
        self.parameters.append([parameter.get_type_string(), parameter.unpack()])

    def connection_parameters(self, count):
        """[(signature, value)] of NewRemoteConnection's parameters; waits for so many. (The signals come
        by another connection to the bus than telepathy-glib's own.)"""
        until(f"{count} NewRemoteConnection", lambda: len(self.parameters) >= count)
        return self.parameters

    def show_only(self, kinds):
        """From now on telepathy-glib sees only these of the sockets that channels have."""
        self.socket_types = kinds

    def _handle(self, _handler, _account, _connection, channels, _requests, _time, context, *_):
        self.handled += channels
        context.accept()

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
        self.account["Connection"] = GLib.Variant("o", path)
        self.account["ConnectionStatus"] = GLib.Variant("u", 0)
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
        self._register(STREAM_TUBE, {"Service": GLib.Variant("s", service)})

    def _fixed(self, kind, own):
        """What is fixed about channels of this type, with contacts and with these of its own properties."""
        return {CHANNEL + ".ChannelType": GLib.Variant("s", kind),
                CHANNEL + ".TargetHandleType": GLib.Variant("u", 1),
                **{f"{kind}.{name}": value for name, value in own.items()}}

    def _register(self, kind, own):
        fixed = self._fixed(kind, own)
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
        """Hands a channel to the Handler, and gives it as telepathy-glib gave it to us."""
        if self.socket_types is not None:
            properties = self._fewer_sockets(properties)
        arguments = GLib.Variant.new_tuple(
            GLib.Variant("o", ACCOUNT), GLib.Variant("o", self.path),
            GLib.Variant.new_array(GLib.VariantType("(oa{sv})"), [
                GLib.Variant.new_tuple(GLib.Variant("o", path), properties)]),
            GLib.Variant("ao", []), GLib.Variant("t", 0), GLib.Variant("a{sv}", {}))
        failed, done = [], []

        def answered(bus, result):
            try:
                bus.call_finish(result)
                done.append(True)
            except GLib.Error as error:
                failed.append(error)
        self.bus.call(self.handler.get_bus_name(), self.handler.get_object_path(), HANDLER + ".Handler",
                      "HandleChannels", arguments, None, Gio.DBusCallFlags.NONE, PATIENCE * 1000, None, answered)
        until("the Handler has the channel", lambda: failed or done)
        if failed:
            raise failed[0]
        channel = next(each for each in self.handled if each.get_object_path() == path)
        assert isinstance(channel, self.CHANNELS), type(channel)
        return channel

    def _fewer_sockets(self, properties):
        """telepathy-glib takes the first kind it knows of those in a channel's immutable properties."""
        name = self.SOCKETS
        all_of_them = properties.lookup_value(name, None).unpack()
        kept = GLib.Variant("a{uau}", {kind: all_of_them[kind] for kind in self.socket_types})
        rows = [properties.get_child_value(number) for number in range(properties.n_children())]
        rows = [row for row in rows if row.get_child_value(0).get_string() != name]
        rows.append(GLib.Variant.new_dict_entry(GLib.Variant("s", name), GLib.Variant.new_variant(kept)))
        return GLib.Variant.new_array(GLib.VariantType("{sv}"), rows)

    def _create(self, identifier, kind, own):
        """Requests a channel with a contact; from now on it is the channel. Gives its path."""
        request = self._fixed(kind, own)
        request[CHANNEL + ".TargetHandle"] = GLib.Variant("u", self.contact(identifier).get_handle())
        made = self.call(
            self.bus_name, self.path, CONNECTION + ".Interface.Requests", "CreateChannel",
            GLib.Variant("(a{sv})", (request,)), "(oa{sv})")
        path = made.get_child_value(0).get_string()
        self.channel = self._channel(path, made.get_child_value(1))
        return path

    def _take(self, name, text):
        """Waits until a channel is offered whose property `name` is this text; from now on it is the channel.
        Gives its path."""
        def found():
            return next((each for each in self.offered
                         if (said := each[1].lookup_value(name, None)) and said.get_string() == text),
                        None)
        path, properties = row = until(f"{text} is offered", found)
        # The next that is offered is another.
        self.offered.remove(row)
        self.channel = self._channel(path, properties)
        return path

    def offer(self, identifier, service):
        """Offers a tube; telepathy-glib chooses the socket and listens on it. (Parameters are a GHashTable
        of GValues whose types introspection does not know: none can be given from here.)"""
        path = self._create(identifier, STREAM_TUBE, {"Service": GLib.Variant("s", service)})
        assert self.channel.get_service() == service
        self.channel.connect("incoming", self._incoming)
        finished(self.channel.offer_async, self.channel.offer_finish, None)
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
        path = self._take(STREAM_TUBE + ".Service", service)
        self.tube = finished(self.channel.accept_async, self.channel.accept_finish)
        assert isinstance(self.tube, Tp.StreamTubeConnection), type(self.tube)
        self.accepted = path
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

    def door(self):
        """What the accepted tube's connection goes to, as the tests write addresses."""
        address = self.tube.get_socket_connection().get_remote_address()
        if isinstance(address, Gio.InetSocketAddress):
            return ["tcp", address.get_address().to_string(), address.get_port()]
        return ["unix", address.get_path()]

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
