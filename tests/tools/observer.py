# SPDX-License-Identifier: GPL-2.0
"""The commands that show what conntrack tracks and expects, for the tools that act for the hosts of a scenario."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from ctnetlink import EXPECTATION_GONE, EXPECTATION_NEW, Conntrack
from peers import Peers


class Observer(Peers):
    """Commands about the conntrack tables of hosts. Of flows, it shows those of one protocol."""

    def __init__(self, protocol):
        self.protocol = protocol
        self.tables, self.watches = {}, {}

    def table(self, host):
        if host not in self.tables:
            self.tables[host] = Conntrack(host)
        return self.tables[host]

    def flows(self, host):
        """flows HOST: returns conntrack's entries."""
        return self.table(host).flows(self.protocol)

    def expected(self, host):
        """expected HOST: returns conntrack's expectations."""
        return self.table(host).expectations()

    def counts(self, *hosts):
        """counts HOST...: returns the number of expectations at each host."""
        return [" ".join(str(len(self.expected(host))) for host in hosts)]

    def events(self, host):
        """events HOST: returns the expectations that came and went since the last call. The first call starts it."""
        if host not in self.watches:
            self.watches[host] = Conntrack(host, EXPECTATION_NEW | EXPECTATION_GONE)
        return self.watches[host].events()

    def forget(self, *hosts):
        """forget HOST...: removes the flows and expectations there, and discards the events."""
        for host in hosts:
            self.table(host).forget()
            self.events(host)
        return []

    def leave(self, host):
        """leave HOST: closes everything in that namespace, so that it can be removed."""
        for tables in (self.tables, self.watches):
            if host in tables:
                tables.pop(host).sock.close()
        return []
