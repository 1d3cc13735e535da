"""KDE's two programs for files, on screens nobody looks at: the dialog that sends, driven by its keys, and
the handler that carries what is sent and what comes."""
from home import *  # noqa: F403  (the tests' own vocabulary)
from managed import Managed
from programs import Screen, sha256

FILE_TRANSFER = CHANNEL + ".Type.FileTransfer"
COMPLETED = 4
BYTES = 32 * 1024 * 1024


class Desktop(Managed):
    """A person whose programs are KDE's."""

    def __init__(self, name, port):
        self.screen = Screen()
        super().__init__(name, port=port, env={"DISPLAY": self.screen.display})
        self.downloads = os.path.join(self.dir, "home", "Downloads")
        os.mkdir(self.downloads)

    def takes_files(self, name):
        """Waits until a contact of this name is shown as one who takes files."""
        def attempt():
            rows = self.on(self.path, CONTACT_LIST, "GetContactListAttributes",
                           GLib.Variant("(asb)", ([CAPABILITIES], False)))
            return any(fixed.get(CHANNEL + ".ChannelType") == FILE_TRANSFER
                       for values in rows.values() if values[CONNECTION + "/contact-id"].split("@")[0] == name
                       for fixed, _ in values.get(CAPABILITIES + "/capabilities", []))
        until(f"{self.name} sees that {name} takes files", attempt, detail=self.seen)

    def xdotool(self, *arguments):
        return self.run("xdotool", *arguments, check=False).stdout.strip()

    def send(self, path, name):
        """Opens the dialog with a file, and sends it to the one contact whose name has this in it."""
        dialog = Process("ktp-send-file", ["ktp-send-file", path], self.env(),
                         os.path.join(self.dir, "dialog.log"), cwd=self.dir)
        try:
            window = until("the dialog is there", lambda: self.xdotool(
                "search", "--onlyvisible", "--name", "^Send file"), detail=dialog.output)
            self.xdotool("windowfocus", "--sync", window)
            size = dict(row.split("=") for row in self.xdotool("getwindowgeometry", "--shell", window).split())
            # The lower part of the list of contacts, where none is shown.
            below = [str(int(size["WIDTH"]) * 3 // 4), str(int(size["HEIGHT"]) * 3 // 5)]
            into_the_list = ["mousemove", "--window", window, *below, "click", "1"]
            # Behind the list is the line that says whom it shows.
            self.xdotool(*into_the_list, "key", "Tab", "type", name)

            def attempt():
                self.xdotool(*into_the_list, "key", "Home", "key", "alt+o")
                return dialog.child.poll() is not None
            # Nothing tells when the contact is in the list; with nobody chosen there is nothing to press.
            until("the dialog has made its request", attempt, detail=lambda: dialog.output() + self.seen())
            assert dialog.child.returncode == 0, dialog.output()
        finally:
            dialog.kill()

    def completed(self):
        self.take(f"{self.name}'s transfer is completed", lambda _path, interface, member, arguments:
                  interface == FILE_TRANSFER and member == "FileTransferStateChanged" and arguments[0] == COMPLETED)

    def close(self):
        super().close()
        self.screen.close()


@scenario
def kde_sends_a_file_and_receives_it():
    """ktp-send-file's dialog to ktp-filetransfer-handler at the other end: 32 MiB, the same SHA-256."""
    port = free_port()
    alice, bob, anna = Desktop("alice", port), Desktop("bob", port), Person("anna", port=port)
    # She is the first in the list, and not the one who is meant.
    wanted = {CHANNEL + ".ChannelType": GLib.Variant("s", FILE_TRANSFER)}
    anna.on(anna.path, CAPABILITIES, "UpdateCapabilities",
            GLib.Variant("(a(saa{sv}as))", ([(TP + "Client.Anna", [wanted], [])],)))
    alice.takes_files("anna")
    alice.takes_files("bob")
    sent = os.path.join(alice.dir, "home", "a picture.bin")
    with open(sent, "wb") as file:
        file.write(os.urandom(BYTES))
    alice.send(sent, "bob")
    bob.completed()
    alice.completed()
    # It has its name when the handler has heard of the end.
    received = os.path.join(bob.downloads, "a picture.bin")
    until("the file has its name", lambda: os.path.exists(received) and not os.path.exists(received + ".part"),
          detail=bob.seen)
    assert sha256(received) == sha256(sent), os.listdir(bob.downloads)
