//! deploy/kubernetes as kubectl renders it and Kubernetes' own schemas judge it, against what the program takes and serves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use baal::config::{CloudKind, Config, VARIABLES};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::python;

const OVERLAYS: [&str; 3] = ["single", "production", "split"];

/// The oldest version that has what we use (`preStop.sleep`), and newer ones.
const VERSIONS: [&str; 3] = ["1.30", "1.34", "1.37"];

/// Where the Secret is in a container.
const MOUNTED: &str = "/run/secrets/baal";

/// What an operator puts into `secrets/`.
const SECRETS: [(&str, &str); 9] = [
    ("telegram_bot_token", "42:AAAAAAAAAAAAAAAAAAAA"),
    ("telegram_webhook_secret", "a-secret-of-the-webhook"),
    ("bot_encryption_key", "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="),
    ("libertai_api_key", "a-key-of-libertai"),
    ("database_password", "a-password-of-the-database"),
    ("admin_token", "a-token-of-at-least-32-visible-characters"),
    ("aleph_private_key", "0x1111111111111111111111111111111111111111111111111111111111111111"),
    ("ssh_key", "a-key-of-ssh"),
    // Only `baal backup` needs it.
    ("backup_passphrase", ""),
];

/// The one in PATH, else the one that `scripts/bootstrap` fetched.
fn kubectl() -> PathBuf {
    let fetched = Path::new(&std::env::var_os("HOME").unwrap()).join(".cache/baal/kubectl/usr/bin/kubectl");
    let in_path = Command::new("kubectl").args(["version", "--client"]).output().is_ok();
    if in_path { "kubectl".into() } else { fetched }
}

/// An overlay as it would be applied.
struct Rendered {
    name: &'static str,
    dir: TempDir,
    resources: Vec<Value>,
}

impl Rendered {
    fn new(name: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes");
        assert!(Command::new("cp").arg("-R").arg(&from).arg(dir.path()).status().unwrap().success());
        let root = dir.path().join("kubernetes");
        for overlay in ["single", "production"] {
            let secrets = root.join("overlays").join(overlay).join("secrets");
            // There are somebody's own where the tests run in a directory that is deployed from.
            fs::create_dir_all(&secrets).unwrap();
            for (file, value) in SECRETS {
                fs::write(secrets.join(file), format!("{value}\n")).unwrap();
            }
        }
        let rendered = Command::new(kubectl()).arg("kustomize").arg(root.join("overlays").join(name)).output();
        let rendered = rendered.expect("kubectl, which scripts/bootstrap wants");
        assert!(rendered.status.success(), "{name}: {}", String::from_utf8_lossy(&rendered.stderr));
        let resources = judged(&rendered.stdout).unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
        Self { name, dir, resources }
    }

    fn kind(&self, kind: &str) -> Vec<&Value> {
        self.resources.iter().filter(|resource| resource["kind"] == kind).collect()
    }

    fn one(&self, kind: &str, name: &str) -> &Value {
        let found = self.kind(kind).into_iter().find(|resource| resource["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("{} has no {kind} {name}", self.name))
    }

    /// What a container of this Deployment finds in its environment; nothing but ConfigMaps may put something there.
    fn environment(&self, deployment: &Value) -> BTreeMap<String, String> {
        let container = &pod(deployment)["containers"][0];
        assert_eq!(container["env"], Value::Null, "{}: settings are in baal.env", self.name);
        let mut variables = BTreeMap::new();
        for source in container["envFrom"].as_array().unwrap() {
            let map = self.one("ConfigMap", source["configMapRef"]["name"].as_str().unwrap());
            let pairs = map["data"].as_object().unwrap().iter();
            variables.extend(pairs.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())));
        }
        variables
    }

    /// The program's settings from them, with the files of the Secret where the test has them.
    fn config(&self, deployment: &Value) -> Config {
        let overlay = if self.name == "split" { "production" } else { self.name };
        let here = self.dir.path().join("kubernetes/overlays").join(overlay).join("secrets");
        let mut variables = self.environment(deployment);
        for value in variables.values_mut() {
            *value = value.replace(MOUNTED, here.to_str().unwrap());
        }
        Config::from_values(variables, Vec::new()).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

/// The resources of these manifests, if Kubernetes' schemas allow them.
fn judged(manifests: &[u8]) -> Result<Vec<Value>, String> {
    let mut judge = Command::new(python("tests/operators/kubernetes/requirements.txt"))
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/operators/kubernetes/judge.py"))
        .args(VERSIONS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    judge.stdin.take().unwrap().write_all(manifests).unwrap();
    let said = judge.wait_with_output().unwrap();
    match said.status.success() {
        true => Ok(serde_json::from_slice(&said.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&said.stderr).into_owned()),
    }
}

fn pod(workload: &Value) -> &Value {
    &workload["spec"]["template"]["spec"]
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

/// Whether a selector's labels are all among these.
fn selects(selector: &Value, labels: &Value) -> bool {
    selector.as_object().unwrap().iter().all(|(name, value)| labels[name] == *value)
}

#[test]
fn a_misspelt_field_is_refused() {
    let wrong = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"prots": []}}"#;
    let refused = judged(wrong.as_bytes()).unwrap_err();
    assert!(refused.contains("prots") && refused.contains("Service x"), "{refused}");
}

#[test]
fn settings_in_the_manifests_are_the_programs_and_it_takes_them() {
    for overlay in OVERLAYS.map(Rendered::new) {
        for deployment in overlay.kind("Deployment") {
            for (name, value) in overlay.environment(deployment) {
                match name.strip_suffix("_FILE").filter(|name| VARIABLES.iter().any(|v| v.name == *name)) {
                    Some(_) => assert!(value.starts_with(MOUNTED), "{name} names no file of the Secret: {value}"),
                    None => assert_eq!(Config::check(&name, &value), Ok(()), "{}: {name}", overlay.name),
                }
            }
            let config = overlay.config(deployment);
            assert_ne!(config.cloud, CloudKind::Local, "agents would be in the container");
            assert_eq!(config.listen_addr.port(), 8080);
            assert_eq!(config.admin_listen_addr.unwrap().port(), 8081);
            assert_eq!(config.telegram_bot_token.expose_secret(), SECRETS[0].1);
            assert!(config.database_password.is_some() && config.admin_token.is_some(), "{}", overlay.name);
            assert_eq!(config.doubts(), Vec::<String>::new(), "{}", overlay.name);
        }
    }
}

#[test]
fn secrets_are_files_and_nowhere_else() {
    for overlay in OVERLAYS.map(Rendered::new) {
        let others = overlay.resources.iter().filter(|resource| resource["kind"] != "Secret");
        let shown: String = others.map(Value::to_string).collect();
        for (file, value) in SECRETS {
            assert!(value.is_empty() || !shown.contains(value), "{}: {file} is shown", overlay.name);
        }
        for deployment in overlay.kind("Deployment") {
            let pod = pod(deployment);
            let mount = pod["containers"][0]["volumeMounts"].as_array().unwrap();
            let mount = mount.iter().find(|mount| mount["mountPath"] == MOUNTED).unwrap();
            let volumes = pod["volumes"].as_array().unwrap();
            let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
            let secret = overlay.one("Secret", volume["secret"]["secretName"].as_str().unwrap());
            for (name, value) in overlay.environment(deployment) {
                let Some(file) = value.strip_prefix(MOUNTED) else { continue };
                assert!(secret["data"].get(file.trim_start_matches('/')).is_some(), "{name}: the Secret has no {file}");
            }
            // Owned by root, read by the group.
            assert_eq!(
                (&volume["secret"]["defaultMode"], &pod["securityContext"]["fsGroup"]),
                (&json!(0o440), &json!(10_001))
            );
        }
    }
}

#[test]
fn probes_ask_what_the_program_serves_where_it_listens() {
    let routes = include_str!("../../src/http/mod.rs");
    for overlay in OVERLAYS.map(Rendered::new) {
        for deployment in overlay.kind("Deployment") {
            let (container, config) = (&pod(deployment)["containers"][0], overlay.config(deployment));
            let works_only = strings(&container["args"]) == ["worker"];
            let mut ports = BTreeMap::from([("admin", config.admin_listen_addr.unwrap().port())]);
            if !works_only {
                ports.insert("webhook", config.listen_addr.port());
            }
            let open = container["ports"].as_array().unwrap();
            let open =
                open.iter().map(|port| (port["name"].as_str().unwrap(), port["containerPort"].as_u64().unwrap()));
            assert_eq!(open.map(|(name, port)| (name, port as u16)).collect::<BTreeMap<_, _>>(), ports);
            let probes = ["startupProbe", "livenessProbe", "readinessProbe"];
            let probes = probes.map(|probe| (probe, &container[probe]["httpGet"]));
            for (probe, asked) in probes.into_iter().filter(|(_, asked)| !asked.is_null()) {
                let path = asked["path"].as_str().unwrap();
                assert!(routes.contains(&format!(".route(\"{path}\"")), "{probe}: {path} is not served");
                assert_eq!(path == "/readyz", probe == "readinessProbe", "only readiness may depend on the database");
                assert!(ports.contains_key(asked["port"].as_str().unwrap()), "{probe}");
            }
            assert_eq!(container["readinessProbe"].is_null(), works_only);
        }
    }
}

#[test]
fn a_replica_has_the_time_that_it_takes_to_hand_back() {
    let grace =
        include_str!("../../src/serve.rs").split_once("const GRACE: Duration = Duration::from_secs(").unwrap().1;
    let grace: u64 = grace.split_once(')').unwrap().0.parse().unwrap();
    for overlay in OVERLAYS.map(Rendered::new) {
        for deployment in overlay.kind("Deployment") {
            let sleep = pod(deployment)["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64();
            let given = pod(deployment)["terminationGracePeriodSeconds"].as_u64().unwrap();
            assert!(given >= sleep.unwrap_or(0) + grace + 5, "{}: {given} s", overlay.name);
            assert_eq!(deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
        }
    }
}

#[test]
fn containers_have_no_privileges() {
    assert!(include_str!("../../Dockerfile").contains("\nUSER 10001:10001\n"));
    for overlay in OVERLAYS.map(Rendered::new) {
        for workload in overlay.kind("Deployment").into_iter().chain(overlay.kind("StatefulSet")) {
            let pod = pod(workload);
            let user = if workload["kind"] == "Deployment" { 10_001 } else { 999 };
            assert_eq!(pod["securityContext"]["runAsUser"], user);
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
            assert_eq!(
                (&pod["automountServiceAccountToken"], &pod["enableServiceLinks"]),
                (&json!(false), &json!(false))
            );
            for container in pod["containers"].as_array().unwrap() {
                let context = &container["securityContext"];
                assert_eq!(context["readOnlyRootFilesystem"], true);
                assert_eq!(context["allowPrivilegeEscalation"], false);
                assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
                assert!(container["resources"]["limits"]["memory"].is_string());
            }
        }
    }
}

#[test]
fn what_is_published_is_the_webhook_over_tls() {
    for overlay in [Rendered::new("production"), Rendered::new("split")] {
        let (ingress, deployment) = (&overlay.one("Ingress", "baal")["spec"], overlay.one("Deployment", "baal"));
        let rules = ingress["rules"].as_array().unwrap();
        let paths: Vec<&Value> = rules.iter().flat_map(|rule| rule["http"]["paths"].as_array().unwrap()).collect();
        assert_eq!(
            paths.iter().map(|path| (&path["path"], &path["pathType"])).collect::<Vec<_>>(),
            [(&json!("/telegram/webhook"), &json!("Exact"))]
        );
        let host = rules[0]["host"].as_str().unwrap();
        assert_eq!(overlay.config(deployment).public_url, Some(format!("https://{host}")));
        assert_eq!(strings(&ingress["tls"][0]["hosts"]), [host]);
        let service = overlay.one("Service", paths[0]["backend"]["service"]["name"].as_str().unwrap());
        assert_eq!(service["spec"]["ports"][0]["targetPort"], "webhook");
    }
    assert!(Rendered::new("single").kind("Ingress").is_empty());
}

#[test]
fn what_names_another_resource_finds_it() {
    for overlay in OVERLAYS.map(Rendered::new) {
        let workloads = overlay.kind("Deployment").into_iter().chain(overlay.kind("StatefulSet"));
        let pods: Vec<&Value> = workloads.map(|workload| &workload["spec"]["template"]["metadata"]["labels"]).collect();
        let distinct: BTreeSet<String> = pods.iter().map(ToString::to_string).collect();
        assert_eq!(distinct.len(), pods.len(), "two workloads would fight for the same containers");
        let services = overlay.kind("Service").into_iter().map(|service| &service["spec"]["selector"]);
        let policies =
            overlay.kind("NetworkPolicy").into_iter().map(|policy| &policy["spec"]["podSelector"]["matchLabels"]);
        let budgets = overlay.kind("PodDisruptionBudget").into_iter();
        let budgets = budgets.map(|budget| &budget["spec"]["selector"]["matchLabels"]);
        for selector in services.chain(policies).chain(budgets) {
            assert!(pods.iter().any(|labels| selects(selector, labels)), "{}: {selector} is nobody", overlay.name);
        }
        for scaler in overlay.kind("HorizontalPodAutoscaler") {
            let scaled = scaler["spec"]["scaleTargetRef"]["name"].as_str().unwrap();
            // Applying it again would undo what the autoscaler did.
            assert_eq!(overlay.one("Deployment", scaled)["spec"]["replicas"], Value::Null);
        }
    }
}

#[test]
fn the_database_is_within_reach_of_the_network_policies() {
    for overlay in OVERLAYS.map(Rendered::new) {
        let policy = overlay.one("NetworkPolicy", "baal-database");
        let open = policy["spec"]["egress"][0]["ports"].as_array().unwrap();
        let open: BTreeSet<u64> = open.iter().map(|port| port["port"].as_u64().unwrap()).collect();
        for deployment in overlay.kind("Deployment") {
            let config = overlay.config(deployment);
            for url in [Some(&config.database_url), config.database_direct_url.as_ref()].into_iter().flatten() {
                let url = reqwest::Url::parse(url.expose_secret()).unwrap();
                assert!(open.contains(&u64::from(url.port().unwrap_or(5432))), "{}: {open:?}", overlay.name);
                let is_encrypted = url.query().unwrap_or_default().contains("sslmode=verify-full");
                assert_eq!(is_encrypted, overlay.name != "single");
            }
        }
    }
}

#[test]
fn replicas_are_started_by_a_figure_that_there_is() {
    let production = Rendered::new("production");
    let scaler = &production.one("HorizontalPodAutoscaler", "baal")["spec"];
    assert_eq!((&scaler["minReplicas"], &scaler["maxReplicas"]), (&json!(3), &json!(10)));
    let metrics = scaler["metrics"].as_array().unwrap();
    let external = metrics.iter().find(|metric| metric["type"] == "External").unwrap();
    let name = external["external"]["metric"]["name"].as_str().unwrap();
    assert_eq!(external["external"]["target"]["type"], "Value", "it is the same with one replica and with ten");
    assert!(include_str!("../../src/eyes/names.rs").contains(&format!("\"{name}\"")), "there is no {name}");
    let adapter = include_str!("../../deploy/kubernetes/monitoring/prometheus-adapter.yaml");
    assert!(
        adapter.contains(&format!("seriesQuery: '{name}{{")) && adapter.contains("metricsQuery: 'max("),
        "{adapter}"
    );
}

#[test]
fn a_worker_differs_from_a_server_in_what_it_listens_to_alone() {
    let split = Rendered::new("split");
    let plain = |name: &str| {
        let mut pod = pod(split.one("Deployment", name)).clone();
        let constraints = pod["topologySpreadConstraints"].as_array_mut().unwrap();
        constraints.iter_mut().for_each(|constraint| drop(constraint["labelSelector"].take()));
        let container = pod["containers"][0].as_object_mut().unwrap();
        for part in ["args", "ports", "startupProbe", "livenessProbe", "readinessProbe", "lifecycle"] {
            container.remove(part);
        }
        pod
    };
    assert_eq!(plain("baal"), plain("baal-worker"));
    let arguments = |name: &str| pod(split.one("Deployment", name))["containers"][0]["args"].clone();
    assert_eq!((arguments("baal"), arguments("baal-worker")), (json!(["serve", "--no-worker"]), json!(["worker"])));
}
