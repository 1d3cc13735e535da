"""A person whose account Mission Control manages: the bus starts Mission Control, Mission Control has
the bus start the connection manager, and every Handler that is installed on this machine is there."""
import os

from gi.repository import GLib

from person import Person
from world import *  # noqa: F403  (names and helpers)

ACCOUNT_MANAGER = TP + "AccountManager"
ACCOUNT = TP + "Account"
PROPERTIES = "org.freedesktop.DBus.Properties"


class Managed(Person):
    def __init__(self, name, online=True, **more):
        self.account = None
        super().__init__(name, online=online, **more)

    def env(self):
        # Mission Control keeps its accounts below XDG_DATA_HOME and reads GSettings.
        return {**super().env(), "XDG_DATA_DIRS": f"{self.dir}/share:/usr/share",
                "GSETTINGS_BACKEND": "keyfile"}

    def service_folders(self):
        return super().service_folders() + ["/usr/share/dbus-1/services"]

    def start_manager(self):
        """Lays the connection manager's files where an installed one has them. Nothing is started."""
        self._write("share/telepathy/managers/pneuma.manager", self._ours("pneuma.manager"))
        service = self._ours(CM_NAME + ".service")
        assert "Exec=/usr/libexec/telepathy-pneuma\n" in service, service
        self._write(f"services/{CM_NAME}.service", service.replace(
            "/usr/libexec/telepathy-pneuma", public(binary("telepathy-pneuma"))))
        self.heed_the_network(False)

    def heed_the_network(self, heed=True):
        """Whether Mission Control brings accounts online only where there is a default route, which a
        network of two machines need not have: what `gsettings set` changes."""
        self._write("config/glib-2.0/settings/keyfile",
                    f"[org/gnome/empathy]\nuse-conn={'true' if heed else 'false'}\n")

    def _ours(self, name):
        with open(os.path.join(ROOT, "data", name)) as file:
            return file.read()

    def _write(self, path, text):
        path = os.path.join(self.dir, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)

    def seen(self):
        # What the bus starts writes where the bus does.
        return super().seen() + self.daemon.output()

    def mc_tool(self, *arguments):
        return self.run("mc-tool", *arguments).strip()

    def create_account(self):
        """Has mc-tool make an account and enable it; gives its name."""
        kinds = {"s": "string", "q": "uint", "b": "bool"}
        self.account = self.mc_tool("add", "pneuma/local-xmpp", "People nearby", *(
            f"{kinds[value.get_type_string()]}:{name}={str(value.unpack())}"
            for name, value in self.parameters().items()))
        self.mc_tool("enable", self.account)
        return self.account

    @property
    def account_path(self):
        return "/org/freedesktop/Telepathy/Account/" + self.account

    def of_account(self, name):
        return self.call(ACCOUNT_MANAGER, self.account_path, PROPERTIES, "Get",
                         GLib.Variant("(ss)", (ACCOUNT, name)))

    def request_presence(self, presence):
        self.mc_tool("request", self.account, presence)

    def connected(self):
        """Waits until Mission Control says that the account is online."""
        def attempt():
            path = self.of_account("Connection")
            return path if self.of_account("ConnectionStatus") == 0 and path != "/" else None
        self.path = until(f"Mission Control has {self.name} online", attempt, detail=self.seen)
        self.connection = self.path[1:].replace("/", ".")

    def disconnected(self):
        """Waits until Mission Control says that the account is offline."""
        until(f"Mission Control has {self.name} offline",
              lambda: self.of_account("ConnectionStatus") == 2 and self.of_account("Connection") == "/",
              detail=self.seen)
        self.path = self.connection = None

    def go_online(self):
        self.create_account()
        self.request_presence("available")
        self.connected()
