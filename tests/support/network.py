"""Machines and the network between them, made of network namespaces; needs root."""
import itertools
import os

from world import run, to_close, until

numbers = itertools.count(1)


class Machine:
    """Where processes run. Without a Lan: here, on the loopback interface."""

    def __init__(self, lan=None, address=None, interface="lo"):
        self.lan, self.interface = lan, interface
        self.namespace = f"pn{os.getpid() % 100000}-{next(numbers)}" if lan else None
        self.address = address or "127.0.0.1"

    def prefix(self, uid=None):
        """What to put before a command so that it runs on this machine as that user."""
        command = ["ip", "netns", "exec", self.namespace] if self.namespace else []
        if uid is not None and uid != os.getuid():
            command += ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups",
                        "--no-new-privs", "--"]
        return command


class Cable:
    """Two machines joined by a veth pair, with IPv6 link-local addresses and no others (no IPv4 but
    loopback's); needs root. Each has a second interface that leads nowhere, with such an address too:
    an address without its scope id says nothing."""

    def __init__(self, *names):
        one, other = self.machines = [Machine(self, None, "eth0") for _ in names]
        to_close.append(self)
        for machine, name in zip(self.machines, names):
            setattr(self, name, machine)
            run("ip", "netns", "add", machine.namespace)
            # Addresses can be used at once rather than a second later.
            run("ip", "netns", "exec", machine.namespace, "sh", "-c",
                "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad")
        run("ip", "-n", one.namespace, "link", "add", "eth0", "type", "veth",
            "peer", "name", "eth0", "netns", other.namespace)
        for machine in self.machines:
            inside = ["ip", "-n", machine.namespace]
            run(*inside, "link", "add", "eth1", "type", "veth", "peer", "name", "eth2")
            for interface in ("lo", "eth0", "eth1", "eth2"):
                run(*inside, "link", "set", interface, "up")
        # An interface gets its address once both its ends are up.
        until("there are link-local addresses", lambda: all(
            len(run("ip", "-n", machine.namespace, "-6", "-brief", "addr", "show", "scope", "link",
                    "-tentative").splitlines()) == 3
            for machine in self.machines))

    def close(self):
        for machine in self.machines:
            run("ip", "netns", "del", machine.namespace, check=False)
        if self in to_close:
            to_close.remove(self)


class Lan:
    """A bridge with machines on it; needs root."""

    def __init__(self, *names):
        self.bridge = f"pn{os.getpid() % 100000}-b{next(numbers)}"
        self.machines = {}
        to_close.append(self)
        run("ip", "netns", "add", self.bridge)
        self._ip("link", "add", "br0", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
        self._ip("link", "set", "br0", "up")
        for number, name in enumerate(names, 1):
            self._add(name, f"10.99.0.{number}", f"fd99::{number}")

    def _ip(self, *arguments):
        return run("ip", "-n", self.bridge, *arguments)

    def _add(self, name, ipv4, ipv6):
        machine = Machine(self, ipv4, "eth0")
        self.machines[name] = machine
        setattr(self, name, machine)
        port = f"p{len(self.machines)}"
        run("ip", "netns", "add", machine.namespace)
        self._ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", machine.namespace)
        self._ip("link", "set", port, "master", "br0", "up")
        inside = ["ip", "-n", machine.namespace]
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "addr", "add", f"{ipv4}/24", "dev", "eth0")
        run(*inside, "addr", "add", f"{ipv6}/64", "dev", "eth0", "nodad")
        run(*inside, "route", "add", "default", "dev", "eth0")

    def close(self):
        for machine in self.machines.values():
            run("ip", "netns", "del", machine.namespace, check=False)
        run("ip", "netns", "del", self.bridge, check=False)
        if self in to_close:
            to_close.remove(self)
