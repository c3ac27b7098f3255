//! What is typed, checked: by its form, and by asking the far side.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use reqwest::Url;
use teloxide_core::payloads::GetMe;

use crate::addresses::is_public;
use crate::cloud::aleph::{Aleph, dollars};
use crate::config::Config;
use crate::libertai::{BalanceError, LibertAi};
use crate::telegram::api::{Api, ApiError};

/// How long a name may take to be looked up.
const LOOKUP: Duration = Duration::from_secs(10);
/// Where Telegram calls webhooks.
const WEBHOOK_PORTS: [u16; 4] = [443, 80, 88, 8443];
/// Addresses on the internet, one of each family, to see which of ours leads there. Nothing is sent to them.
const ELSEWHERE: [&str; 2] = ["1.1.1.1:53", "[2606:4700:4700::1111]:53"];

/// What came of a check. The texts hold no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It works, and how.
    Good(String),
    /// It cannot work; what to do.
    Wrong(String),
    /// It may work; whoever types it may know better.
    Doubt(String),
}

/// Asks Telegram who TELEGRAM_BOT_TOKEN is.
pub async fn bot(config: &Config) -> Verdict {
    let api = match Api::new(config) {
        Ok(api) => api,
        Err(error) => return Verdict::Doubt(format!("Telegram could not be asked ({error}).")),
    };
    match api.call(&GetMe::new()).await {
        Ok(me) => Verdict::Good(format!("Telegram knows the bot as @{}.", me.username())),
        Err(ApiError::Refused { code: 401 | 404, .. }) => Verdict::Wrong(
            "Telegram does not know this token. Copy it again from @BotFather (/mybots, then API Token): all of it, with \
             the number and the colon."
                .into(),
        ),
        Err(error) => Verdict::Doubt(format!("The token could not be checked: {error}.")),
    }
}

/// Asks LibertAI what is left on LIBERTAI_API_KEY.
pub async fn libertai(config: &Config) -> Verdict {
    let asked = match LibertAi::new(&config.libertai_api_base_url) {
        Ok(libertai) => libertai.balance(&config.libertai_api_key).await,
        Err(_) => Err(BalanceError::Unreachable),
    };
    match asked {
        Ok(balance) => Verdict::Good(format!("LibertAI knows the key; its account has {balance:.2} credits.")),
        Err(BalanceError::Refused) => {
            Verdict::Wrong("LibertAI does not know this key. Copy it again, or make another one.".into())
        }
        Err(BalanceError::Empty) => Verdict::Doubt(
            "LibertAI knows the key, but its account has no credits left: agents could not answer.".into(),
        ),
        Err(error) => Verdict::Doubt(format!("The key could not be checked: {error}.")),
    }
}

/// Reads ALEPH_PRIVATE_KEY: the account's address, and whether it can pay for machines.
pub async fn account(config: &Config) -> Result<(String, Verdict), String> {
    // The error may tell something of the key.
    let aleph = Aleph::new(config, String::new()).map_err(|_| "is not the private key of an account".to_owned())?;
    let address = aleph.address();
    let verdict = match aleph.funds().await {
        Ok(funds) => {
            let has = format!(
                "The account {address} has {} credits (${:.2}); a machine costs {} an hour.",
                funds.credits,
                dollars(funds.credits),
                funds.hourly
            );
            match funds.check(1) {
                Ok(()) => Verdict::Good(has),
                Err(shortage) => Verdict::Doubt(format!(
                    "{has} A machine needs {} to be made, those of a day. Send credits to {address} on https://app.aleph.cloud \
                     before you make agents; nothing else waits for it.",
                    shortage.need
                )),
            }
        }
        Err(error) => Verdict::Doubt(format!("The account is {address}; its credits are not known: {error}.")),
    };
    Ok((address, verdict))
}

/// What was typed as the bot's address, such as `bot.example.org`, as PUBLIC_URL. `in_compose`: Caddy has port 80 for itself.
pub fn public_url(typed: &str, in_compose: bool) -> Result<String, String> {
    let text = if typed.contains("://") { typed.to_owned() } else { format!("https://{typed}") };
    let url = Url::parse(&text).map_err(|_| "is not a domain name, such as bot.example.org".to_owned())?;
    if url.scheme() != "https" {
        return Err("must begin with https://: Telegram calls nothing else".into());
    }
    let Some(name) = url.domain().filter(|name| name.contains('.') || *name == "localhost") else {
        return Err("must be a domain name, such as bot.example.org: certificates are made for names".into());
    };
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() || url.username() != "" {
        return Err("must be a name and perhaps a port, with nothing behind it".into());
    }
    let port = url.port().unwrap_or(443);
    if !WEBHOOK_PORTS.contains(&port) {
        return Err("has a port that Telegram does not call; 443, 88 and 8443 are possible".into());
    }
    if port == 80 && in_compose {
        return Err("has port 80, which is needed for plain HTTP; 443, 88 and 8443 are possible".into());
    }
    Ok(if port == 443 { format!("https://{name}") } else { format!("https://{name}:{port}") })
}

/// The name in a URL that [`public_url`] made.
pub fn host(url: &str) -> String {
    Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
}

/// What was typed as ADMIN_DOMAIN, beside the bot's address.
pub fn admin_domain(typed: &str, public: &str) -> Result<String, String> {
    let name = host(&public_url(typed, true)?);
    if name == host(public) {
        return Err("must be another name than the bot's: it is published apart".into());
    }
    Ok(name)
}

/// Whether a name leads to this host, as far as that can be told.
pub async fn name_leads_here(name: &str) -> Verdict {
    let found = tokio::time::timeout(LOOKUP, tokio::net::lookup_host((name, 443))).await;
    let found: Vec<IpAddr> = match found {
        Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
        _ => vec![],
    };
    leads_here(name, &found, &own_addresses())
}

fn leads_here(name: &str, found: &[IpAddr], own: &[IpAddr]) -> Verdict {
    let list = |addresses: &[IpAddr]| addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
    let own: Vec<IpAddr> = own.iter().copied().filter(|address| is_public(*address)).collect();
    if found.is_empty() {
        return Verdict::Doubt(format!(
            "{name} leads nowhere yet. Where the domain is managed, add an A record for it with this host's public address."
        ));
    }
    if !found.iter().any(|address| is_public(*address)) {
        return Verdict::Doubt(format!(
            "{name} leads to {}, which is not on the internet: Telegram cannot reach it, and no certificate can be had.",
            list(found)
        ));
    }
    if own.is_empty() {
        return Verdict::Good(format!(
            "{name} leads to {}. Whether that is this host cannot be told from here: its own address is a private one.",
            list(found)
        ));
    }
    if found.iter().any(|address| own.contains(address)) {
        return Verdict::Good(format!("{name} leads to this host."));
    }
    Verdict::Doubt(format!("{name} leads to {}, but this host is {}.", list(found), list(&own)))
}

/// This host's addresses towards the internet; private ones behind a router and in containers.
fn own_addresses() -> Vec<IpAddr> {
    let towards = |elsewhere: &str| {
        let local = if elsewhere.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(local)?;
        // Of a datagram socket this only chooses the way.
        socket.connect(elsewhere)?;
        socket.local_addr()
    };
    // silent-ok: a family of addresses that this host does not have
    ELSEWHERE.iter().filter_map(|elsewhere| towards(elsewhere).ok()).map(|address: SocketAddr| address.ip()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bots_address_is_one_that_telegram_calls() {
        for (typed, url) in [
            ("bot.example.org", "https://bot.example.org"),
            ("https://Bot.Example.org/", "https://bot.example.org"),
            ("bot.example.org:8443", "https://bot.example.org:8443"),
            ("https://bot.example.org:443", "https://bot.example.org"),
        ] {
            assert_eq!(public_url(typed, true).as_deref(), Ok(url), "{typed}");
        }
        for typed in [
            "http://bot.example.org",
            "bot.example.org:8080",
            "bot.example.org:80",
            "bot.example.org/telegram",
            "203.0.113.5",
            "https://[2001:db8::1]",
            "bot",
            "me@bot.example.org",
            "two words.org",
            "",
        ] {
            assert!(public_url(typed, true).is_err(), "{typed}");
        }
        assert_eq!(public_url("bot.example.org:80", false).as_deref(), Ok("https://bot.example.org:80"));
        assert_eq!(admin_domain("admin.example.org", "https://bot.example.org").as_deref(), Ok("admin.example.org"));
        assert!(admin_domain("bot.example.org", "https://bot.example.org:8443").is_err());
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_a_doubt() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (here, there, private) = (ip("9.9.9.9"), ip("8.8.8.8"), ip("10.0.0.1"));
        for (found, own, good) in [
            (vec![], vec![here], false),
            (vec![private], vec![here], false),
            (vec![there], vec![here], false),
            (vec![there, here], vec![private, here], true),
            (vec![there], vec![private], true),
        ] {
            assert_eq!(matches!(leads_here("bot.example.org", &found, &own), Verdict::Good(_)), good, "{found:?}");
        }
    }
}
