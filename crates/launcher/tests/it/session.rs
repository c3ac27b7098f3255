//! A workspace and a launcher for one test.

use baal_launcher::Root;
use baal_launcher::client::{CallError, Launcher, Session};
use baal_launcher::wire::{Ending, Exit, Failure};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub const CHAT: Root = Root::Chat([7; 16]);

pub struct Workspace {
    directory: TempDir,
}

/// A command's end and all that it printed.
#[derive(Debug)]
pub struct Ran {
    pub exit: Exit,
    pub output: String,
}

impl Workspace {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    /// What lies outside of the workspace, but in a directory of this test.
    pub fn outside(&self) -> &Path {
        self.directory.path()
    }

    pub fn base(&self) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join("workspace")
    }

    pub fn launcher(&self) -> Launcher {
        Launcher::Child { program: env!("CARGO_BIN_EXE_baal-tools").into(), workspace: self.base() }
    }

    /// A launcher whose workspace lies on a small disk of its own, where this user may make one.
    pub fn on_small_disk(&self) -> Option<Launcher> {
        let mine = ["/usr/bin/unshare", "-rm", "/bin/mount", "-t", "tmpfs", "none", "/mnt"];
        if !std::process::Command::new(mine[0]).args(&mine[1..]).status().is_ok_and(|status| status.success()) {
            return None;
        }
        std::fs::create_dir_all(self.base()).unwrap();
        let program = self.directory.path().join("on-small-disk");
        let script = format!(
            "#!/bin/sh\nexec /usr/bin/unshare -rm /bin/sh -c '/bin/mount -t tmpfs -o size=120m,nr_inodes=20000,mode=700 none \"$3\" && exec {} \"$@\"' sh \"$@\"\n",
            env!("CARGO_BIN_EXE_baal-tools")
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        Some(Launcher::Child { program, workspace: self.base() })
    }

    pub fn of(&self, root: Root) -> PathBuf {
        self.base().join(root.directory())
    }

    pub async fn open(&self, root: Root) -> Session {
        self.launcher().open(&root).await.unwrap()
    }
}

/// Runs a command to its end, with 20 s of time.
pub async fn run(session: &mut Session, command: &str) -> Ran {
    run_for(session, command, Duration::from_secs(20)).await
}

pub async fn run_for(session: &mut Session, command: &str, timeout: Duration) -> Ran {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(8);
    let stop = CancellationToken::new();
    let collect = async {
        let mut output = Vec::new();
        while let Some(piece) = receiver.recv().await {
            output.extend(piece);
        }
        String::from_utf8_lossy(&output).into_owned()
    };
    let (exit, output) = tokio::join!(session.bash(command, timeout, sender, &stop), collect);
    Ran { exit: exit.unwrap(), output }
}

/// Opens the owner's root of a new workspace and runs one command there.
pub async fn run_as_owner(command: &str) -> Ran {
    run(&mut Workspace::new().open(Root::Owner).await, command).await
}

impl Ran {
    pub fn code(&self) -> i32 {
        match self.exit.ending {
            Ending::Code(code) => code,
            other => panic!("{other:?}: {}", self.output),
        }
    }

    /// It printed just this and ended well.
    #[track_caller]
    pub fn says(&self, expected: &str) {
        assert_eq!((self.output.trim_end(), self.exit.ending), (expected, Ending::Code(0)));
    }

    /// It was ended, or failed, because a file would have become too large.
    #[track_caller]
    pub fn fails_by_size(&self) {
        // SIGXFSZ as the shell tells it, as itself, or the error that stands for it.
        let ended = matches!(self.exit.ending, Ending::Code(153 | 1) | Ending::Signal(25));
        assert!(ended, "{self:?}");
    }

    /// It failed and printed nothing secret.
    #[track_caller]
    pub fn fails(&self) {
        assert!(matches!(self.exit.ending, Ending::Code(1..)), "{self:?}");
        assert!(!self.output.contains("SECRET"), "{self:?}");
    }
}

/// The launcher's answer to the model.
#[track_caller]
pub fn failure<T: std::fmt::Debug>(result: Result<T, CallError>) -> Failure {
    match result.unwrap_err() {
        CallError::Failed(failure) => failure,
        CallError::Unavailable(e) => panic!("{e}"),
    }
}

/// Waits, for at most 10 s, until something is so.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..500 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

/// Is a process alive whose command line holds this? Zombies have none.
pub fn alive(mark: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let name = entry.file_name();
        let process = name.to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        let own = name.to_str() == Some(&std::process::id().to_string());
        process && !own && std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| contains(&line, mark))
    })
}

fn contains(line: &[u8], mark: &str) -> bool {
    line.windows(mark.len()).any(|window| window == mark.as_bytes())
}
