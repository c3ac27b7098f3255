//! The configuration of a machine's web server, in the syntax of Caddy 2.6, which Debian 12 and Ubuntu 24.04 bring
//! (<https://caddyserver.com/docs/caddyfile>; some options of today's documentation are newer).

use std::fmt::Write as _;
use std::net::IpAddr;

/// Where files for Caddy are on a machine; `web.sh` puts them there.
const FILES: &str = "/etc/caddy/baal";

/// How the world calls a machine, checked, so that it can stand in a configuration or a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SiteName {
    /// A DNS name in lower case.
    Host(String),
    /// An address.
    Ip(IpAddr),
}

impl SiteName {
    /// Reads a host name or address, perhaps with a port, which is left out. An IPv6 address with a port is in brackets.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse() {
            return Some(Self::Ip(address));
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        };
        let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Some(address) = bracketed {
            return address.parse().ok().map(Self::Ip);
        }
        if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
            return None;
        }
        let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
        if let Ok(address) = address.parse() {
            return Some(Self::Ip(address));
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // Names that end in a number are addresses to some programs (RFC 3696, section 2).
        let numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        (name.len() <= 253 && !numeric && name.split('.').all(label)).then(|| Self::Host(name.to_ascii_lowercase()))
    }

    /// The name or address alone.
    pub fn bare(&self) -> String {
        match self {
            Self::Host(name) => name.clone(),
            Self::Ip(address) => address.to_string(),
        }
    }
}

/// Where the web server has its certificate from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certificates {
    /// From the first of these ACME directories that gives one.
    Acme {
        /// Directory URLs.
        directories: Vec<String>,
        /// Whom they may write to.
        email: Option<String>,
        /// Whether an authority of our own is sent along, which these directories' own certificates may come from.
        own_roots: bool,
    },
    /// It is sent along.
    Given,
}

/// The whole file. `directories` and `email` must have passed [`is_plain`].
pub fn caddyfile(name: &SiteName, certificates: &Certificates) -> String {
    let mut text = String::from("# Written by Baal; changes are taken back.\n{\n\tadmin off\n\tgrace_period 3s\n");
    let given = *certificates == Certificates::Given;
    if given {
        // Port 80 is there for the authorities' sake.
        text += "\tauto_https disable_redirects\n";
    }
    if let SiteName::Ip(address) = name {
        // Clients name no server in the handshake when they know its address only (RFC 6066, section 3).
        let _ = writeln!(text, "\tdefault_sni {address}"); // silent-ok: writing to a String cannot fail
    }
    text += "\tservers {\n\t\tprotocols h1 h2\n\t\ttimeouts {\n\t\t\tread_header 30s\n\t\t\tread_body 15m\n\t\t\tidle 10m\n\t\t}\n\t}\n}\n\n";
    let address = match name {
        SiteName::Host(name) => name.clone(),
        SiteName::Ip(IpAddr::V4(address)) => format!("https://{address}"),
        SiteName::Ip(IpAddr::V6(address)) => format!("https://[{address}]"),
    };
    text += &address;
    text += " {\n";
    match certificates {
        Certificates::Given => {
            // Certificate and key in one file change in one step.
            let _ = writeln!(text, "\ttls {FILES}/site.pem {FILES}/site.pem"); // silent-ok: as above
        }
        Certificates::Acme { directories, email, own_roots } => {
            text += "\ttls {\n";
            for directory in directories {
                text += &issuer(directory, email.as_deref(), *own_roots);
            }
            text += "\t}\n";
        }
    }
    text += "\trequest_body {\n\t\tmax_size 64MB\n\t}\n";
    // Answers come as events while the model thinks, minutes apart: nothing is held back and nothing times out. The agent
    // sends a comment every few seconds, and ends its turns itself.
    text += "\treverse_proxy 127.0.0.1:8080 {\n\t\tflush_interval -1\n\t\ttransport http {\n\t\t\tdial_timeout 5s\n\t\t\tcompression off\n\t\t}\n\t}\n}\n";
    text
}

fn issuer(directory: &str, email: Option<&str>, own_roots: bool) -> String {
    // Caddy 2.6 knows how to get ZeroSSL's account for an email address, in an issuer of that name only.
    let zerossl = host(directory).is_some_and(|host| host == "zerossl.com" || host.ends_with(".zerossl.com"));
    let mut text = String::from(if zerossl { "\t\tissuer zerossl {\n" } else { "\t\tissuer acme {\n" });
    if !zerossl {
        let _ = writeln!(text, "\t\t\tdir \"{directory}\""); // silent-ok: as above
    }
    if let Some(email) = email {
        let _ = writeln!(text, "\t\t\temail \"{email}\""); // silent-ok: as above
    }
    if own_roots && !zerossl {
        let _ = writeln!(text, "\t\t\ttrusted_roots {FILES}/roots.pem"); // silent-ok: as above
    }
    text + "\t\t}\n"
}

fn host(url: &str) -> Option<&str> {
    let rest = url.split_once("://")?.1;
    rest.split(['/', ':', '?', '#']).next()
}

/// Whether a text of the operator's can stand between quotes in a Caddyfile: no quotes, placeholders or white space.
pub fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 500
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'`' | b'{' | b'}' | b'\\' | b'$'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acme(directories: &[&str]) -> Certificates {
        let directories = directories.iter().map(|&url| url.to_owned()).collect();
        Certificates::Acme { directories, email: Some("ops@example.org".into()), own_roots: false }
    }

    #[test]
    fn names_and_addresses_are_read_with_and_without_a_port() {
        let host = |name: &str| Some(SiteName::Host(name.into()));
        let ip = |address: &str| Some(SiteName::Ip(address.parse().expect("an address")));
        for (text, read) in [
            ("a-b.2n6.me", host("a-b.2n6.me")),
            ("A.vm.localhost:18443", host("a.vm.localhost")),
            ("192.0.2.7", ip("192.0.2.7")),
            ("192.0.2.7:8443", ip("192.0.2.7")),
            ("2001:db8::7", ip("2001:db8::7")),
            ("[2001:db8::7]", ip("2001:db8::7")),
            ("[2001:db8::7]:443", ip("2001:db8::7")),
        ] {
            assert_eq!(SiteName::parse(text), read, "{text}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            ".",
            "a..b",
            "-a.b",
            "a-.b",
            "a b",
            "a\n",
            "a{b}",
            "$(id)",
            "*.example.org",
            "a;b",
            "a'b",
            "ä.de",
            "1.2.3",
            "300.1.1.1",
            "a.b:0",
            "a.b:http",
            "a.b:1:2",
            "[::1",
            "/etc",
            "a_b.c",
            "fe80::1%eth0",
        ] {
            assert_eq!(SiteName::parse(text), None, "{text:?}");
        }
        assert_eq!(SiteName::parse(&format!("{}.de", "a".repeat(64))), None);
        assert_eq!(SiteName::parse(&vec!["abcdefgh"; 40].join(".")), None);
    }

    #[test]
    fn every_directory_is_an_issuer_in_its_order() {
        let name = SiteName::Host("a-b.2n6.me".into());
        let text = caddyfile(
            &name,
            &acme(&["https://acme-v02.api.letsencrypt.org/directory", "https://acme.zerossl.com/v2/DV90"]),
        );
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_private_directory_is_trusted_by_the_roots_that_are_sent_along() {
        let name = SiteName::Host("a.example.org".into());
        let directories = vec!["https://acme.internal:14000/dir".to_owned()];
        let text = caddyfile(&name, &Certificates::Acme { directories, email: None, own_roots: true });
        assert!(text.contains("trusted_roots /etc/caddy/baal/roots.pem"), "{text}");
        assert!(!text.contains("email"), "{text}");
    }

    #[test]
    fn given_certificates_need_no_port_80() {
        insta::assert_snapshot!(caddyfile(&SiteName::Host("a.vm.localhost".into()), &Certificates::Given));
    }

    #[test]
    fn addresses_are_found_without_a_server_name() {
        let text = caddyfile(&SiteName::Ip("2001:db8::7".parse().expect("an address")), &Certificates::Given);
        assert!(text.contains("default_sni 2001:db8::7\n") && text.contains("\nhttps://[2001:db8::7] {\n"), "{text}");
    }

    #[test]
    fn texts_that_would_end_a_quotation_are_not_plain() {
        assert!(is_plain("ops+tls@example.org") && is_plain("https://acme.example.org/dir?a=b"));
        for text in ["", "a\"b", "a b", "a\nb", "{env.HOME}", "{$HOME}", "a`b", "ä@b.de", "a\\"] {
            assert!(!is_plain(text), "{text:?}");
        }
    }
}
