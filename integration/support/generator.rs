//! A load generator as a process of its own. Its process id is known before it opens anything, because a configuration
//! or a cgroup may have to name it: it is a shell first, which becomes the generator when it is told to.
#![allow(dead_code, reason = "each of the programs that include this uses a part of it")]

use anyhow::{Context, ensure};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What a load generator reports.
#[derive(Clone, Debug, serde::Deserialize)]
pub(crate) struct Report {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    pub(crate) errors: u64,
    /// How long was counted.
    pub(crate) seconds: f64,
    pub(crate) latency_us: Latency,
}

/// How long its requests took, in microseconds.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
pub(crate) struct Latency {
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

/// One load generator.
pub(crate) struct Generator {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Generator {
    /// A process in a process group of its own that waits for [`Generator::open`]. `program` is the generator.
    pub(crate) fn spawn(program: &Path) -> anyhow::Result<Self> {
        // The arguments come in one line, so that the shell can become the generator with them.
        let script = r#"read -r args && eval exec "$0" $args"#;
        let mut child = Command::new("sh")
            .args(["-c", script])
            .arg(program)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a shell")?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("it is piped, and nobody else takes it"));
        Ok(Self { child, stdin, stdout })
    }

    /// Its process id, and that of its process group.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Becomes the generator and opens the file; `args` as on its command line.
    pub(crate) fn open(&mut self, file: &Path, args: &str) -> anyhow::Result<()> {
        self.say(&format!("--wait-stdin --file '{}' {args}", file.display()))?;
        let ready = self.hear()?;
        ensure!(ready.starts_with("ready"), "the load generator says {ready:?}");
        Ok(())
    }

    /// Starts the requests.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        self.say("go")
    }

    /// Ends the requests before their time.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        self.say("stop")
    }

    /// Whether its process has ended; then its report is there.
    pub(crate) fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait().context("cannot wait for the load generator")?.is_some())
    }

    /// Waits for the end and the report.
    pub(crate) fn report(&mut self) -> anyhow::Result<Report> {
        let line = self.hear()?;
        // JSON is YAML.
        serde_yaml::from_str(&line).with_context(|| format!("the load generator reports {line:?}"))
    }

    fn say(&mut self, line: &str) -> anyhow::Result<()> {
        let stdin = self.stdin.as_mut().expect("open until it is dropped");
        writeln!(stdin, "{line}").context("the load generator does not listen")
    }

    fn hear(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).context("the load generator does not speak")?;
        Ok(line)
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        // Without its standard input it ends, if it has not.
        self.stdin.take();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
