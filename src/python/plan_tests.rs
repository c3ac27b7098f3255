use secrecy::ExposeSecret as _;

use super::*;

fn hash(n: u8) -> String {
    format!("{n:02x}").repeat(32)
}

fn agent(id: i64) -> Agent {
    Agent {
        id,
        owner_id: 7,
        name: "Ada".into(),
        system_prompt: "Be kind.".into(),
        model: Some("m".into()),
        is_active: true,
        instance_hash: Some(hash(id as u8)),
        vm_url: Some("https://a-b-c-d.2n6.me/".into()),
        crn_url: Some("crn.example.org/".into()),
        auth_token: Some("plain-token".into()),
        status: "running".into(),
        created_at: None,
    }
}

fn planned(agents: &[Agent], pool: &[Pooled]) -> (Vec<Planned>, Report) {
    let vault = Vault::new(&Vault::generate_key()).expect("a key");
    let models: Models = r#"[{"id":"m","name":"M"}]"#.parse().expect("models");
    let rules = Rules {
        vault: &vault,
        models: &models,
        default_model: "m",
        allow_private: false,
        public_name: &|_| Some("w-x-y-z.2n6.me".into()),
    };
    let mut report = Report::default();
    let agents: Vec<&Agent> = agents.iter().collect();
    (plan(&agents, pool, &rules, &mut report), report)
}

fn one(agent: Agent) -> (Planned, Report) {
    let (mut all, report) = planned(&[agent], &[]);
    (all.pop().expect("one"), report)
}

fn is_failed(planned: &Planned) -> bool {
    matches!(planned.standing, Standing::Failed { .. })
}

#[test]
fn one_that_runs_goes_on_at_its_address_with_its_secret() {
    let (planned, report) = one(agent(5));
    let Standing::Running { url, secret } = &planned.standing else { panic!("{planned:?}") };
    assert_eq!((url.as_str(), secret.expose_secret()), ("https://a-b-c-d.2n6.me", "plain-token"));
    let machine = planned.machine.expect("a machine");
    assert_eq!(
        (machine.crn_url.as_str(), machine.name.as_deref()),
        ("https://crn.example.org", Some("a-b-c-d.2n6.me"))
    );
    assert_eq!(report.repaired.len(), 1, "the secret was plain: {report:?}");
    let (planned, _) = one(Agent { status: "deployed".into(), ..agent(5) });
    assert!(matches!(planned.standing, Standing::Running { .. }));
}

#[test]
fn what_something_is_missing_of_has_failed_and_keeps_its_machine() {
    let odd = [
        Agent { vm_url: None, ..agent(5) },
        Agent { vm_url: Some("not an address".into()), ..agent(5) },
        Agent { vm_url: Some("http://a.example.org".into()), ..agent(5) },
        Agent { vm_url: Some("ftp://a.example.org".into()), ..agent(5) },
        Agent { auth_token: None, ..agent(5) },
        Agent { auth_token: Some("gAAAAno".into()), ..agent(5) },
        Agent { status: "pending".into(), ..agent(5) },
        Agent { status: "deploying".into(), ..agent(5) },
        Agent { status: "provisioning".into(), ..agent(5) },
        Agent { status: String::new(), ..agent(5) },
    ];
    for agent in odd {
        let shown = format!("{agent:?}");
        let (planned, report) = one(agent);
        assert!(is_failed(&planned), "{shown}");
        assert_eq!(planned.machine.expect("a machine").item_hash, hash(5), "{shown}");
        assert_eq!(report.repaired.len(), 1, "{shown}: {report:?}");
        assert!(report.repaired[0].why.contains("it has its machine"), "{report:?}");
    }
    let (planned, report) = one(Agent { status: "failed".into(), instance_hash: None, vm_url: None, ..agent(5) });
    assert!(is_failed(&planned) && planned.machine.is_none() && report.repaired.is_empty(), "{report:?}");
    let (planned, report) = one(Agent { instance_hash: Some("pending".into()), ..agent(5) });
    assert!(matches!(planned.standing, Standing::Failed { ran: false }) && planned.machine.is_none());
    assert!(report.repaired[0].why.contains("another machine"), "{report:?}");
}

#[test]
fn a_deleted_one_is_its_number_and_its_machine_perhaps_paid_for() {
    for deleted in [Agent { is_active: false, ..agent(5) }, Agent { status: "stopped".into(), ..agent(5) }] {
        let (planned, report) = one(deleted);
        assert!(matches!(planned.standing, Standing::Deleted) && planned.machine.is_none());
        assert_eq!((planned.name.as_str(), planned.system_prompt.as_str()), ("", ""));
        assert_eq!(report.still_paid_for[0].item_hash, hash(5));
    }
    // A machine of the pool that another has by now.
    let agents = [Agent { is_active: false, ..agent(5) }, Agent { instance_hash: Some(hash(5)), ..agent(6) }];
    assert!(planned(&agents, &[]).1.still_paid_for.is_empty());
}

#[test]
fn of_two_with_one_machine_the_one_that_runs_there_has_it() {
    let failed = Agent { status: "failed".into(), instance_hash: Some(hash(6)), ..agent(7) };
    let (all, report) = planned(&[agent(6), failed], &[]);
    assert!(matches!(all[0].standing, Standing::Running { .. }) && all[0].machine.is_some());
    assert!(is_failed(&all[1]) && all[1].machine.is_none());
    assert!(report.repaired.iter().any(|line| line.what == "agent 7" && line.why.contains("agent 6's")), "{report:?}");

    let twice = [agent(6), Agent { instance_hash: Some(hash(6).to_uppercase()), ..agent(7) }];
    let (all, _) = planned(&twice, &[]);
    assert!(is_failed(&all[0]) && all[1].machine.is_some(), "who was deployed there last");
    let pool = [Pooled { instance_hash: hash(6), agent_id: Some(6), status: "deployed".into(), crn_url: None }];
    let (all, _) = planned(&twice, &pool);
    assert!(all[0].machine.is_some() && is_failed(&all[1]), "who the pool says");
}

#[test]
fn words_and_models_are_mended() {
    let odd = Agent {
        name: "A\nd\u{202e}a".repeat(40),
        system_prompt: "x".repeat(20_000),
        model: Some("hermes-3-8b-tee".into()),
        ..agent(5)
    };
    let (planned, report) = one(odd);
    assert!(validate_name(&planned.name).is_ok() && validate_prompt(&planned.system_prompt).is_ok());
    assert_eq!(planned.model, "hermes-3-8b-tee", "it runs on it");
    assert_eq!(report.repaired.len(), 4, "{report:?}");
    let (planned, _) =
        one(Agent { name: String::new(), system_prompt: " ".into(), model: None, status: "failed".into(), ..agent(5) });
    assert_eq!((planned.name.as_str(), planned.model.as_str()), ("Agent 5", "m"));
    assert_eq!(planned.system_prompt, "You are Agent 5, a helpful assistant.");
    let (planned, _) = one(Agent { model: Some("gone".into()), status: "failed".into(), ..agent(5) });
    assert_eq!(planned.model, "m");
}

#[test]
fn nodes_addresses_are_completed_or_unknown() {
    assert_eq!(crn_url(Some("https://crn.example.org/")), "https://crn.example.org");
    assert_eq!(crn_url(Some("crn.example.org")), "https://crn.example.org");
    for odd in [None, Some(""), Some("ftp://x"), Some("https://"), Some("a b")] {
        assert_eq!(crn_url(odd), "", "{odd:?}");
    }
    assert_eq!(item_hash("../etc"), None);
}
