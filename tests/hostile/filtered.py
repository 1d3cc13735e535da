"""A network that lets no new connection through once the two have found each other."""
import time

from home import *  # noqa: F403  (the tests' own vocabulary)

# How long a connection may take more where no streamhost answers, and what a crowded machine adds.
FALLBACK = 6


def filter_new(machine, verdict):
    """From now on whoever opens a TCP connection to this machine is dropped or rejected."""
    nft = ["ip", "netns", "exec", machine.namespace, "nft"]
    run(*nft, "add", "table", "inet", "closed")
    run(*nft, "add", "chain", "inet", "closed", "in", "{ type filter hook input priority 0; }")
    run(*nft, "add", "rule", "inet", "closed", "in", "iifname", "eth0", "tcp", "flags", "&", "(syn|ack)", "==",
        "syn", "counter", *verdict)


def turned_away(machine):
    """How many packets the filter has met."""
    rule = run("ip", "netns", "exec", machine.namespace, "nft", "list", "chain", "inet", "closed", "in")
    return int(rule.split("packets")[1].split()[0])


def takes_less(home, limit):
    """A connection is there that soon; a machine that is busy elsewhere gets three."""
    times = []
    while not times or times[-1] >= limit:
        assert len(times) < 3, times
        begun = time.monotonic()
        home.works(10)
        times.append(time.monotonic() - begun)


def closed_for(verdict, patience):
    home = Home()
    machines = (home.lan.alice, home.lan.bob)
    for machine in machines:
        filter_new(machine, verdict)
    takes_less(home, patience)
    tried = sum(map(turned_away, machines))
    assert tried > 0, "nobody tried to connect"
    home.works(3_000_000)
    # Several at once, each with its own bytes.
    others = [home.bob.agent() for _ in range(4)]
    for other in others:
        other.start(exchange, home.door, 300_000)
    assert [other.answer() for other in others] == [300_000] * 4
    assert home.alice.property(home.tube, STATISTICS, "Encrypted")
    # Once it is open again, connections of their own are made.
    for machine in machines:
        run("ip", "netns", "exec", machine.namespace, "nft", "delete", "table", "inet", "closed")
    takes_less(home, FALLBACK / 2)
    home.bob.close_channel(home.accepted)
    home.alice.closed(home.tube)


@scenario
def a_firewall_that_says_nothing():
    """New connections are dropped: the tube's go inside the XML stream, after a few seconds."""
    closed_for(["drop"], FALLBACK)


@scenario
def a_firewall_that_says_no():
    """New connections are rejected: the tube's go inside the XML stream at once."""
    closed_for(["reject", "with", "tcp", "reset"], FALLBACK / 2)
