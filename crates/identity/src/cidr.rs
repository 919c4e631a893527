//! Address ranges that a token is bound to.

use crate::error::IdentityError;
use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// `10.0.0.0/8`, `fd00::/8`; an address alone is a range of one. Nothing stands behind the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr(IpNet);

impl Cidr {
    pub fn parse(raw: &str) -> Result<Self, IdentityError> {
        let malformed = || IdentityError::InvalidField("bound_cidrs");
        // std's reader of addresses: ipnet's own takes `010.0.0.0`, which some read as octal
        let address = |raw: &str| raw.parse::<IpAddr>().map_err(|_| malformed());
        let net = match raw.split_once('/') {
            None => IpNet::from(address(raw)?),
            Some((raw, bits)) => {
                let digits = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
                let plain = digits && (bits == "0" || !bits.starts_with('0'));
                let bits = bits.parse().ok().filter(|_| plain).ok_or_else(malformed)?;
                IpNet::new(address(raw)?, bits).map_err(|_| malformed())?
            }
        };
        // One range, one spelling: `10.1.2.3/8` may have been meant as either. An IPv4 address is compared as one.
        let mapped = matches!(net.addr(), IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
        if net.addr() == net.network() && !mapped { Ok(Self(net)) } else { Err(malformed()) }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// Whether all of `other` lies in it.
    pub fn covers(&self, other: &Self) -> bool {
        self.0.contains(&other.0)
    }

    /// Of two ranges the one that lies in the other.
    fn within(self, other: Self) -> Option<Self> {
        if self.0.contains(&other.0) { Some(other) } else { other.0.contains(&self.0).then_some(self) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            write!(f, "{}", self.0.addr())
        } else {
            write!(f, "{}", self.0)
        }
    }
}

/// What lies in a range of either. No range is every address; two that share none are refused.
pub(crate) fn narrowed(one: &[Cidr], other: &[Cidr], most: usize) -> Result<Vec<Cidr>, IdentityError> {
    let mut both = match (one, other) {
        ([], all) | (all, []) => all.to_vec(),
        (one, other) => {
            let pairs = one.iter().flat_map(|one| other.iter().filter_map(|other| one.within(*other)));
            pairs.collect()
        }
    };
    both.sort_unstable();
    both.dedup();
    let disjoint = both.is_empty() && !(one.is_empty() && other.is_empty());
    if disjoint || both.len() > most { Err(IdentityError::InvalidField("bound_cidrs")) } else { Ok(both) }
}

/// Whether a request from `peer`, an address with or without its port, is from one of `ranges`. From nowhere is outside.
pub fn allows(ranges: &[Cidr], peer: &str) -> bool {
    if ranges.is_empty() {
        return true;
    }
    address(peer).is_some_and(|address| ranges.iter().any(|range| range.contains(address)))
}

/// Who is told apart where many are measured, of a peer's address with or without its port: of IPv6 a network (its /64), which
/// one machine may have all addresses of.
pub fn network(from: &str) -> Option<IpAddr> {
    Some(match address(from)?.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        ip @ IpAddr::V4(_) => ip,
    })
}

fn address(peer: &str) -> Option<IpAddr> {
    peer.parse::<SocketAddr>().map(|peer| peer.ip()).or_else(|_| peer.parse()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(raw: &[&str]) -> Vec<Cidr> {
        raw.iter().map(|raw| Cidr::parse(raw).unwrap()).collect()
    }

    #[test]
    fn a_range_has_one_spelling() {
        for (raw, shown) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("192.0.2.7", Some("192.0.2.7")),
            ("192.0.2.7/32", Some("192.0.2.7")),
            ("fd00::/8", Some("fd00::/8")),
            ("::1", Some("::1")),
            ("10.1.2.3/8", None),
            ("10.0.0.0/33", None),
            ("010.0.0.0/8", None),
            ("10.0.0/8", None),
            (" 10.0.0.0/8", None),
            ("10.0.0.0/8 ", None),
            ("10.0.0.0/", None),
            ("10.0.0.0/+8", None),
            ("10.0.0.0/08", None),
            ("10.0.0.0/8/8", None),
            ("::ffff:10.0.0.0/104", None),
            ("localhost", None),
            ("", None),
        ] {
            assert_eq!(Cidr::parse(raw).ok().map(|range| range.to_string()).as_deref(), shown, "{raw:?}");
        }
    }

    #[test]
    fn an_address_is_inside_or_outside_and_from_nowhere_is_outside() {
        let bound = ranges(&["10.0.0.0/8", "2001:db8::/32"]);
        for (peer, inside) in [
            ("10.1.2.3:5", true),
            ("10.1.2.3", true),
            ("[::ffff:10.1.2.3]:5", true),
            ("[2001:db8::1]:5", true),
            ("11.0.0.1:5", false),
            ("[2001:db9::1]:5", false),
            ("", false),
            ("unix", false),
            ("10.1.2.3:5:6", false),
        ] {
            assert_eq!(allows(&bound, peer), inside, "{peer:?}");
            assert!(allows(&[], peer));
        }
    }

    #[test]
    fn an_address_is_told_without_its_port_and_a_network_as_one() {
        for (from, told) in [
            ("192.0.2.1:5", Some("192.0.2.1")),
            ("192.0.2.1", Some("192.0.2.1")),
            ("[::ffff:192.0.2.1]:5", Some("192.0.2.1")),
            ("[2001:db8::1:2:3:4]:5", Some("2001:db8::")),
            ("", None),
            ("unix", None),
        ] {
            assert_eq!(network(from), told.map(|told| told.parse().unwrap()), "{from}");
        }
    }

    #[test]
    fn of_two_bounds_both_hold() {
        for (one, other, both) in [
            (&[][..], &[][..], Some(&[][..])),
            (&["10.0.0.0/8"], &[], Some(&["10.0.0.0/8"])),
            (&[], &["10.0.0.0/8"], Some(&["10.0.0.0/8"])),
            (&["10.0.0.0/8"], &["10.1.0.0/16", "11.0.0.0/8"], Some(&["10.1.0.0/16"])),
            (&["10.1.0.0/16", "192.0.2.0/24"], &["0.0.0.0/0"], Some(&["10.1.0.0/16", "192.0.2.0/24"])),
            (&["10.0.0.0/8"], &["11.0.0.0/8"], None),
            (&["0.0.0.0/0"], &["::/0"], None),
        ] {
            let found = narrowed(&ranges(one), &ranges(other), 64).ok();
            assert_eq!(found, both.map(ranges), "{one:?} {other:?}");
        }
    }
}
