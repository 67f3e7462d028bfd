//! Processes that make requests. Their process ids are known before there is a mount, because a configuration may
//! name them: each is a shell first, which becomes the load generator when it is told to.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What a load generator reports.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Report {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    pub(crate) errors: u64,
    /// How long was counted.
    pub(crate) seconds: f64,
}

/// One load generator.
pub(crate) struct Load {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Load {
    /// A process in a process group of its own that waits for [`Load::open`].
    pub(crate) fn spawn() -> Self {
        // The arguments come in one line, so that the shell can become the generator with them.
        let script = r#"read -r args && eval exec "$0" $args"#;
        let mut child = Command::new("sh")
            .args(["-c", script])
            .arg(generator())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, stdin, stdout }
    }

    /// Its process id, and that of its process group.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Becomes the generator and opens the file; `args` as on its command line.
    pub(crate) fn open(&mut self, file: &Path, args: &str) {
        self.say(&format!("--wait-stdin --file '{}' {args}", file.display()));
        let ready = self.hear();
        assert!(ready.starts_with("ready"), "the generator says {ready:?}");
    }

    /// Starts the requests.
    pub(crate) fn start(&mut self) {
        self.say("go");
    }

    /// Ends the requests before their time.
    pub(crate) fn stop(&mut self) {
        self.say("stop");
    }

    /// Waits for the end and the report.
    pub(crate) fn report(&mut self) -> Report {
        let line = self.hear();
        // JSON is YAML.
        serde_yaml::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("open until the end");
        writeln!(stdin, "{line}").expect("the generator listens");
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the generator speaks");
        line
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Without its standard input it ends, if it has not.
        self.stdin.take();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `cargo test` builds the generator next to the program; a single test target on its own does not.
fn generator() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_ioband")).with_file_name("examples").join("load");
    assert!(path.exists(), "{} is missing: run `cargo build --example load` once", path.display());
    path
}
