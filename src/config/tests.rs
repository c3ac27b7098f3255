use super::*;

fn good() -> BTreeMap<String, String> {
    [
        ("TELEGRAM_BOT_TOKEN", "42:AAAAAAAAAAAAAAAA"),
        ("TELEGRAM_WEBHOOK_SECRET", "s3cret"),
        ("DATABASE_URL", "postgres://localhost/baal"),
        ("BOT_ENCRYPTION_KEY", "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="),
        ("LIBERTAI_API_KEY", "key"),
        ("CLOUD", "local"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

#[test]
fn defaults_fill_what_is_not_set() {
    let config = Config::from_values(good(), vec![]).expect("valid");
    assert_eq!(config.bot_id(), 42);
    assert_eq!(config.listen_addr.port(), 8080);
    assert_eq!(config.models.0.len(), 2);
    assert_eq!((&config.agent_binary, &config.public_url), (&None, &None));
    assert!(!format!("{config:?}").contains("s3cret"));
}

#[test]
fn every_problem_is_reported_and_no_value_shown() {
    let mut values = good();
    values.remove("LIBERTAI_API_KEY");
    for (name, value) in [
        ("TELEGRAM_BOT_TOKEN", "hunter2"),
        ("LISTEN_ADDR", "hunter2"),
        ("MODELS", "[]"),
        ("BOT_ENCRYPTION_KEY", "hunter2"),
        ("DATABASE_URL", "mysql://root:hunter2@db"),
    ] {
        values.insert(name.into(), value.into());
    }
    let error = Config::from_values(values, vec![]).expect_err("invalid").to_string();
    assert!(error.contains("6 problems"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    for name in
        ["TELEGRAM_BOT_TOKEN", "LISTEN_ADDR", "MODELS", "BOT_ENCRYPTION_KEY", "DATABASE_URL", "LIBERTAI_API_KEY"]
    {
        assert!(error.contains(&format!("- {name} ")), "{name} in {error}");
    }
}

#[test]
fn a_key_that_no_agent_would_take_is_refused_and_not_shown() {
    for key in ["hunter2 hunter2", "hunter2…", "hunter2\nhunter2"] {
        let mut values = good();
        values.insert("LIBERTAI_API_KEY".into(), key.into());
        let error = Config::from_values(values, vec![]).expect_err("invalid").to_string();
        assert!(error.contains("LIBERTAI_API_KEY must be one word of visible ASCII characters"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn what_is_seldom_meant_is_told() {
    let with = |more: &[(&str, &str)]| {
        let mut values = good();
        values.insert("ALEPH_PRIVATE_KEY".into(), "1".repeat(64));
        values.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Config::from_values(values, vec![]).expect("valid")
    };
    let (aleph, open) = (("CLOUD", "aleph"), ("AGENT_ALLOW_PRIVATE", "true"));
    assert!(with(&[aleph, open]).doubts()[0].contains("AGENT_ALLOW_PRIVATE"));
    let own = ("ALEPH_CRN_LIST_URL", "http://127.0.0.1:1/crns.json");
    for fine in [&[aleph][..], &[open], &[aleph, open, own]] {
        assert!(with(fine).doubts().is_empty(), "{fine:?}");
    }
    let public = ("PUBLIC_URL", "https://bot.example.org");
    assert!(with(&[public]).doubts()[0].contains("TRUSTED_PROXIES"));
    for more in [("TRUSTED_PROXIES", "127.0.0.1/32"), ("ADMIN_LISTEN_ADDR", "127.0.0.1:8081")] {
        assert!(with(&[public, more]).doubts().is_empty(), "{more:?}");
    }
    assert!(with(&[]).has_personal_ssh_key());
    assert!(!with(&[("ALEPH_SSH_PRIVKEY_PATH", "/run/secrets/ssh_key")]).has_personal_ssh_key());
}

#[test]
fn secrets_come_from_files_too() {
    let file = std::env::temp_dir().join(format!("baal-config-{}", std::process::id()));
    std::fs::write(&file, "from-file\n").expect("writes");
    let mut values = good();
    values.remove("LIBERTAI_API_KEY");
    values.insert("LIBERTAI_API_KEY_FILE".into(), file.to_string_lossy().into());
    let config = Config::from_values(values, vec![]).expect("valid");
    std::fs::remove_file(&file).expect("removes");
    assert_eq!(config.libertai_api_key.expose_secret(), "from-file");
}
