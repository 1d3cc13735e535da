"""One side's client for files: TpFileTransferChannel, which picks the sockets, sets the URI, reads and
writes the file and follows the states by its own rules. Mission Control's part is glib_client.py's."""
import os
import socket

from glib_client import CHANNEL, Client, Gio, GLib, Tp, until

FILE_TRANSFER = CHANNEL + ".Type.FileTransfer"


class FileClient(Client):
    CHANNELS = Tp.FileTransferChannel
    SOCKETS = FILE_TRANSFER + ".AvailableSocketTypes"

    def announce_files(self):
        """Registers files as a Handler would through Mission Control."""
        self._register(FILE_TRANSFER, {})

    def takes_files(self, identifier):
        """Waits for a contact whose capabilities telepathy-glib reads as able to take files."""
        def able():
            contact = self.contact(identifier)
            capabilities = contact and contact.get_capabilities()
            return (capabilities and capabilities.is_specific_to_contact()
                    and capabilities.supports_file_transfer())
        assert self.connection.get_capabilities().supports_file_transfer()
        return bool(until(f"{identifier} takes files", able))

    def _works(self, start, *arguments):
        """Begins something that goes on beside the signals; a failure of it is ours."""
        self.failed = []

        def answered(_channel, result):
            finish = getattr(self.channel, start.__name__.replace("_async", "_finish"))
            try:
                finish(result)
            except GLib.Error as error:
                self.failed.append(error)
        start(*arguments, answered)

    def send(self, identifier, path, name, size, provide=None):
        """Offers a file and provides it; telepathy-glib reads it."""
        self._create(identifier, FILE_TRANSFER, {
            "Filename": GLib.Variant("s", name), "Size": GLib.Variant("t", size),
            "ContentType": GLib.Variant("s", "text/plain"), "Description": GLib.Variant("s", "said of it")})
        assert self.channel.get_filename() == name and self.channel.get_size() == size
        file = Gio.File.new_for_path(path)
        self.failed = []
        if provide is None:
            self._works(self.channel.provide_file_async, file)
        else:
            provide(file)

    def send_rest(self, identifier, path, name, size):
        """Offers a file and provides it from where the contact wants it, which telepathy-glib itself does
        not do: through a Unix socket, by hand."""
        self.send(identifier, path, name, size, self._provide_rest)

    def _provide_rest(self, file):
        at = lambda member, arguments, result: self.call(
            self.bus_name, self.channel.get_object_path(), FILE_TRANSFER, member, arguments, result)
        door = at("ProvideFile", GLib.Variant("(uuv)", (0, 0, GLib.Variant("u", 0))), "(v)")
        until("it is open", lambda: self.channel.get_state()[0] == Tp.FileTransferState.OPEN)
        offset = self._property("InitialOffset")
        with socket.socket(socket.AF_UNIX) as client, open(file.get_path(), "rb") as data:
            client.connect(bytes(door.unpack()[0]).decode().rstrip("\0"))
            data.seek(offset)
            client.sendall(data.read())

    def receive(self, name, path, offset):
        """Accepts the file that is offered under this name; telepathy-glib writes it. Gives what it
        knows of it, once it is there."""
        self._take(FILE_TRANSFER + ".Filename", name)
        self._works(self.channel.accept_file_async, Gio.File.new_for_path(path), offset)
        state = self.over()
        if state[0] == Tp.FileTransferState.COMPLETED:
            # telepathy-glib may hear of that before it has written the last bytes.
            until(f"{name} is written", lambda: os.path.getsize(path) >= self.channel.get_size() - offset)
        return {"state": state, "description": self.channel.get_description(),
                "uri": self._property("URI"), "type": self.channel.get_mime_type()}

    def _property(self, name):
        return self.call(self.bus_name, self.channel.get_object_path(), "org.freedesktop.DBus.Properties",
                         "Get", GLib.Variant("(ss)", (FILE_TRANSFER, name)), "(v)").unpack()[0]

    def over(self):
        """Waits until the transfer is completed or cancelled; gives [state, reason, bytes, failures]."""
        last = (Tp.FileTransferState.COMPLETED, Tp.FileTransferState.CANCELLED)
        until("the transfer is over", lambda: self.channel.get_state()[0] in last)
        state, reason = self.channel.get_state()
        return [int(state), int(reason), self.channel.get_transferred_bytes(),
                [each.message for each in self.failed]]

    def decline(self, name):
        """Closes what is offered under this name."""
        self._take(FILE_TRANSFER + ".Filename", name)
        return self.close()
