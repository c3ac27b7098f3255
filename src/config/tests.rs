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

#[test]
fn a_file_of_keys_has_one_a_line_and_each_once() {
    let keys = [(); 2].map(|()| Vault::generate_key().expose_secret().to_owned());
    let file = tempfile::NamedTempFile::new().expect("a file");
    let read = |text: String| {
        std::fs::write(file.path(), text).expect("writes");
        let mut values = good();
        values.remove("BOT_ENCRYPTION_KEY");
        values.insert("BOT_ENCRYPTION_KEY_FILE".into(), file.path().display().to_string());
        Config::from_values(values, vec![])
    };
    let config = read(format!("{}\n{}\n", keys[0], keys[1])).expect("valid");
    assert_eq!(config.vault.keys().expose_secret(), keys.join(","));
    assert!(!format!("{:?} {:?}", config.vault, config.shown()).contains(&keys[0]));
    let error = read(format!("{0}\n{1}\n{0}\n", keys[0], keys[1])).expect_err("invalid").to_string();
    assert!(error.contains("BOT_ENCRYPTION_KEY holds the same key twice (numbers 1 and 3)"), "{error}");
    let error = read(format!("{}, hunter2", keys[0])).expect_err("invalid").to_string();
    assert!(error.contains("BOT_ENCRYPTION_KEY holds 2 keys, of which number 2 is not a Fernet key"), "{error}");
    assert!(!error.contains("hunter2") && !error.contains(&keys[0]), "{error}");
}

#[test]
fn the_databases_password_is_given_once() {
    let with = |url: &str| {
        let mut values = good();
        values.extend(
            [("DATABASE_URL", url), ("DATABASE_PASSWORD", "hunter2")].map(|(n, v)| (n.to_owned(), v.to_owned())),
        );
        Config::from_values(values, vec![])
    };
    assert!(with("postgres://baal@localhost/baal?sslmode=verify-full").is_ok());
    for twice in ["postgres://baal:hunter2@localhost/baal", "postgres://baal@localhost/baal?password=hunter2"] {
        let error = with(twice).expect_err("invalid").to_string();
        assert!(error.contains("DATABASE_URL carries a password and DATABASE_PASSWORD is set"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let mut values = good();
    values.insert("DATABASE_URL".into(), "postgres://baal@localhost/baal?sslpassword=hunter2".into());
    let error = Config::from_values(values.clone(), vec![]).expect_err("invalid").to_string();
    assert!(error.contains("sslpassword") && !error.contains("hunter2"), "{error}");
    values
        .insert("DATABASE_URL".into(), "postgres://localhost/baal?sslmode=verify-full&sslrootcert=/none/ca.pem".into());
    let error = Config::from_values(values, vec![]).expect_err("invalid").to_string();
    assert!(error.contains("DATABASE_URL names a file with sslrootcert that cannot be read"), "{error}");
}
