"""Which IP addresses are anybody's to reach: a list of our own, so that it is the same on every version of Python.

The networks are those of IANA's registries of special-purpose addresses, for IPv4 and, within 2000::/3, for IPv6, and
a few more. An address that carries an IPv4 address in it is refused whatever it carries: nobody's photos need one.
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network

NOT_PUBLIC = {
    ip_network(network): reason
    for network, reason in {
        "0.0.0.0/8": "this network (RFC 791)",
        "10.0.0.0/8": "private (RFC 1918)",
        "100.64.0.0/10": "shared by a provider's customers (RFC 6598); a cloud's metadata",
        "127.0.0.0/8": "this machine (RFC 1122)",
        "168.63.129.16/32": "the host of a virtual machine on Azure",
        "169.254.0.0/16": "link-local (RFC 3927); clouds' metadata",
        "172.16.0.0/12": "private (RFC 1918)",
        "192.0.0.0/24": "protocol assignments (RFC 6890); a cloud's metadata",
        "192.0.2.0/24": "documentation (RFC 5737)",
        "192.31.196.0/24": "AS112 (RFC 7535)",
        "192.52.193.0/24": "automatic multicast tunnels (RFC 7450)",
        "192.88.99.0/24": "6to4 relays (RFC 7526)",
        "192.168.0.0/16": "private (RFC 1918)",
        "192.175.48.0/24": "AS112 (RFC 7534)",
        "198.18.0.0/15": "benchmarks (RFC 2544)",
        "198.51.100.0/24": "documentation (RFC 5737)",
        "203.0.113.0/24": "documentation (RFC 5737)",
        "224.0.0.0/4": "multicast (RFC 5771)",
        "240.0.0.0/4": "reserved, and broadcast (RFC 1112, RFC 8190)",
        "2001::/23": "protocol assignments, Teredo and ORCHID among them (RFC 2928)",
        "2001:db8::/32": "documentation (RFC 3849)",
        "2002::/16": "6to4, carries an IPv4 address (RFC 3056)",
        "2620:4f:8000::/48": "AS112 (RFC 7534)",
        "3ffe::/16": "6bone, given back (RFC 3701)",
        "3fff::/20": "documentation (RFC 9637)",
    }.items()
}

# All others are not given out: loopback, private, link-local, multicast, and what carries IPv4 addresses (RFC 4291).
GLOBAL_UNICAST = IPv6Network("2000::/3")
ISATAP = 0x5EFE  # in the upper half of an interface's identifier, but for two bits; the lower is an IPv4 address
ISATAP_MASK = 0xFCFFFFFF


def is_public(address: str) -> bool:
    """Whether an IP address is anybody's to reach, and no way round to one that is not. What is no address is none."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address) and (ip.scope_id or ip not in GLOBAL_UNICAST or _is_isatap(ip)):
        return False
    return not any(ip in network for network in NOT_PUBLIC)


def _is_isatap(ip: IPv6Address) -> bool:
    """In any network (RFC 5214): the bits that say "local" and "group" may be anything."""
    return (int(ip) >> 32) & ISATAP_MASK == ISATAP
