//! A database with the schema and nothing else, and the program's handles on it.

use std::collections::BTreeMap;

use baal::app::App;
use baal::config::Config;

use crate::harness::database;

/// What every command needs, with these variables beside it.
pub fn environment(database_url: &str, variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    let common = [
        ("TELEGRAM_BOT_TOKEN", "42:AAAAAAAAAAAAAAAAAAAA"),
        ("TELEGRAM_API_URL", "http://127.0.0.1:9"),
        ("TELEGRAM_MODE", "polling"),
        ("DATABASE_URL", database_url),
        ("BOT_ENCRYPTION_KEY", "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="),
        ("LIBERTAI_API_KEY", "no-key"),
        ("LIBERTAI_API_BASE_URL", "http://127.0.0.1:9/v1"),
        ("CLOUD", "local"),
    ];
    common.iter().chain(variables).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The handles of a program with these variables, on a database of its own.
pub async fn app(variables: &[(&str, &str)]) -> App {
    drop(rustls::crypto::ring::default_provider().install_default());
    let url = database().await;
    let app = App::new(Config::from_values(environment(&url, variables), vec![]).unwrap()).unwrap();
    app.migrate().await.unwrap();
    app
}
