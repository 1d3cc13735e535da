"""A machine's own system bus with the real Avahi daemon on it; needs root."""
import os
import shutil
import signal
import tempfile

from gi.repository import Gio, GLib

from world import PATIENCE, Process, to_close, until

AVAHI = "org.freedesktop.Avahi"
SERVER = AVAHI + ".Server"


class SystemBus:
    """The system bus of one machine, with Debian's own policy for Avahi, and the daemon, with more lines
    in the section of its configuration that is about the server."""

    def __init__(self, machine, name, avahi=True, server=""):
        self.machine, self.name, self.server, self.avahi = machine, name, server, None
        self.dir = tempfile.mkdtemp(prefix=f"pneuma-system-{name}-", dir="/tmp")
        os.chmod(self.dir, 0o755)
        to_close.append(self)
        self.address = f"unix:path={self.dir}/bus"
        with open(os.path.join(self.dir, "bus.conf"), "w") as conf:
            conf.write(
                '<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"'
                ' "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd"><busconfig>'
                f"<type>system</type><listen>{self.address}</listen><auth>EXTERNAL</auth>"
                '<policy context="default"><allow user="*"/><deny own="*"/><deny send_type="method_call"/>'
                '<allow send_type="signal"/><allow send_requested_reply="true" send_type="method_return"/>'
                '<allow send_requested_reply="true" send_type="error"/><allow receive_type="method_call"/>'
                '<allow receive_type="method_return"/><allow receive_type="error"/>'
                '<allow receive_type="signal"/><allow send_destination="org.freedesktop.DBus"/></policy>'
                "<include>/usr/share/dbus-1/system.d/avahi-dbus.conf</include></busconfig>")
        self.daemon = Process("system bus", machine.prefix() + [
            "dbus-daemon", f"--config-file={self.dir}/bus.conf", "--nofork", "--nopidfile"],
            {"PATH": os.environ["PATH"]}, os.path.join(self.dir, "bus.log"))
        until("the system bus listens", lambda: os.path.exists(f"{self.dir}/bus"), detail=self.daemon.output)
        flags = Gio.DBusConnectionFlags
        self.bus = Gio.DBusConnection.new_for_address_sync(
            self.address, flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION, None, None)
        self.bus.set_exit_on_close(False)
        if avahi:
            self.start()

    def start(self):
        """Starts the daemon and waits until it has its name and serves."""
        with open(os.path.join(self.dir, "avahi.conf"), "w") as conf:
            conf.write(f"[server]\nhost-name={self.name}\nuse-ipv4=yes\nuse-ipv6=yes\n"
                       f"enable-dbus=yes\n{self.server}\n[wide-area]\nenable-wide-area=no\n"
                       "[publish]\npublish-hinfo=no\npublish-workstation=no\n[rlimits]\n")
        # Its pid file has one place for every machine: each gets a /run of its own.
        command = ("mount -t tmpfs tmpfs /run && exec avahi-daemon --no-drop-root --no-chroot "
                   f"--no-rlimits --file={self.dir}/avahi.conf")
        self.avahi = Process("avahi-daemon", self.machine.prefix() + ["sh", "-c", command],
                             {"PATH": os.environ["PATH"] + ":/usr/sbin", "DBUS_SYSTEM_BUS_ADDRESS": self.address},
                             os.path.join(self.dir, "avahi.log"))
        until("Avahi serves", self.serves, detail=self.avahi.output)

    def ask(self, name, path, interface, method, arguments=None):
        return self.bus.call_sync(name, path, interface, method, arguments, None,
                                  Gio.DBusCallFlags.NO_AUTO_START, PATIENCE * 1000, None).unpack()[0]

    def serves(self):
        try:
            return self.ask(AVAHI, "/", SERVER, "GetState") == 2
        except GLib.Error:
            return False

    def stop(self):
        """The daemon ends in order."""
        self.avahi.terminate()
        self.avahi = None

    def freeze(self):
        os.kill(self.avahi.pid, signal.SIGSTOP)

    def thaw(self):
        os.kill(self.avahi.pid, signal.SIGCONT)

    def env(self):
        return {"DBUS_SYSTEM_BUS_ADDRESS": self.address}

    def close(self):
        for process in (self.avahi, self.daemon):
            if process:
                process.kill()
        shutil.rmtree(self.dir, ignore_errors=True)
        if self in to_close:
            to_close.remove(self)
