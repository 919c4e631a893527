//! Where a server is.

/// Of `HOST[:PORT]`, where a host of colons stands in brackets.
pub(super) fn host_port(place: &str, default: u16) -> Option<(&str, u16)> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => match rest.split_once(']')? {
            (host, "") => (host, None),
            (host, rest) => (host, Some(rest.strip_prefix(':')?)),
        },
        None => place.rsplit_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Some(default), |port| port.parse().ok())?;
    (!host.is_empty()).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_whole_or_not_at_all() {
        for (place, read) in [
            ("h", Some(("h", 9))),
            ("h:7", Some(("h", 7))),
            ("[::1]", Some(("::1", 9))),
            ("[::1]:7", Some(("::1", 7))),
            ("[::1]7", None),
            ("[::1", None),
            ("h:x", None),
            ("h:70000", None),
            (":7", None),
            ("", None),
        ] {
            assert_eq!(host_port(place, 9), read, "{place}");
        }
    }
}
