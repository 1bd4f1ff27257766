//! The http(s) addresses of the hub and of the storage it redirects to.

/// An http or https address in the parts that redirects are judged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    is_https: bool,
    /// Lower case, an IPv6 address in its brackets.
    host: String,
    port: u16,
    /// Path and query, from the slash on or empty.
    rest: String,
}

impl Address {
    /// Takes an absolute http or https address; the error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("is not an http(s) address")?;
        let is_https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err("has a scheme other than http and https"),
        };
        if rest
            .bytes()
            .any(|byte| byte <= b' ' || byte == 0x7f || byte == b'\\')
        {
            return Err("holds white space, a backslash or a control character");
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        if authority.contains('@') {
            return Err("holds a user name or password");
        }
        let (host, port) = match authority.rfind(':') {
            Some(colon) if !authority[colon..].contains(']') => {
                let port = authority[colon + 1..]
                    .parse()
                    .map_err(|_| "has a port that is no number")?;
                (&authority[..colon], port)
            }
            _ => (authority, if is_https { 443 } else { 80 }),
        };
        let is_bracketed = host.starts_with('[') && host.ends_with(']');
        let is_name = host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        if host.is_empty() || !(is_bracketed || is_name) {
            return Err("has no valid host name");
        }
        let rest = rest.split('#').next().unwrap_or(rest);
        Ok(Self {
            is_https,
            host: host.to_ascii_lowercase(),
            port,
            rest: rest.to_owned(),
        })
    }

    /// The address that a Location header at this address leads to.
    pub(crate) fn join(&self, location: &str) -> Result<Self, &'static str> {
        let scheme = if self.is_https { "https" } else { "http" };
        if location.starts_with("//") {
            return Self::parse(&format!("{scheme}:{location}"));
        }
        let path_end = location.find(['?', '#', '/']).unwrap_or(location.len());
        if location[..path_end].contains(':') {
            return Self::parse(location);
        }
        let path = self.rest.split('?').next().unwrap_or("");
        let rest = if location.starts_with('/') {
            location.to_owned()
        } else if location.starts_with('?') {
            format!("{path}{location}")
        } else {
            let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
            format!("{folder}{location}")
        };
        Self::parse(&format!("{scheme}://{}:{}{rest}", self.host, self.port))
    }

    /// In lower case, an IPv6 address in its brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn is_https(&self) -> bool {
        self.is_https
    }

    /// Whether scheme, host and port are the same.
    pub(crate) fn has_origin_of(&self, other: &Self) -> bool {
        (self.is_https, &self.host, self.port) == (other.is_https, &other.host, other.port)
    }

    /// Whether the host is written as an address that no public server has. Names are not resolved: the
    /// host behind a name gets no token and can only deliver content that is then verified.
    pub(crate) fn is_private(&self) -> bool {
        let host = self.host.trim_end_matches('.');
        if host == "localhost" || host.ends_with(".localhost") {
            return true;
        }
        if let Some(v6) = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
        {
            let Ok(v6) = v6.parse::<std::net::Ipv6Addr>() else {
                return true;
            };
            // Only 2000::/3 is handed out to public servers; a mapped IPv4 address is none of it.
            return v6.segments()[0] & 0xe000 != 0x2000;
        }
        if let Ok(v4) = host.parse::<std::net::Ipv4Addr>() {
            let [a, b, ..] = v4.octets();
            return v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_broadcast()
                || a == 0
                || a >= 224
                || (a == 100 && b & 0xc0 == 64);
        }
        // `127.1`, `2130706433` and `0x7f000001` are loopback to many resolvers: a host that ends in
        // a number but is no plain IPv4 address is not public.
        let last = host.rsplit('.').next().unwrap_or(host);
        let is_hex_number = last
            .strip_prefix("0x")
            .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        is_hex_number || (!last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()))
    }

    /// Whether the host is this machine, by address or as `localhost`.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.host.trim_matches(['[', ']']);
        host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }

    /// The address as a request takes it.
    pub(crate) fn to_url(&self) -> String {
        let scheme = if self.is_https { "https" } else { "http" };
        let usual = if self.is_https { 443 } else { 80 };
        let port = if self.port == usual {
            String::new()
        } else {
            format!(":{}", self.port)
        };
        // Storage hosts put names into the query that not every client escapes.
        let rest = escape(&self.rest, b"!$%&'()*+,/:;=?@~-._[]");
        format!("{scheme}://{}{port}{rest}", self.host)
    }

    /// The address for messages, without its query: that may hold a signature that opens a private file.
    pub(crate) fn to_shown(&self) -> String {
        let url = self.to_url();
        url.split('?').next().unwrap_or_default().to_owned()
    }
}
/// Percent-encodes everything but ASCII letters, digits and `plain`.
pub(crate) fn escape(text: &str, plain: &[u8]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || plain.contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_origin_is_scheme_host_and_port() {
        let same = |a, b| {
            Address::parse(a).is_ok_and(|a| Address::parse(b).is_ok_and(|b| a.has_origin_of(&b)))
        };
        assert!(same("https://hub.example/a", "https://HUB.example:443/b"));
        for other in [
            "http://hub.example/",
            "https://hub.example:444/",
            "https://hub.example.evil/",
            "https://xhub.example/",
            "https://cdn.hub.example/",
        ] {
            assert!(!same("https://hub.example/", other), "{other}");
        }
    }
}
