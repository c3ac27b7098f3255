//! Commands: what is sent to a machine's shell, and what is kept of the answer. Nothing here connects.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use crate::telemetry::is_unprintable;

/// How much of a command's standard output is kept, bytes.
pub(super) const STDOUT_LIMIT: usize = 1 << 20;
/// How much of a command's standard error is kept, bytes, from its end.
pub(super) const STDERR_LIMIT: usize = 64 << 10;
/// How much of standard error goes into an error's text, bytes, from its end.
const COMPLAINT_LIMIT: usize = 2 << 10;
/// Words at least this long that were sent are not repeated in an error: keys and tokens are longer.
const SECRET_LENGTH: usize = 12;

/// Runs a script (`$2`) with a deadline in seconds (`$1`) and ends whatever it leaves running.
///
/// `timeout` reaches the script's process group. Children that made themselves a session of their own are found by a mark in
/// the environment they inherited. systemd-run would find them too, at several times the cost and only once the machine's
/// first boot has come far enough. Input that the script did not read is read away: the SSH library waits for ever with data
/// that nobody takes, whatever else arrives. Services that a script starts through systemd do not inherit the mark and stay.
const SUPERVISOR: &str = r#"mark="BAAL_COMMAND=$(</proc/sys/kernel/random/uuid)"
env LC_ALL=C.UTF-8 "$mark" timeout -k 2 "$1" bash --norc -c "$2"
status=$?
timeout 2 cat >/dev/null
for round in {1..20}; do
  left=$(grep -lsF -- "$mark" /proc/[0-9]*/environ)
  [ -n "$left" ] || break
  for file in $left; do file=${file%/environ}; kill -KILL "${file#/proc/}" 2>/dev/null; done
  sleep 0.05
done
exit $status"#;

/// A command: a fixed text (no user's words), what goes to its standard input, and how long it may take. `Debug` shows what it
/// is, not what is in it.
#[derive(Clone)]
pub struct Command {
    /// What it is, in words, for errors and logs.
    pub what: &'static str,
    /// Shell text, run by `bash` as root on the machine: at most 100 kB, and visible in its list of processes. What it leaves
    /// running is ended, except for services.
    pub script: String,
    /// Its standard input. To the script a broken connection looks like its end, so what must be whole is compared (length or
    /// checksum) before it is put in its place.
    pub input: Vec<u8>,
    /// Its deadline, kept on both sides.
    pub limit: Duration,
    /// Words that an error must not repeat, even where they are in the input in another form, such as compressed.
    pub secrets: Vec<SecretString>,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("what", &self.what)
            .field("input_bytes", &self.input.len())
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl Command {
    /// The line for the login shell of the machine.
    pub(super) fn line(&self) -> String {
        // `timeout` takes 0 for no deadline at all.
        let seconds = self.limit.as_secs_f64().max(0.001);
        format!("exec bash --norc -c {} baal {seconds:.3} {}", quoted(SUPERVISOR), quoted(&self.script))
    }
}

/// One word of POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What a command printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Standard output, at most 1 MiB of it.
    pub stdout: String,
    /// Standard error, at most 64 KiB from its end.
    pub stderr: String,
}

/// What is kept of an answer while it arrives.
#[derive(Default)]
pub(super) struct Received {
    stdout: Vec<u8>,
    stderr: VecDeque<u8>,
}

impl Received {
    pub(super) fn stdout(&mut self, data: &[u8]) {
        let room = STDOUT_LIMIT - self.stdout.len();
        self.stdout.extend_from_slice(&data[..data.len().min(room)]);
    }

    pub(super) fn stderr(&mut self, data: &[u8]) {
        self.stderr.extend(data);
        let surplus = self.stderr.len().saturating_sub(STDERR_LIMIT);
        self.stderr.drain(..surplus);
    }

    /// As text. What is not UTF-8 becomes U+FFFD, which is longer than what it replaces, so it is cut once more.
    pub(super) fn into_output(mut self) -> Output {
        let mut stdout = String::from_utf8_lossy(&self.stdout).into_owned();
        stdout.truncate(stdout.floor_char_boundary(STDOUT_LIMIT));
        let stderr = String::from_utf8_lossy(self.stderr.make_contiguous());
        Output { stdout, stderr: end_of(&stderr, STDERR_LIMIT).to_owned() }
    }
}

/// The end of what a failed command printed to standard error, for an error's text: one or a few lines without control
/// characters, and without longer words of what was sent to it, which may be secret, and the secrets that it names.
pub(super) fn complaint(stderr: &str, command: &Command) -> String {
    let input = String::from_utf8_lossy(&command.input);
    let separates = |letter: char| letter.is_whitespace() || "\"'`,;:=()<>[]{}".contains(letter);
    let mut clean: String = stderr
        .trim()
        .chars()
        .map(|letter| if is_unprintable(letter) && letter != '\n' { ' ' } else { letter })
        .collect();
    // Before anything is cut: half a secret would not be found. What was received may begin with such a half.
    let mut longest = 0;
    for secret in command.secrets.iter().map(|secret| secret.expose_secret()).filter(|secret| !secret.is_empty()) {
        clean = clean.replace(secret, "[…]");
        longest = longest.max(secret.len());
    }
    let cut = if stderr.len() + 4 > STDERR_LIMIT { longest } else { 0 };
    let clean = &clean[clean.ceil_char_boundary(cut.min(clean.len()))..];
    let redacted: String = clean
        .split_inclusive(separates)
        .map(|piece| {
            let word = piece.trim_end_matches(separates);
            if word.len() >= SECRET_LENGTH && input.contains(word) {
                format!("[…]{}", &piece[word.len()..])
            } else {
                piece.to_owned()
            }
        })
        .collect();
    end_of(&redacted, COMPLAINT_LIMIT).to_owned()
}

fn end_of(text: &str, limit: usize) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(limit))..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_one_word_whatever_is_in_it() {
        let command = Command {
            what: "a test",
            script: "echo 'a'; echo \"$HOME\"\n".into(),
            input: b"secret".to_vec(),
            limit: Duration::from_millis(1_500),
            secrets: vec!["hidden".into()],
        };
        assert!(command.line().ends_with(" baal 1.500 'echo '\\''a'\\''; echo \"$HOME\"\n'"), "{}", command.line());
        assert!(command.line().starts_with("exec bash --norc -c 'mark="));
        assert!(!command.line().contains("secret"));
        assert_eq!(format!("{command:?}"), "Command { what: \"a test\", input_bytes: 6, limit: 1.5s, .. }");
    }

    #[test]
    fn no_time_at_all_is_not_taken_for_no_deadline() {
        let command =
            Command { what: "", script: "true".into(), input: vec![], limit: Duration::ZERO, secrets: vec![] };
        assert!(command.line().ends_with(" baal 0.001 'true'"));
    }

    #[test]
    fn of_output_the_beginning_is_kept_and_of_complaints_the_end() {
        let mut received = Received::default();
        for _ in 0..100 {
            received.stdout("ä".repeat(10_000).as_bytes());
            received.stderr("ö".repeat(10_000).as_bytes());
        }
        received.stdout(b"late");
        received.stderr(b"!the end");
        let output = received.into_output();
        assert_eq!(output.stdout.len(), STDOUT_LIMIT);
        assert!(output.stdout.chars().all(|letter| letter == 'ä'));
        assert!(output.stderr.len() <= STDERR_LIMIT && output.stderr.len() > STDERR_LIMIT - 8);
        assert!(output.stderr.ends_with("ö!the end"));
        let mut binary = Received::default();
        binary.stdout(&vec![0xff; STDOUT_LIMIT]);
        binary.stderr(&vec![0xff; STDERR_LIMIT]);
        let output = binary.into_output();
        assert!(output.stdout.len() <= STDOUT_LIMIT && output.stderr.len() <= STDERR_LIMIT);
    }

    #[test]
    fn an_error_repeats_neither_long_words_that_were_sent_nor_control_characters() {
        let input = b"{\"key\":\"sk-0123456789abcdef\",\"port\":8080}";
        let sent = |input: &[u8], secrets: &[&str]| Command {
            what: "",
            script: String::new(),
            input: input.to_vec(),
            limit: Duration::ZERO,
            secrets: secrets.iter().map(|secret| (*secret).into()).collect(),
        };
        let input = sent(input, &[]);
        let complaint =
            complaint("x\u{1b}[31m: bad value: \"sk-0123456789abcdef\" (port 8080)\n/etc/a: denied\n", &input);
        assert_eq!(complaint, "x [31m: bad value: \"[…]\" (port 8080)\n/etc/a: denied");
        let nothing = sent(b"", &[]);
        assert!(super::complaint(&"long ".repeat(10_000), &nothing).len() <= COMPLAINT_LIMIT);
        // Whatever else was said, and wherever that is cut, nothing of a secret is left: not of one in a compressed input, nor
        // of one that would be cut in half.
        let secret = "s3cr3t-0123456789abcdef";
        let secretive = sent(b"\x1f\x8b", &[secret, ""]);
        for length in (0..4_000).step_by(7).chain(STDERR_LIMIT - 40..STDERR_LIMIT + 40) {
            let said = format!("{secret}{secret}{}", "x".repeat(length));
            let output = {
                let mut received = Received::default();
                received.stderr(said.as_bytes());
                received.into_output()
            };
            let told = super::complaint(&output.stderr, &secretive);
            assert!(told.len() <= COMPLAINT_LIMIT);
            for part in ["s3cr", "6789", "cdef"] {
                assert!(!told.contains(part), "{length}: {told}");
            }
        }
        // Many of them shrink to little, of which the first is half a one.
        let long = "0123456789".repeat(21) + "z";
        let mut received = Received::default();
        received.stderr(long.repeat(400).as_bytes());
        let told = super::complaint(&received.into_output().stderr, &sent(b"", &[&long]));
        assert!(told.len() < COMPLAINT_LIMIT && !told.contains("789"), "{told}");
    }
}
