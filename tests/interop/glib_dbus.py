"""One side's client for D-Bus tubes: TpDBusTubeChannel, which chooses the access control, waits for the tube
to open and connects to its address by its own rules. Mission Control's part is glib_client.py's."""
from glib_client import CHANNEL, Client, Gio, GLib, Tp, finished, until

DBUS_TUBE = CHANNEL + ".Type.DBusTube"
BOARD = "/com/example/Chess/Board"
INTERFACE = "com.example.Chess.Board"
NODE = ('<node><interface name="com.example.Chess.Board"><method name="Play"><arg type="s" direction="in"/>'
        '<arg type="s" direction="out"/></method><method name="Think"/><signal name="Moved"><arg type="s"/></signal></interface>'
        '</node>')


def supports(capabilities, service):
    return capabilities.supports_dbus_tubes(Tp.HandleType.CONTACT, service)


class DBusClient(Client):
    CHANNELS = Tp.DBusTubeChannel

    def announce_dbus(self, service):
        """Registers a service as a Handler would through Mission Control."""
        self._register(DBUS_TUBE, {"ServiceName": GLib.Variant("s", service)})

    def takes_dbus(self, identifier, service):
        """Waits for a contact whose capabilities telepathy-glib reads as able to take `service`."""
        def able():
            contact = self.contact(identifier)
            capabilities = contact and contact.get_capabilities()
            return (capabilities and capabilities.is_specific_to_contact()
                    and supports(capabilities, service))
        assert supports(self.connection.get_capabilities(), service)
        return bool(until(f"{identifier} takes {service}", able))

    def create_dbus(self, identifier, service):
        self._create(identifier, DBUS_TUBE, {"ServiceName": GLib.Variant("s", service)})
        assert self.channel.get_service_name() == service

    def offer_dbus(self):
        """Offers it; done when it is open and telepathy-glib has connected to it."""
        self.tube = finished(self.channel.offer_async, self.channel.offer_finish, None)
        self._opened()

    def accept_dbus(self, service):
        """Accepts the tube that is offered for `service`; telepathy-glib connects to it."""
        self._take(DBUS_TUBE + ".ServiceName", service)
        self.tube = finished(self.channel.accept_async, self.channel.accept_finish)
        self._opened()

    def decline_dbus(self, service):
        """Closes what is offered for `service`."""
        self._take(DBUS_TUBE + ".ServiceName", service)
        return self.close()

    def look_at_dbus(self, service):
        """Takes what is offered for `service`, and does nothing with it yet."""
        self._take(DBUS_TUBE + ".ServiceName", service)

    def accept_what_is_gone(self):
        """Waits until what is offered is gone, and accepts it nevertheless; gives telepathy-glib's word for why not."""
        gone = self.invalidated()
        try:
            finished(self.channel.accept_async, self.channel.accept_finish)
        except GLib.Error:
            return gone
        raise AssertionError("what is gone was accepted")

    def begin_offer_dbus(self):
        """Offers it, and does not wait for the answer."""
        self.answers = []
        self.channel.offer_async(None, lambda channel, result: self.answers.append(result))
        until("it is on offer", lambda: self._state() == Tp.TubeChannelState.REMOTE_PENDING)

    def take_back_dbus(self):
        """Closes what was offered; gives telepathy-glib's word for why it is gone."""
        assert self.close()
        until("offer_async finishes", lambda: self.answers)
        try:
            self.channel.offer_finish(self.answers.pop())
        except GLib.Error:
            return self.invalidated()
        raise AssertionError("what was closed was open")

    def _state(self):
        return self.call(self.bus_name, self.channel.get_object_path(), "org.freedesktop.DBus.Properties", "Get",
                         GLib.Variant("(ss)", (CHANNEL + ".Interface.Tube", "State")), "(v)").unpack()[0]

    def play_to_nobody(self):
        """A call whose answer will not come; gives the error's last word."""
        box = []

        def answered(tube, result):
            try:
                box.append(tube.call_finish(result))
            except GLib.Error as error:
                box.append(error)
        self.tube.call(None, BOARD, INTERFACE, "Think", None, None, Gio.DBusCallFlags.NONE, 60000, None, answered)
        until("the call has failed", lambda: box)
        error, = box
        assert isinstance(error, GLib.Error), error
        remote = Gio.DBusError.get_remote_error(error)
        return remote.rsplit(".", 1)[-1] if remote else "Closed" if error.matches(
            Gio.io_error_quark(), Gio.IOErrorEnum.CLOSED) else error.message

    def connection_invalidated(self):
        """Waits until telepathy-glib has heard that the connection is gone; gives its word for why."""
        until("the connection is gone", lambda: self.connection.get_invalidated() is not None)
        return self.connection.get_invalidated().message

    def _opened(self):
        assert isinstance(self.tube, Gio.DBusConnection), type(self.tube)
        assert not self.tube.get_capabilities() & Gio.DBusCapabilityFlags.UNIX_FD_PASSING
        self.moves = []
        self.tube.signal_subscribe(None, INTERFACE, "Moved", BOARD, None, Gio.DBusSignalFlags.NONE,
                                   lambda *told: self.moves.append(told[5].unpack()[0]))
        node = Gio.DBusNodeInfo.new_for_xml(NODE)
        self.tube.register_object(BOARD, node.interfaces[0], self._play, None, None)

    def _play(self, _bus, _sender, _path, _interface, method, arguments, invocation):
        if method == "Think":
            self.thinking = invocation
            return
        said = arguments.unpack()[0]
        invocation.return_value(GLib.Variant("(s)", (said[::-1],)))

    def play(self, said):
        """Calls the other side's board while our own answers; gives what came back."""
        box = []

        def answered(tube, result):
            box.append(tube.call_finish(result).unpack()[0])
        self.tube.call(None, BOARD, INTERFACE, "Play", GLib.Variant("(s)", (said,)), None,
                       Gio.DBusCallFlags.NONE, 30000, None, answered)
        until("the other side has played", lambda: box)
        return box[0]

    def move(self, texts):
        for text in texts:
            self.tube.emit_signal(None, BOARD, INTERFACE, "Moved", GLib.Variant("(s)", (text,)))
        self.tube.flush_sync(None)

    def moved(self, count):
        """The moves we were told of, once there are so many."""
        until(f"{count} moves", lambda: len(self.moves) >= count)
        return self.moves

    def hung_up(self):
        """Waits until the tube's connection is closed."""
        until("the connection is closed", lambda: self.tube.is_closed())
        return True


class ManagedClient(DBusClient):
    """The same where it is Mission Control that makes channels and hands them out."""

    def __init__(self):
        self.daemon = Tp.DBusDaemon.dup()
        self.handled = []
        self.manager = Tp.AccountManager.dup()
        finished(self.manager.prepare_async, self.manager.prepare_finish,
                 [Tp.AccountManager.get_feature_quark_core()])
        self.account, = self.manager.dup_valid_accounts()

    def handle_dbus(self, service):
        """Waits for tubes of a service, as a Handler that says so."""
        self.handler = Tp.SimpleHandler.new(self.daemon, True, False, "Chess", False, self._handle, None)
        self.handler.add_handler_filter_vardict(GLib.Variant("a{sv}", {
            **self._fixed(DBUS_TUBE, {"ServiceName": GLib.Variant("s", service)}),
            CHANNEL + ".Requested": GLib.Variant("b", False)}))
        self.handler.register()

    def take_dbus(self, service):
        """Accepts what Mission Control hands to the Handler."""
        until("Mission Control hands a tube to the Handler", lambda: self.handled)
        self.channel = self.handled.pop()
        assert isinstance(self.channel, self.CHANNELS) and self.channel.get_service_name() == service, self.channel
        self.tube = finished(self.channel.accept_async, self.channel.accept_finish)
        self._opened()

    def _request(self, contact, service):
        request = Tp.AccountChannelRequest.new_dbus_tube(self.account, service, 0)
        request.set_target_id(Tp.HandleType.CONTACT, contact)
        return request

    def create_dbus(self, contact, service):
        """Has Mission Control make a channel for us to handle."""
        request = self._request(contact, service)
        self.channel, _ = finished(
            request.create_and_handle_channel_async, request.create_and_handle_channel_finish, None)
        assert isinstance(self.channel, self.CHANNELS) and self.channel.get_service_name() == service, self.channel

    def ensure_dbus(self, contact, service):
        """Has Mission Control make one unless there is one; gives its path, or why it is not ours."""
        request = self._request(contact, service)
        try:
            channel, _ = finished(
                request.ensure_and_handle_channel_async, request.ensure_and_handle_channel_finish, None)
        except GLib.Error as error:
            return error.message
        assert isinstance(channel, self.CHANNELS), channel
        self.channel, self.asked = channel, []
        request.connect("re-handled", lambda _request, again, *_: self.asked.append(again.get_object_path()))
        self.request = request
        return channel.get_object_path()

    def asked_again(self):
        """Waits until somebody else has asked for the channel that we have; gives its path."""
        until("somebody asks for our channel", lambda: self.asked)
        return self.asked.pop()
