//! Which addresses are called. After the special-purpose registries of IANA (RFC 6890 and its updates).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Options;

/// Why an address is not called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Loopback,
    Private,
    /// 169.254.0.0/16 and fe80::/10, and where clouds have their metadata besides.
    LinkLocal,
    Multicast,
    /// Of no host: unspecified, broadcast, documentation, benchmarks, reserved, or a way round into IPv4.
    NotAHost,
}

impl Reason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "a loopback address",
            Self::Private => "an address of a private network",
            Self::LinkLocal => "a link-local or metadata address",
            Self::Multicast => "a multicast address",
            Self::NotAHost => "an address that no host has",
        }
    }

    const fn is_allowed_by(self, options: Options) -> bool {
        matches!(self, Self::Loopback | Self::Private) && options.allow_private
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether an address may be called.
pub fn check(address: IpAddr, options: Options) -> Result<(), Reason> {
    let reason = match address {
        IpAddr::V4(address) => of_v4(address),
        IpAddr::V6(address) => of_v6(address),
    };
    match reason {
        Some(reason) if !reason.is_allowed_by(options) => Err(reason),
        _ => Ok(()),
    }
}

fn of_v4(address: Ipv4Addr) -> Option<Reason> {
    Some(match address.octets() {
        [169, 254, ..] => Reason::LinkLocal,
        // What clouds answer at on every machine of theirs, elsewhere than link-local: Alibaba's metadata, and Azure's
        // host. Before the ranges that they are in.
        [100, 100, 100, 200] | [168, 63, 129, 16] => Reason::LinkLocal,
        [127, ..] => Reason::Loopback,
        [10, ..] | [192, 168, ..] => Reason::Private,
        [172, 16..=31, ..] => Reason::Private,
        // Behind carriers, and in overlay networks: RFC 6598.
        [100, 64..=127, ..] => Reason::Private,
        [224..=239, ..] => Reason::Multicast,
        // This network; the system takes 0.0.0.0 for loopback.
        [0, ..] => Reason::NotAHost,
        // IETF protocol assignments; relays of 6to4; AS112.
        [192, 0, 0, _] | [192, 88, 99, _] | [192, 31, 196, _] | [192, 52, 193, _] => {
            Reason::NotAHost
        }
        [192, 175, 48, _] => Reason::NotAHost,
        // Documentation.
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Reason::NotAHost,
        // Benchmarks.
        [198, 18..=19, ..] => Reason::NotAHost,
        // Reserved, and broadcast.
        [240..=255, ..] => Reason::NotAHost,
        _ => return None,
    })
}

fn of_v6(address: Ipv6Addr) -> Option<Reason> {
    // Written as IPv6, and reached over IPv4.
    if let Some(mapped) = address.to_ipv4_mapped() {
        return of_v4(mapped);
    }
    let segments = address.segments();
    Some(match segments {
        [0, 0, 0, 0, 0, 0, 0, 1] => Reason::Loopback,
        // NAT64: where the network has no IPv4, its resolver writes all of IPv4 like this.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => return of_v4(embedded(high, low)),
        // The metadata of AWS and of Google, in private networks by their numbers.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254] => {
            Reason::LinkLocal
        }
        [0xfc00..=0xfdff, ..] => Reason::Private,
        [0xfe80..=0xfebf, ..] => Reason::LinkLocal,
        // Site-local: deprecated, and private where it is still in use.
        [0xfec0..=0xfeff, ..] => Reason::Private,
        [0xff00..=0xffff, ..] => Reason::Multicast,
        // 6to4 and Teredo lead into IPv4, by relays that nobody should need any more.
        [0x2002, ..] => Reason::NotAHost,
        // IETF protocol assignments (Teredo, benchmarks, ORCHID among them), and documentation.
        [0x2001, 0x0000..=0x01ff, ..] | [0x2001, 0x0db8, ..] => Reason::NotAHost,
        [0x3fff, 0x0000..=0x0fff, ..] => Reason::NotAHost,
        // AS112.
        [0x2620, 0x4f, 0x8000, ..] => Reason::NotAHost,
        // What is given out as global unicast today; all else is not known to be a host's.
        [0x2000..=0x3fff, ..] => return None,
        _ => Reason::NotAHost,
    })
}

fn embedded(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STRICT: Options = Options { allow_http: false, allow_private: false };
    const LENIENT: Options = Options { allow_http: false, allow_private: true };

    fn reason(text: &str) -> Option<Reason> {
        check(text.parse().unwrap(), STRICT).err()
    }

    #[test]
    fn every_special_range_is_refused_from_its_first_address_to_its_last() {
        for (first, last, why) in [
            ("0.0.0.0", "0.255.255.255", Reason::NotAHost),
            ("10.0.0.0", "10.255.255.255", Reason::Private),
            ("100.64.0.0", "100.127.255.255", Reason::Private),
            ("100.100.100.199", "100.100.100.201", Reason::Private),
            ("100.100.100.200", "100.100.100.200", Reason::LinkLocal),
            ("127.0.0.0", "127.255.255.255", Reason::Loopback),
            ("169.254.0.0", "169.254.255.255", Reason::LinkLocal),
            ("169.254.169.254", "169.254.169.254", Reason::LinkLocal),
            ("168.63.129.16", "168.63.129.16", Reason::LinkLocal),
            ("172.16.0.0", "172.31.255.255", Reason::Private),
            ("192.0.0.0", "192.0.0.255", Reason::NotAHost),
            ("192.0.2.0", "192.0.2.255", Reason::NotAHost),
            ("192.88.99.0", "192.88.99.255", Reason::NotAHost),
            ("192.168.0.0", "192.168.255.255", Reason::Private),
            ("198.18.0.0", "198.19.255.255", Reason::NotAHost),
            ("198.51.100.0", "198.51.100.255", Reason::NotAHost),
            ("203.0.113.0", "203.0.113.255", Reason::NotAHost),
            ("224.0.0.0", "239.255.255.255", Reason::Multicast),
            ("240.0.0.0", "255.255.255.255", Reason::NotAHost),
            ("::", "::", Reason::NotAHost),
            ("::1", "::1", Reason::Loopback),
            ("::ffff:127.0.0.1", "::ffff:127.255.255.255", Reason::Loopback),
            ("::ffff:169.254.169.254", "::ffff:169.254.169.254", Reason::LinkLocal),
            ("::7f00:1", "::7f00:1", Reason::NotAHost),
            ("64:ff9b::a00:1", "64:ff9b::aff:ffff", Reason::Private),
            ("64:ff9b::a9fe:a9fe", "64:ff9b::a9fe:a9fe", Reason::LinkLocal),
            ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", Reason::NotAHost),
            ("100::", "100::ffff:ffff:ffff:ffff", Reason::NotAHost),
            ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", Reason::NotAHost),
            ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", Reason::NotAHost),
            ("2002:7f00:1::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Reason::NotAHost),
            ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", Reason::NotAHost),
            ("5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Reason::NotAHost),
            ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Reason::Private),
            ("fd00:ec2::254", "fd00:ec2::254", Reason::LinkLocal),
            ("fd20:ce::254", "fd20:ce::254", Reason::LinkLocal),
            ("fd00:ec2::253", "fd20:ce::255", Reason::Private),
            ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Reason::LinkLocal),
            ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Reason::Multicast),
        ] {
            assert_eq!((reason(first), reason(last)), (Some(why), Some(why)), "{first} to {last}");
        }
    }

    #[test]
    fn the_neighbours_of_each_range_are_hosts() {
        for host in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "8.8.8.8",
            "2001:200::1",
            "2001:db7:ffff::1",
            "2001:db9::1",
            "2003::1",
            "2606:4700::1111",
            "64:ff9b::808:808",
            "::ffff:8.8.8.8",
        ] {
            assert_eq!(reason(host), None, "{host}");
        }
    }

    #[test]
    fn a_setting_lets_private_networks_through_and_metadata_never() {
        for (text, is_allowed) in [
            ("127.0.0.1", true),
            ("10.1.2.3", true),
            ("::1", true),
            ("fd00::1", true),
            ("100.64.0.1", true),
            ("169.254.169.254", false),
            ("100.100.100.200", false),
            ("168.63.129.16", false),
            ("fd00:ec2::254", false),
            ("fd20:ce::254", false),
            ("::ffff:100.100.100.200", false),
            ("64:ff9b::6464:64c8", false),
            ("fe80::1", false),
            ("0.0.0.0", false),
            ("255.255.255.255", false),
            ("224.0.0.1", false),
        ] {
            assert_eq!(check(text.parse().unwrap(), LENIENT).is_ok(), is_allowed, "{text}");
        }
    }

    proptest! {
        /// The ranges once more, as numbers and prefix lengths: another way to write the same table.
        #[test]
        fn what_is_called_in_ipv4_is_in_no_special_block(bits: u32) {
            let blocks: &[([u8; 4], u32)] = &[
                ([0, 0, 0, 0], 8), ([10, 0, 0, 0], 8), ([100, 64, 0, 0], 10), ([127, 0, 0, 0], 8),
                ([169, 254, 0, 0], 16), ([172, 16, 0, 0], 12), ([192, 0, 0, 0], 24), ([192, 0, 2, 0], 24),
                ([192, 31, 196, 0], 24), ([192, 52, 193, 0], 24), ([192, 88, 99, 0], 24), ([192, 168, 0, 0], 16),
                ([192, 175, 48, 0], 24), ([198, 18, 0, 0], 15), ([198, 51, 100, 0], 24), ([203, 0, 113, 0], 24),
                ([224, 0, 0, 0], 4), ([240, 0, 0, 0], 4), ([168, 63, 129, 16], 32),
            ];
            let special = blocks.iter().any(|(block, length)| {
                let mask = u32::MAX << (32 - length);
                bits & mask == u32::from_be_bytes(*block) & mask
            });
            prop_assert_eq!(check(Ipv4Addr::from_bits(bits).into(), STRICT).is_err(), special);
        }

        /// Whatever way an IPv4 address is written in IPv6, it is not easier to reach.
        #[test]
        fn no_way_round_through_ipv6_leads_to_what_ipv4_refuses(bits: u32) {
            let plain = Ipv4Addr::from_bits(bits);
            let refused = check(plain.into(), STRICT).is_err();
            let [a, b] = [(bits >> 16) as u16, bits as u16];
            for written in [
                plain.to_ipv6_mapped(),
                plain.to_ipv6_compatible(),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a, b),
                Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, a, b),
                Ipv6Addr::new(0x2002, a, b, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, !a, !b),
            ] {
                if refused {
                    prop_assert!(check(written.into(), STRICT).is_err(), "{}", written);
                }
            }
        }

        #[test]
        fn what_is_called_in_ipv6_is_global_unicast(bits: u128) {
            let address = Ipv6Addr::from_bits(bits);
            if check(address.into(), STRICT).is_ok() {
                let nat64 = address.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
                prop_assert!(bits >> 125 == 1 || nat64 || address.to_ipv4_mapped().is_some());
            }
        }

        /// A setting never refuses what is called without it.
        #[test]
        fn the_lenient_rule_only_adds(bits: u128) {
            let address = IpAddr::V6(Ipv6Addr::from_bits(bits));
            prop_assert!(check(address, STRICT).is_err() || check(address, LENIENT).is_ok());
        }
    }
}
