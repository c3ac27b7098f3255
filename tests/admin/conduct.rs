//! What holds for every request: tokens, rates, headers, errors, repetitions, the record of changes.

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::api::{Answer, Api};
use crate::harness::{Stack, free_port};

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_shown_once_and_good_until_they_are_revoked() {
    let stack = Stack::start().await;
    let api = Api::of(&stack);
    let made = api.post("/tokens", json!({"label": "deploys", "scope": "admin"})).await;
    let location = made.headers["location"].to_str().unwrap().to_owned();
    let made = made.is(201);
    let (id, secret) = (made["id"].as_i64().unwrap(), made["secret"].as_str().unwrap().to_owned());
    assert_eq!(location, format!("/api/v1/tokens/{id}"));
    let own = api.with(&secret);
    let read = own.get(&format!("/tokens/{id}")).await.is(200);
    assert_eq!((&read["label"], &read["created_by"]), (&json!("deploys"), &json!("ADMIN_TOKEN")));
    assert!(!own.get("/tokens").await.is(200).to_string().contains(&secret));
    own.post(&format!("/tokens/{id}/revoke"), json!(null)).await.is(200);
    assert!(own.get("/tokens").await.problem(401, "unauthorised").contains("baal token create"));
    let audit = api.get("/audit").await.is(200);
    let seen: Vec<_> =
        audit["items"].as_array().unwrap().iter().map(|e| (e["action"].as_str(), e["actor"].as_str())).collect();
    let by_itself = format!("token {id} (deploys)");
    assert_eq!(seen, [(Some("token.revoke"), Some(by_itself.as_str())), (Some("token.create"), Some("ADMIN_TOKEN"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_with_a_key_is_done_once() {
    let stack = Stack::start().await;
    let api = Api::of(&stack);
    let create = |label: &str| {
        let request = api.request(Method::POST, "/tokens").header("Idempotency-Key", "one");
        Answer::of(request.json(&json!({"label": label, "scope": "read"})))
    };
    let (first, second) = tokio::join!(create("a"), create("a"));
    assert_eq!(first.is(201), second.is(201));
    assert!(create("b").await.problem(409, "conflict").contains("Idempotency-Key"));
    assert_eq!(stack.sql::<i64>("select count(*) from api_tokens").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_is_refused_with_the_field_and_the_requests_id() {
    let stack = Stack::start().await;
    let api = Api::of(&stack);
    let post = |body: &str| {
        let request = api.request(Method::POST, "/tokens").header("Content-Type", "application/json");
        Answer::of(request.body(body.to_owned()))
    };
    let field = |answer: &Answer| answer.body["errors"][0]["field"].as_str().unwrap().to_owned();
    for (body, named) in [
        (r#"{"label": "a", "scope": "read", "colour": "red"}"#, "colour"),
        (r#"{"label": "a", "scope": "root"}"#, "scope"),
        (r#"{"label": 7, "scope": "read"}"#, "label"),
        (r#"{"label": "", "scope": "read"}"#, "label"),
        (r#"{"label": "two\nlines", "scope": "read"}"#, "label"),
        (r#"{"label": "a", "scope": "read", "days": 0}"#, "days"),
    ] {
        let answer = post(body).await;
        assert_eq!(field(&answer), named, "{body}");
        answer.problem(422, "invalid");
    }
    post("{").await.problem(400, "malformed");
    post(&format!("\"{}\"", "x".repeat(1024 * 1024))).await.problem(413, "too-large");
    let untyped = api.request(Method::POST, "/tokens").body("{}");
    Answer::of(untyped).await.problem(415, "unsupported-media-type");
    api.get("/tokens?limit=many").await.problem(400, "malformed");
    api.get("/tokens?colour=red").await.problem(400, "malformed");
    assert_eq!(field(&api.get("/tokens?limit=0").await), "limit");
    api.get("/tokens/seven").await.problem(400, "malformed");
    assert!(api.get("/tokens/999").await.problem(404, "not-found").contains("no token 999"));
    api.get("/unheard-of").await.problem(404, "not-found");
    let answer = Answer::of(api.request(Method::PUT, "/tokens")).await;
    assert_eq!(answer.headers["allow"], "GET, HEAD, POST");
    answer.problem(405, "method-not-allowed");
    let named = api.request(Method::GET, "/tokens/999").header("X-Request-Id", "of-the-caller-7");
    assert_eq!(Answer::of(named).await.body["request_id"], "of-the-caller-7");
    let log = std::fs::read_to_string(stack.dir().join("baal-0.log")).unwrap();
    assert!(log.contains("of-the-caller-7"), "the logs have it too");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_headers_that_make_browsers_careful() {
    let stack = Stack::start().await;
    let base = Api::of(&stack).base;
    let http = reqwest::Client::new();
    let paths = [
        "/",
        "/healthz",
        "/readyz",
        "/docs",
        "/docs/",
        "/openapi.json",
        "/api/v1/tokens",
        "/unheard-of",
        "/telegram/webhook",
    ];
    for path in paths {
        let answer = http.get(format!("{base}{path}")).send().await.unwrap();
        let headers = answer.headers();
        assert_eq!(
            (&headers["x-content-type-options"], &headers["x-frame-options"]),
            (&"nosniff".parse().unwrap(), &"DENY".parse().unwrap()),
            "{path}"
        );
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(
            policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
        assert_eq!(policy.contains("script-src"), path.starts_with("/docs"), "{path}: {policy}");
        assert!(!headers.contains_key("access-control-allow-origin"), "{path}");
    }
    let page = http.get(format!("{base}/")).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("Telegram") && page.contains("\"/docs\""), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_wrong_tokens_slow_guesses_from_their_address_down_and_no_good_token() {
    let stack = Stack::builder().env("TRUSTED_PROXIES", "127.0.0.1").start().await;
    let api = Api::of(&stack);
    let from = |address: &'static str, token: &str| {
        Answer::of(api.with(token).request(Method::GET, "/tokens").header("X-Forwarded-For", address))
    };
    let made = api.post("/tokens", json!({"label": "a", "scope": "admin"})).await.is(201);
    let good = made["secret"].as_str().unwrap();
    for _ in 0..5 {
        from("192.0.2.1", "guess").await.problem(401, "unauthorised");
    }
    let like_one = format!("baal_{}", "A".repeat(43));
    for guess in ["guess", &like_one] {
        let slowed = from("192.0.2.1", guess).await;
        let wait: u64 = slowed.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=31).contains(&wait), "{wait}");
        slowed.problem(429, "too-many-requests");
    }
    // Else one stranger behind the same proxy would shut everybody out.
    from("192.0.2.1", &api.token).await.is(200);
    from("192.0.2.1", good).await.is(200);
    from("192.0.2.2", "guess").await.problem(401, "unauthorised");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_bounded_by_address_and_by_token() {
    let stack = Stack::builder().env("TRUSTED_PROXIES", "127.0.0.1").env("ADMIN_RATE_PER_MINUTE", 5).start().await;
    let api = Api::of(&stack);
    let from = |address: String, token: &str| {
        let request = api.with(token).request(Method::GET, "/tokens").header("X-Forwarded-For", address);
        async { Answer::of(request).await.status.as_u16() }
    };
    let mut by_token = Vec::new();
    for last in 1..=6 {
        by_token.push(from(format!("192.0.2.{last}"), &api.token).await);
    }
    assert_eq!(by_token, [200, 200, 200, 200, 200, 429]);
    let mut by_address = Vec::new();
    for _ in 0..6 {
        by_address.push(from("198.51.100.1".into(), "").await);
    }
    assert_eq!(by_address, [401, 401, 401, 401, 401, 429]);
    let made = stack.baal(0);
    let token = tokio::process::Command::new(env!("CARGO_BIN_EXE_baal"))
        .args(["token", "create", "other", "--scope", "admin", "--no-env-file"])
        .envs(made.env())
        .output()
        .await
        .unwrap();
    let token = String::from_utf8(token.stdout).unwrap();
    assert_eq!(from("198.51.100.1".into(), token.trim()).await, 200, "whoever has a good one is let in");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_told_without_its_secrets() {
    let stack = Stack::builder().env("ADMIN_CORS_ORIGINS", "https://a.example,https://b.example").start().await;
    let api = Api::of(&stack);
    let system = api.get("/system").await.is(200);
    let environment: std::collections::HashMap<String, String> = stack.baal(0).env().into_iter().collect();
    let text = system.to_string();
    let setting = |name: &str| {
        let settings = system["configuration"].as_array().unwrap();
        settings.iter().find(|setting| setting["name"] == name).unwrap_or_else(|| panic!("no {name}"))["value"].clone()
    };
    for name in ["ADMIN_TOKEN", "TELEGRAM_BOT_TOKEN", "DATABASE_URL", "BOT_ENCRYPTION_KEY", "LIBERTAI_API_KEY"] {
        assert_eq!(setting(name), "[REDACTED]");
        assert!(!text.contains(&environment[name]), "{name} is told");
    }
    assert_eq!(setting("TELEGRAM_API_URL"), environment["TELEGRAM_API_URL"].as_str(), "as it is written there");
    assert_eq!(setting("ADMIN_CORS_ORIGINS"), "https://a.example,https://b.example");
    assert_eq!(setting("ADMIN_RATE_PER_MINUTE"), environment["ADMIN_RATE_PER_MINUTE"].as_str());
    assert_eq!(setting("ACME_EMAIL"), json!(null));
    let replicas = system["replicas"].as_array().unwrap();
    assert_eq!(replicas.len(), 1, "{replicas:?}");
    let (beat, expired) = (replicas[0]["last_beat_seconds"].as_f64().unwrap(), &replicas[0]["expired"]);
    assert!(beat >= 0.0 && replicas[0]["worker"] == true && expired == false, "{replicas:?}");
    // One that died shows that it did.
    sqlx::query("insert into replicas (name, worker, expires_at) values ('gone', true, now() - interval '1 hour')")
        .execute(&stack.db)
        .await
        .unwrap();
    let system = api.get("/system").await.is(200);
    let gone = system["replicas"].as_array().unwrap().iter().find(|replica| replica["name"] == "gone").unwrap();
    assert!(gone["expired"] == true && gone["last_beat_seconds"].as_f64().unwrap() >= 3_600.0, "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_that_the_database_cannot_take_are_refused() {
    let stack = Stack::start().await;
    let api = Api::of(&stack);
    let long = "x".repeat(101);
    for field in ["subject_kind", "subject_id"] {
        for value in ["%00", &long] {
            let answer = api.get(&format!("/audit?{field}={value}")).await;
            assert_eq!(answer.body["errors"][0]["field"], field);
            answer.problem(422, "invalid");
        }
    }
    for from in ["-5000-01-01", "%2B10000-01-01"] {
        let answer = api.get(&format!("/usage?from={from}")).await;
        assert_eq!(answer.body["errors"][0]["field"], "from");
        answer.problem(422, "invalid");
    }
    api.get("/usage?from=0000-01-01").await.is(200);
    assert_eq!(stack.errors(), [""; 0]);
}

/// Postgres is made to hold one answer back until a time-out of its own, and a body never comes to its end.
#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_is_a_problem_like_others() {
    let stack = Stack::start().await;
    let api = Api::of(&stack);
    let mut tx = stack.db.begin().await.unwrap();
    sqlx::query("lock table audit in access exclusive mode").execute(&mut *tx).await.unwrap();
    let endless = async {
        let address = api.base.strip_prefix("http://").unwrap();
        let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST /api/v1/tokens HTTP/1.1\r\nHost: baal\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{",
            api.token
        );
        connection.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            assert!(connection.read_buf(&mut answer).await.unwrap() > 0, "it hung up");
        }
        String::from_utf8(answer).unwrap()
    };
    let (answer, endless) = tokio::join!(api.get("/audit"), endless);
    assert!(answer.headers.contains_key("retry-after"));
    answer.problem(503, "took-too-long");
    assert!(endless.starts_with("HTTP/1.1 503 ") && endless.contains("urn:baal:problem:took-too-long"), "{endless}");
    tx.rollback().await.unwrap();
    api.get("/audit").await.is(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_is_set_or_deleted_by_hand_is_in_the_record() {
    let stack = Stack::start().await;
    for arguments in [&["set", "--url", "https://bot.example.org"][..], &["delete"]] {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_baal"));
        let command = command.arg("webhook").args(arguments).arg("--no-env-file").envs(stack.baal(0).env());
        let ran = command.output().await.unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }
    let audit = Api::of(&stack).get("/audit?subject_kind=webhook").await.is(200);
    let seen: Vec<_> = audit["items"].as_array().unwrap().iter().map(|e| (&e["action"], &e["actor"])).collect();
    let by_hand = json!("command line");
    assert_eq!(seen, [(&json!("webhook.delete"), &by_hand), (&json!("webhook.set"), &by_hand)]);
    assert_eq!(audit["items"][1]["after"]["url"], "https://bot.example.org");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_can_listen_on_an_address_of_its_own() {
    let apart = format!("127.0.0.1:{}", free_port());
    let stack = Stack::builder().env("ADMIN_LISTEN_ADDR", &apart).start().await;
    let public = Api::of(&stack);
    let own = public.at(&format!("http://{apart}"));
    own.get("/tokens").await.is(200);
    let status = async |base: &str, path: &str| {
        let http = reqwest::Client::new();
        http.get(format!("{base}{path}")).send().await.unwrap().status().as_u16()
    };
    for (path, on_public, on_own) in [
        ("/", 200, 200),
        ("/api/v1/tokens", 404, 401),
        ("/docs/", 404, 200),
        ("/openapi.json", 404, 200),
        ("/telegram/webhook", 405, 404),
    ] {
        assert_eq!((status(&public.base, path).await, status(&own.base, path).await), (on_public, on_own), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_may_call_only_if_they_are_named() {
    let origin = "https://admin.example.org";
    let stack = Stack::builder().env("ADMIN_CORS_ORIGINS", origin).start().await;
    let api = Api::of(&stack);
    let preflight = async |origin: &str| {
        let request = api.request(Method::OPTIONS, "/tokens").header("Origin", origin);
        let request = request.header("Access-Control-Request-Method", "POST");
        request.header("Access-Control-Request-Headers", "authorization,content-type").send().await.unwrap()
    };
    let allowed = preflight(origin).await;
    assert!(allowed.status().is_success());
    assert_eq!(allowed.headers()["access-control-allow-origin"], origin);
    assert!(allowed.headers()["access-control-allow-headers"].to_str().unwrap().contains("authorization"));
    assert!(!preflight("https://elsewhere.example").await.headers().contains_key("access-control-allow-origin"));
    let answer = Answer::of(api.request(Method::GET, "/tokens").header("Origin", origin)).await;
    assert_eq!(answer.headers["access-control-allow-origin"], origin);
    assert!(!answer.headers.contains_key("access-control-allow-credentials"));
    answer.is(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_makes_shows_and_revokes_tokens() {
    let stack = Stack::start().await;
    let api = Api::of(&stack);
    let run = async |arguments: &[&str]| {
        let baal = stack.baal(0);
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_baal"));
        let ran = command.arg("token").args(arguments).arg("--no-env-file").envs(baal.env()).output().await.unwrap();
        (ran.status.success(), String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap())
    };
    let (done, token, said) = run(&["create", "backups", "--scope", "read", "--days", "7"]).await;
    assert!(done && said.contains("not shown again"), "{said}");
    let own = api.with(token.trim());
    own.get("/tokens").await.problem(403, "forbidden");
    let id: i64 = stack.sql("select id from api_tokens where label = 'backups'").await;
    let (_, listed, _) = run(&["list"]).await;
    assert!(listed.contains("backups") && listed.contains("used ") && !listed.contains(token.trim()), "{listed}");
    let (done, _, said) = run(&["revoke", &id.to_string()]).await;
    assert!(done, "{said}");
    own.get("/tokens").await.problem(401, "unauthorised");
    assert_eq!(stack.sql::<i64>("select count(*) from audit where actor = 'command line'").await, 2);
    let (done, _, said) = run(&["revoke", "999"]).await;
    assert!(!done && said.contains("no token 999"), "{said}");
    let (done, _, said) = run(&["create", "two\nlines"]).await;
    assert!(!done && said.contains("1 to 64 characters"), "{said}");
    let (done, _, said) = run(&["create", "long", "--days", "3651"]).await;
    assert!(!done && said.contains("3650"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_not_good_after_their_time() {
    let stack = Stack::start().await;
    let api = Api::of(&stack);
    let made = api.post("/tokens", json!({"label": "short", "scope": "admin", "days": 1})).await.is(201);
    let own = api.with(made["secret"].as_str().unwrap());
    own.get("/tokens").await.is(200);
    sqlx::query("update api_tokens set expires_at = now() - interval '1 second'").execute(&stack.db).await.unwrap();
    own.get("/tokens").await.problem(401, "unauthorised");
}
