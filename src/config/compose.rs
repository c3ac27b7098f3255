//! What docker-compose.yml and the Caddyfile read from `.env`, and the program does not.

use super::{Need, Variable};

/// In the order of the documentation; those that are required have their example for a value in `.env.example`.
pub const COMPOSE_VARIABLES: &[Variable] = &[
    Variable {
        name: "COMPOSE_PROFILES",
        doc: &[
            " What `docker compose up` starts: `webhook` (Caddy serves PUBLIC_URL) or `polling` (nothing is published; it needs",
            " TELEGRAM_MODE=polling too).",
        ],
        need: Need::Required,
        example: "webhook",
    },
    Variable {
        name: "ADMIN_DOMAIN",
        doc: &[
            " A name under which Caddy publishes the administrators' API and its documentation; without it they are reached from",
            " inside only. Figures (/metrics) never are published.",
        ],
        need: Need::Optional,
        example: "admin.example.org",
    },
    Variable {
        name: "CADDY_TLS",
        doc: &[
            " Where Caddy's certificates come from: `acme` (public authorities) or `internal` (one of its own, for closed networks).",
        ],
        need: Need::Default("acme"),
        example: "internal",
    },
    Variable {
        name: "HTTPS_PORT",
        doc: &[
            " The port on which Caddy serves HTTPS. Telegram calls 443, 80, 88 and 8443; another than 443 has to be in PUBLIC_URL,",
            " and needs something before it that gets certificates through.",
        ],
        need: Need::Default("443"),
        example: "8443",
    },
    Variable {
        name: "HTTP_PORT",
        doc: &[" The port on which Caddy sends browsers on to HTTPS, and authorities find proofs."],
        need: Need::Default("80"),
        example: "8080",
    },
    Variable {
        name: "BAAL_REPLICAS",
        doc: &[" Processes that share the work."],
        need: Need::Default("1"),
        example: "3",
    },
    Variable {
        name: "BAAL_IMAGE",
        doc: &[" The image, without its version. One that is not there is built."],
        need: Need::Default("baal"),
        example: "registry.example.org/baal",
    },
    Variable {
        name: "BAAL_VERSION",
        doc: &[" The version that runs."],
        need: Need::Default("latest"),
        example: "0.7.0",
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::VARIABLES;
    use super::*;

    const FILE: &str = include_str!("../../docker-compose.yml");

    #[test]
    fn what_the_compose_file_asks_for_is_documented_and_nothing_else() {
        let asked: BTreeSet<_> = FILE
            .split("${")
            .skip(1)
            .filter_map(|rest| rest.split(|c: char| !c.is_ascii_uppercase() && c != '_').next())
            .filter(|name| !name.is_empty())
            .collect();
        let documented: BTreeSet<_> = COMPOSE_VARIABLES.iter().chain(VARIABLES).map(|variable| variable.name).collect();
        assert_eq!(asked.difference(&documented).collect::<Vec<_>>(), Vec::<&&str>::new());
        for variable in COMPOSE_VARIABLES {
            assert!(FILE.contains(variable.name), "{} is not in docker-compose.yml", variable.name);
            if let Need::Default(default) = variable.need {
                let used = format!("${{{}:-{default}}}", variable.name);
                assert!(FILE.contains(&used), "{used} is not in docker-compose.yml");
            }
        }
    }
}
