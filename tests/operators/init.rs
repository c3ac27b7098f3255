//! `baal init` at a terminal.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use baal::config::{CloudKind, Config, TelegramMode};
use rexpect::reader::Options;
use rexpect::session::{PtySession, spawn_with_options};
use serde_json::Value;
use tempfile::TempDir;

const TOKEN: &str = "1000000001:right-token-right-token-right-1";
const KEY: &str = "sk-good-0123456789abcdef";
/// A well-known test key and its address.
const ACCOUNT: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
const ADDRESS: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
const ENTER: &str = "\r";
const CTRL_C: &str = "\u{3}";
/// Far more than anything takes, because test machines are busy.
const PATIENCE_MS: u64 = 60_000;

/// The far sides, and an empty directory to set up.
struct Place {
    dir: TempDir,
    environment: BTreeMap<String, String>,
    simulators: Child,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.simulators.kill(); // silent-ok: it may have ended
        let _ = self.simulators.wait(); // silent-ok: as above
    }
}

impl Place {
    fn new() -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_baal")).with_file_name("baal-simulators");
        let any = "127.0.0.1:0";
        let mut simulators = Command::new(&program)
            .args(["--telegram-listen", any, "--libertai-listen", any, "--aleph-listen", any, "--exit-on-stdin-eof"])
            .env("SIM_BOT_TOKEN", TOKEN)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{} ({error}): `cargo build --workspace --bins` first", program.display()));
        let mut ready = String::new();
        BufReader::new(simulators.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let ready: Value = serde_json::from_str(&ready).unwrap();
        let mut environment = BTreeMap::from([
            ("TELEGRAM_API_URL".to_owned(), ready["telegram"].as_str().unwrap().to_owned()),
            ("LIBERTAI_API_BASE_URL".to_owned(), format!("{}/v1", ready["libertai"].as_str().unwrap())),
        ]);
        for (name, value) in ready["aleph"]["env"].as_object().unwrap() {
            environment.insert(name.clone(), value.as_str().unwrap().to_owned());
        }
        Self { dir: tempfile::tempdir().unwrap(), environment, simulators }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap()
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.dir.path().join(name)).unwrap().permissions().mode() & 0o777
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn values(&self) -> BTreeMap<String, String> {
        dotenvy::from_path_iter(self.dir.path().join(".env")).unwrap().collect::<Result<_, _>>().unwrap()
    }

    /// What `baal serve` would load in the directory.
    fn config(&self) -> Config {
        Config::from_values(self.values(), vec![]).unwrap()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(&self.environment).env("TERM", "xterm").env("HOME", self.dir.path());
        command.env("PATH", std::env::var_os("PATH").unwrap()).current_dir(self.dir.path());
        command
    }

    /// Somebody who has begun `baal init`.
    fn begin(&self) -> Person {
        let mut command = self.command("sh");
        // A terminal as people have it shows what is typed, unless the program sees to it.
        let script = format!("stty echo; {} init; echo \"status $?\"; stty -a; echo done", env!("CARGO_BIN_EXE_baal"));
        command.args(["-c", &script]);
        let options = Options::new().timeout_ms(Some(PATIENCE_MS)).strip_ansi_escape_codes(true);
        Person { session: spawn_with_options(command, options).unwrap(), screen: String::new() }
    }
}

struct Person {
    session: PtySession,
    /// Everything that was to be seen.
    screen: String,
}

impl Person {
    /// Waits for words on the screen.
    #[track_caller]
    fn sees(&mut self, words: &str) -> &mut Self {
        match self.session.exp_string(words) {
            Ok(before) => self.screen.push_str(&format!("{before}{words}")),
            Err(error) => panic!("no `{words}` ({error}) after:\n{}", self.screen),
        }
        self
    }

    #[track_caller]
    fn types(&mut self, keys: &str) -> &mut Self {
        self.session.send(keys).unwrap();
        self.session.flush().unwrap();
        self
    }

    #[track_caller]
    fn answers(&mut self, question: &str, keys: &str) -> &mut Self {
        self.sees(question).types(keys)
    }

    /// The whole screen, once the program has ended with this status and the terminal is as it was.
    #[track_caller]
    fn ends(&mut self, status: u8) -> String {
        let from = self.screen.len();
        self.sees(&format!("status {status}")).sees("done");
        assert!(!self.screen[from..].contains("-echo "), "the terminal shows nothing any more:\n{}", self.screen);
        self.screen.clone()
    }
}

fn assert_not_shown(screen: &str, secrets: &[&str]) {
    for secret in secrets {
        assert!(!screen.contains(secret), "{secret} is on the screen:\n{screen}");
    }
}

#[test]
fn wrong_values_are_refused_as_they_are_given_and_the_right_ones_make_a_configuration_that_loads() {
    let place = Place::new();
    place.write("docker-compose.yml", "");
    let mut person = place.begin();
    person.answers("Baal runs", ENTER);
    person.answers("Token (not shown)", "hunter2\r").sees("This is not a bot token");
    person
        .answers("Token (not shown)", "1000000001:hunter2-hunter2-hunter2\r")
        .sees("Telegram does not know this token");
    person.answers("Token (not shown)", &format!("{TOKEN}\r")).sees("Telegram knows the bot as @baal_bot");
    person.answers("Domain, such as", "http://bot.example.org\r").sees("must begin with https");
    person.answers("Domain, such as", "localhost\r").sees("not on the internet").answers("Take it anyway?", "y\r");
    person.answers("Domain for administrators", ENTER);
    person.answers("Key (not shown)", "bad-hunter2-hunter2\r").sees("LibertAI does not know this key");
    person.answers("Key (not shown)", &format!("{KEY}\r")).sees("25.00 credits");
    person.answers("Agents run", ENTER);
    person.answers("Account (arrows", "j\r");
    person.answers("Private key (not shown)", "0xhunter2\r").sees("must be a private key");
    person.answers("Private key (not shown)", &format!("0x{ACCOUNT}\r")).sees(ADDRESS);
    person.answers("Key (arrows", ENTER).sees("A new ed25519 key");
    person.answers("Ids (", "me\r").sees("must be numbers").answers("Ids (", "12345678\r");
    person.answers("Change any of it?", ENTER).answers("Write it?", ENTER).sees("docker compose up -d");
    let screen = person.ends(0);

    let (config, values) = (place.config(), place.values());
    assert_eq!(config.public_url.as_deref(), Some("https://localhost"));
    assert_eq!((config.cloud, config.telegram_mode), (CloudKind::Aleph, TelegramMode::Webhook));
    assert_eq!(config.operator_ids, [12_345_678]);
    assert_eq!(
        (values["COMPOSE_PROFILES"].as_str(), values["DATABASE_URL"].as_str()),
        ("webhook", "postgres://baal@postgres/baal")
    );
    assert_eq!((place.mode(".env"), place.mode("secrets"), place.mode("secrets/ssh_key")), (0o600, 0o700, 0o600));
    assert_eq!(values["ALEPH_SSH_PRIVKEY_PATH"], "secrets/ssh_key");
    let public = Command::new("ssh-keygen").args(["-y", "-f"]).arg(place.dir.path().join("secrets/ssh_key")).output();
    assert!(String::from_utf8(public.unwrap().stdout).unwrap().starts_with("ssh-ed25519 "));
    assert!(place.read(".env").contains("# The bot's token, from @BotFather.\nTELEGRAM_BOT_TOKEN="));
    let made =
        ["BOT_ENCRYPTION_KEY", "TELEGRAM_WEBHOOK_SECRET", "ADMIN_TOKEN", "DATABASE_PASSWORD", "BACKUP_PASSPHRASE"];
    let made = made.map(|name| values[name].as_str());
    let ssh_key = place.read("secrets/ssh_key");
    assert_not_shown(&screen, &made);
    assert_not_shown(&screen, &[TOKEN, KEY, ACCOUNT, "hunter2", ssh_key.lines().nth(1).unwrap()]);

    // The second time everything is there.
    let before = place.read(".env");
    let mut person = place.begin();
    person.answers("Baal runs", ENTER).answers("(bot 1000000001)?", ENTER).answers("Domain, such as", ENTER);
    person.answers("Take it anyway?", "y\r").answers("Domain for administrators", ENTER).answers("cdef)?", ENTER);
    person
        .answers("Agents run", ENTER)
        .answers("(it is not shown)?", ENTER)
        .answers("Keep the key in secrets/ssh_key?", ENTER);
    person.answers("Ids (", ENTER).answers("Change any of it?", ENTER).sees("has all of this already");
    assert_not_shown(&person.ends(0), &made);
    assert_eq!(place.read(".env"), before);
    assert!(!place.names().contains(&".env.bak".to_owned()));
}

#[test]
fn a_file_that_is_there_keeps_what_is_not_asked_for_and_a_copy_of_it_stays() {
    let place = Place::new();
    let old = format!(
        "# my notes: don't touch\nMY_OWN=\"a b\" # mine\nTELEGRAM_BOT_TOKEN={TOKEN}\nexport LIBERTAI_API_KEY={KEY}\n\
         BOT_ENCRYPTION_KEY=cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=\nMAX_VMS=lots\nCLOUD=local\n\
         DATABASE_URL='postgres://me:hunter2@db/baal'\nPUBLIC_URL=https://old.example.org\n# the end"
    );
    place.write(".env", &old);
    fs::set_permissions(place.dir.path().join(".env"), fs::Permissions::from_mode(0o644)).unwrap();
    let mut person = place.begin();
    person.sees("What the file has must be a number").answers("MAX_VMS", "7\r");
    person.answers("Baal runs", ENTER).answers("(it is not shown)?", ENTER);
    person.answers("(bot 1000000001)?", ENTER).sees("knows the bot as @baal_bot");
    person.answers("Domain, such as", "none\r");
    person.answers("cdef)?", ENTER).sees("25.00 credits");
    // The third: Aleph, hosts, local. One up from it is the second, and one more the first.
    person.answers("Agents run", "kk\r").answers("Account (arrows", ENTER).sees("A new account: 0x");
    person.answers("Key (arrows", ENTER).answers("Ids (", ENTER);
    person.answers("Change any of it?", ENTER).answers("Write it?", ENTER).sees("Send credits to 0x");
    let screen = person.ends(0);

    let (config, text) = (place.config(), place.read(".env"));
    assert_eq!((config.max_vms, config.cloud, config.telegram_mode), (7, CloudKind::Aleph, TelegramMode::Polling));
    assert_eq!(config.public_url, None);
    let kept = old.replace("MAX_VMS=lots", "MAX_VMS=7").replace("CLOUD=local", "CLOUD=aleph");
    let kept = kept.replace("PUBLIC_URL=", "# PUBLIC_URL=");
    assert!(text.starts_with(&kept), "{text}");
    assert_eq!(place.read(".env.bak"), old);
    assert_eq!((place.mode(".env"), place.mode(".env.bak")), (0o600, 0o600));
    let values = place.values();
    assert_not_shown(
        &screen,
        &["hunter2", TOKEN, KEY, "cw_0x689RpI", &values["ALEPH_PRIVATE_KEY"], &values["ADMIN_TOKEN"]],
    );
}

#[test]
fn ctrl_c_at_any_question_leaves_everything_as_it_was() {
    let place = Place::new();
    let old = format!("TELEGRAM_BOT_TOKEN={TOKEN}\n# mine\nCLOUD=hosts\n");
    place.write(".env", &old);
    place.write("docker-compose.yml", "");
    let steps = [
        ("Baal runs", ENTER),
        ("(bot 1000000001)?", ENTER),
        ("Domain, such as", ENTER),
        ("Key (not shown)", "sk-good-0123456789abcdef\r"),
        ("Agents run", ENTER),
        ("Key (arrows", ENTER),
        ("Ids (", ENTER),
        ("Change any of it?", ENTER),
        ("Write it?", "n\r"),
    ];
    for stop in 0..=steps.len() {
        let mut person = place.begin();
        for (index, (question, answer)) in steps.iter().enumerate().take(stop + 1) {
            person.answers(question, if index == stop { CTRL_C } else { answer });
        }
        person.sees(if stop < steps.len() { "stopped; nothing was written" } else { "nothing was written" });
        person.ends(1);
        assert_eq!(place.names(), [".env", "docker-compose.yml"], "after {stop} answers");
        assert_eq!(place.read(".env"), old);
    }
}

#[test]
fn without_a_terminal_it_says_what_to_do_instead() {
    let place = Place::new();
    let output = place.command(env!("CARGO_BIN_EXE_baal")).arg("init").stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains(".env.example") && said.contains("baal keygen"), "{said}");
    assert_eq!(place.names(), Vec::<String>::new());
}
